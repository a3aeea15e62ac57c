//! Parts of a page with charts. The page is a single file and needs no network.
//!
//! Every chart is an inline SVG that is drawn here. Without script, on paper or in a text browser
//! nothing is lost: each chart has a title, a description and a table of its values. The script in
//! the file adds values under the pointer, zoom, and a switch for each series. The page's own
//! policy forbids everything else.
//!
//! Files may come from anywhere: all text in them is escaped, and every number is finite before it
//! becomes a place in a drawing.

pub(crate) mod environment;
pub(crate) mod figure;
pub(crate) mod lines;
mod page;
pub(crate) mod rows;
pub(crate) mod scale;
pub(crate) mod spectrum;
pub(crate) mod table;
pub(crate) mod unit;

pub use page::Page;

use crate::text;

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
