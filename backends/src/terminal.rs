//! Text on a terminal: notes, prompts, and bytes from the network made printable.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Prints a line on standard error. Unlike `eprintln!`, it does not panic if the pipe is closed.
pub(crate) fn print_line(line: &str) {
    let _closed_pipe = writeln!(io::stderr(), "{line}");
}

/// Prints a prompt on standard output if standard input is a terminal.
pub(crate) fn prompt() {
    if io::stdin().is_terminal() {
        let mut stdout = io::stdout();
        let _closed_pipe = write!(stdout, "> ").and_then(|()| stdout.flush());
    }
}

/// Returns the bytes as one line of text, [`escaped`], without the line ending at the end.
pub(crate) fn printable(bytes: &[u8]) -> String {
    escaped(trim_line_ending(bytes))
}

/// Returns the bytes as text. Invalid UTF-8, control characters and characters that reorder text
/// are escaped: a peer can neither break the line nor control the terminal.
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

/// Returns the bytes without one `\n` or `\r\n` at the end.
pub(crate) fn trim_line_ending(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// True for the characters that reorder the text around them (Unicode Standard Annex 9).
fn is_directional(char: char) -> bool {
    matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
        assert_eq!(printable(b"\n\n"), "\\n");
    }

    #[test]
    fn prefix_ends_between_characters() {
        assert_eq!(prefix("小文", 5), "小");
        assert_eq!(prefix("小文", 6), "小文");
        assert_eq!(prefix("ab", 99), "ab");
        assert_eq!(prefix("小", 2), "");
    }
}
