//! Several documents as one text or one page.

use std::collections::BTreeMap;

use crate::documents::run;
use crate::environment::circumstances::git;
use crate::html::environment::{self, Origin};
use crate::html::table::Table;
use crate::html::{Page, escape};
use crate::text::printable;
use crate::{Document, Record, Stored};

/// Returns the documents as text, each with the name of its file: two or more runs side by side in
/// one table, all others one after the other.
pub fn text(documents: &[(String, Stored)]) -> String {
    let runs = runs(documents);
    let mut sections = Vec::new();
    if runs.len() > 1 {
        sections.push((format!("{} runs", runs.len()), run::table::table(&runs)));
    }
    for (name, document) in documents {
        if runs.len() < 2 || !matches!(document, Stored::Run(_)) {
            sections.push((printable(name), document.text()));
        }
    }
    match sections.as_slice() {
        [(_, text)] => text.clone(),
        _ => sections.iter().map(|(name, text)| format!("# {name}\n\n{text}\n")).collect(),
    }
}

/// Returns the page of any documents, each with the name of its file.
///
/// Runs are shown side by side, every other document in a section of its own. The last section
/// shows the machines.
pub fn page(documents: &[(String, Stored)]) -> String {
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

/// The runs among the documents.
fn runs(documents: &[(String, Stored)]) -> Vec<(&str, &Record)> {
    let mut runs = Vec::new();
    for (name, document) in documents {
        if let Stored::Run(run) = document {
            runs.push((name.as_str(), &**run));
        }
    }
    runs
}
