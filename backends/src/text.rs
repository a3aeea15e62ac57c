//! Showing a peer's bytes on a person's terminal.

use std::fmt::Write;

/// The bytes as one line of text, [`escaped`]; one line ending at the end is left out.
pub(crate) fn printable(bytes: &[u8]) -> String {
    escaped(trim_line_ending(bytes))
}

/// The bytes as text: UTF-8 as it is, but what is not UTF-8, and every control character,
/// escaped. A peer can thus neither break the line nor drive the terminal.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() || is_directional(char) {
                text.extend(char.escape_default());
            } else {
                text.push(char);
            }
        }
        for byte in chunk.invalid() {
            let _infallible = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The bytes without one `\n` or `\r\n` at the end: what a person meant to say.
pub(crate) fn trim_line_ending(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// The characters that reorder the text around them (Unicode Standard Annex 9).
fn is_directional(char: char) -> bool {
    matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The longest part of `text`, from its start, that is at most `limit` bytes and ends between
/// two characters.
pub(crate) fn prefix(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_and_the_rest_is_escaped() {
        assert_eq!(printable("小文说 hi".as_bytes()), "小文说 hi");
        assert_eq!(printable(b"a\xff\xfeb\xe5\xb0"), "a\\xff\\xfeb\\xe5\\xb0");
        assert_eq!(printable(b"\x1b[2Jone\ntwo\r\n"), "\\u{1b}[2Jone\\ntwo");
        assert_eq!(printable("\u{202e}evil".as_bytes()), "\\u{202e}evil");
        assert_eq!(printable(b"\n\n"), "\\n");
    }

    #[test]
    fn a_prefix_ends_between_characters() {
        assert_eq!(prefix("小文", 5), "小");
        assert_eq!(prefix("小文", 6), "小文");
        assert_eq!(prefix("ab", 99), "ab");
        assert_eq!(prefix("小", 2), "");
    }
}
