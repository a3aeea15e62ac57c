//! Text on a terminal: prompts, and bytes from the network made printable.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::mem;

use crate::output::{Stream, print};

/// Prints a prompt on standard output if standard input is a terminal.
pub(crate) fn prompt() {
    if io::stdin().is_terminal() {
        let _closed_pipe = print(Stream::Out, || "> ".to_owned());
    }
}

/// Returns the bytes as one line of text, [`escaped`], without the line ending at the end.
pub(crate) fn printable(bytes: &[u8]) -> String {
    escaped(trim_line_ending(bytes))
}

/// Text that is received in pieces. A character that recv(2) has cut in two is shown with the piece
/// that completes it.
#[derive(Default)]
pub(crate) struct Pieces {
    /// The beginning of a character at the end of the last piece.
    cut: Vec<u8>,
}

impl Pieces {
    /// Returns the next piece as one line, [`printable`]; none if all of it is the beginning of a
    /// character.
    pub(crate) fn next(&mut self, piece: &[u8]) -> Option<String> {
        let mut bytes = mem::take(&mut self.cut);
        bytes.extend_from_slice(piece);
        let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
        let is_cut = str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
        if is_cut {
            self.cut = bytes.split_off(bytes.len() - last.len());
        }
        (!is_cut || !bytes.is_empty()).then(|| printable(&bytes))
    }

    /// Returns the beginning of a character that was not completed.
    pub(crate) fn rest(&mut self) -> Option<String> {
        let cut = mem::take(&mut self.cut);
        (!cut.is_empty()).then(|| printable(&cut))
    }
}

/// Returns the bytes as text. Invalid UTF-8 and [hidden](is_hidden) characters are escaped: a peer
/// can neither break the line nor control the terminal, nor hide or reorder text.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if is_hidden(char) {
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

/// Returns the bytes without one `\n` or `\r\n` at the end.
pub(crate) fn trim_line_ending(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// True for characters that cannot be seen: controls and formats, among them those that reorder
/// text, separators, spaces of other widths than U+0020 and U+3000, private and unassigned
/// characters (categories C and Z). Beside them, ignorable characters of other categories
/// (`Default_Ignorable_Code_Point`, DerivedCoreProperties.txt) and the empty Braille pattern.
fn is_hidden(char: char) -> bool {
    match char {
        '\u{20}'..='\u{7e}' | '\u{3000}' => false,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' => true,
        '\u{180b}'..='\u{180f}' | '\u{2800}' | '\u{3164}' => true,
        '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}' => true,
        _ => is_escaped_by_std(char),
    }
}

/// True if std's `Debug` of a string escapes the character: it does that with those of the
/// categories C and Z, and knows the categories of all characters
/// (library/core/src/unicode/printable.py). A combining character is escaped at the beginning only.
fn is_escaped_by_std(char: char) -> bool {
    let mut text = [b'x'; 5];
    let length = char.encode_utf8(&mut text[1..]).len();
    let text = str::from_utf8(&text[..=length]).expect("an x and a character");
    text.escape_debug().nth(1) == Some('\\')
}

/// Returns the longest prefix of `text` of at most `limit` bytes that ends between two characters.
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
    fn printable_keeps_text_and_escapes_the_rest() {
        assert_eq!(printable("小文说 hi".as_bytes()), "小文说 hi");
        assert_eq!(printable(b"a\xff\xfeb\xe5\xb0"), "a\\xff\\xfeb\\xe5\\xb0");
        assert_eq!(printable(b"\x1b[2Jone\ntwo\r\n"), "\\u{1b}[2Jone\\ntwo");
        assert_eq!(printable("\u{202e}evil".as_bytes()), "\\u{202e}evil");
        assert_eq!(printable("\"'\\ e\u{301}".as_bytes()), "\"'\\ e\u{301}");
        assert_eq!(printable(b"\n\n"), "\\n");
    }

    /// Ranges of UnicodeData.txt (categories Cc, Cf, Co, Zl, Zp), DerivedCoreProperties.txt
    /// (ignorable), PropList.txt (Bidi_Control) and noncharacters.
    #[test]
    fn hidden_characters_are_escaped_and_letters_are_not() {
        let hidden = [
            0x0..=0x1f,
            0x7f..=0xa0,
            0xad..=0xad,
            0x34f..=0x34f,
            0x600..=0x605,
            0x61c..=0x61c,
            0x6dd..=0x6dd,
            0x70f..=0x70f,
            0x890..=0x891,
            0x8e2..=0x8e2,
            0x115f..=0x1160,
            0x1680..=0x1680,
            0x17b4..=0x17b5,
            0x180b..=0x180f,
            0x2000..=0x200f,
            0x2028..=0x202f,
            0x205f..=0x206f,
            0x2800..=0x2800,
            0x3164..=0x3164,
            0xe000..=0xf8ff,
            0xfdd0..=0xfdef,
            0xfe00..=0xfe0f,
            0xfeff..=0xfeff,
            0xffa0..=0xffa0,
            0xfff0..=0xfffb,
            0xfffe..=0xffff,
            0x110bd..=0x110bd,
            0x110cd..=0x110cd,
            0x13430..=0x1343f,
            0x1bca0..=0x1bca3,
            0x1d173..=0x1d17a,
            0x1fffe..=0x1ffff,
            0xe0000..=0xe0fff,
            0xf0000..=0x10_ffff,
        ];
        let hidden: Vec<char> = hidden.into_iter().flatten().filter_map(char::from_u32).collect();
        for char in '\0'..=char::MAX {
            let shown = escaped(char.to_string().as_bytes());
            let is_escaped = shown != char.to_string();
            assert!(!is_escaped || shown == char.escape_default().to_string(), "{shown}");
            let is_filler = matches!(char as u32, 0x115f..=0x1160 | 0x3164 | 0xffa0);
            if hidden.binary_search(&char).is_ok() {
                assert!(is_escaped, "U+{:x} is shown", char as u32);
            } else if char.is_alphanumeric() && !is_filler {
                assert!(!is_escaped, "U+{:x} is escaped", char as u32);
            }
        }
    }

    #[test]
    fn text_in_pieces_is_shown_whole() {
        let text = "a小文b\u{1f600}c\n".as_bytes();
        for size in 1..=text.len() {
            let mut pieces = Pieces::default();
            let lines = text.chunks(size).filter_map(|piece| pieces.next(piece));
            assert_eq!(lines.collect::<String>(), "a小文b\u{1f600}c", "{size} bytes at a time");
            assert_eq!(pieces.rest(), None);
        }
    }

    #[test]
    fn character_that_is_not_completed_is_escaped() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.next(b"\xff\xe5"), Some("\\xff".to_owned()));
        assert_eq!(pieces.next(b"\xb0"), None);
        assert_eq!(pieces.next(b"x"), Some("\\xe5\\xb0x".to_owned()));
        assert_eq!(pieces.next(b"\n"), Some(String::new()));
        assert_eq!(
            (pieces.next(b"\xf0\x9f"), pieces.rest()),
            (None, Some("\\xf0\\x9f".to_owned()))
        );
    }

    #[test]
    fn prefix_ends_between_characters() {
        assert_eq!(prefix("小文", 5), "小");
        assert_eq!(prefix("小文", 6), "小文");
        assert_eq!(prefix("ab", 99), "ab");
        assert_eq!(prefix("小", 2), "");
    }
}
