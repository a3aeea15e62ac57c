//! Documents as one HTML page with charts. The page is a single file and needs no network.
//!
//! Every chart is an inline SVG that is drawn here. Without script, on paper or in a text browser
//! nothing is lost: each chart has a title, a description and a table of its values. The script in
//! the file adds values under the pointer, zoom, and a switch for each series. The page's own
//! policy forbids everything else.
//!
//! Files may come from anywhere: all text in them is escaped, and every number is finite before it
//! becomes a place in a drawing.

mod environment;
pub(crate) mod figure;
pub(crate) mod lines;
mod page;
pub(crate) mod rows;
pub(crate) mod scale;
pub(crate) mod spectrum;
pub(crate) mod table;
pub(crate) mod unit;

pub use page::Page;

use std::collections::BTreeMap;

use self::environment::Origin;
use self::table::Table;
use crate::documents::{run, runs};
use crate::environment::circumstances::git;
use crate::{Document, Stored, text};

/// Returns the page of any documents, each with the name of its file.
///
/// Runs are shown side by side, every other document in a section of its own. The last section
/// shows the machines.
pub fn report(documents: &[(String, Stored)]) -> String {
    let mut page = Page::default();
    let title = match documents {
        [(_, document)] => document.title(),
        _ => counts(documents),
    };
    page.push("<header><p class=\"brand\">Lockstep</p>");
    page.push(&format!("<h1>{}</h1></header>", escape(&title)));
    for (index, (name, document)) in documents.iter().enumerate() {
        if !matches!(document, Stored::Run(_)) {
            section(&mut page, name, &**document, index, documents.len() == 1);
        }
    }
    let runs = runs(documents);
    if !runs.is_empty() {
        run::page::section(&mut page, &runs, runs.len() == documents.len());
    }
    let origin = |(name, document): &(String, Stored)| Origin {
        name: name.rsplit('/').next().unwrap_or(name).to_owned(),
        kind: document.header().kind.clone(),
        circumstances: document.circumstances(),
    };
    environment::section(&mut page, &documents.iter().map(origin).collect::<Vec<_>>());
    page.push("<footer>");
    page.paragraph("note", &format!("Drawn by lockstep-results {}", env!("CARGO_PKG_VERSION")));
    page.push("</footer>");
    page.finish(&title)
}

/// `1 comparison, 2 runs`.
fn counts(documents: &[(String, Stored)]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, document) in documents {
        *counts.entry(&document.header().kind).or_default() += 1;
    }
    let shown = counts.iter().map(|(kind, count)| match count {
        1 => format!("1 {kind}"),
        _ => format!("{count} {kind}s"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Adds a document; alone, the page's heading is its own.
fn section(page: &mut Page, file: &str, document: &dyn Document, index: usize, alone: bool) {
    let (header, id) = (document.header(), format!("document-{}", index + 1));
    page.push(&format!("<section class=\"document\" id=\"{id}\">"));
    page.paragraph("eyebrow", format!("{} {}", header.kind, header.started).trim_end());
    if !alone {
        page.push(&format!("<h2>{}</h2>", escape(&document.title())));
    }
    document.draw(page, &id);
    let mut made = Table::default();
    made.row(["command line".into(), header.argv.join(" ")]);
    if let Some(seed) = header.seed {
        made.row(["seed".into(), seed.to_string()]);
    }
    made.row(["program".into(), header.program()]);
    made.row(["git".into(), git(&document.environment().build).unwrap_or("-".into())]);
    made.row(["file".into(), file.into()]);
    page.push(&made.behind("How it was made"));
    page.push("</section>");
}

/// Escapes `text` for use between tags and in a quoted attribute.
///
/// Names, command lines, paths and errors come from files of unknown origin.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text::printable(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Marks that reverse the text around them could make one name look like another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('?'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn escaped_text_opens_no_tag_and_ends_no_attribute() {
        assert_eq!(escape("<script>'\"&]]>"), "&lt;script&gt;&#39;&quot;&amp;]]&gt;");
        assert_eq!(escape("a\0b\nc\u{202e}d"), "a?b?c?d");
        assert_eq!(escape("plain é"), "plain é");
    }
}
