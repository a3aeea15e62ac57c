//! Text of unknown origin between tags and in attributes.

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
