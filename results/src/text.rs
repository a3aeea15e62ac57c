//! Fitting text of unknown origin into lines, and words that several texts have.

use crate::format;

/// Columns of a terminal that every text fits.
pub(crate) const COLUMNS: usize = 100;

/// Replaces control characters: a record may come from anywhere, and its text must not be able to
/// move the cursor of the terminal it is shown on.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Cuts `text` to `width` characters at the front, where a path says the least: `...mio-1000x64`.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(3);
    let start = text.char_indices().nth(length - kept).map_or(text.len(), |(index, _)| index);
    format!("...{}", &text[start..])
}

/// Breaks `text` between words into lines of at most `width` characters, all but the first
/// indented. A word longer than that is cut.
pub fn wrap(text: &str, width: usize, indent: usize) -> String {
    let (mut wrapped, mut column) = (String::new(), 0);
    for (index, word) in text.split(' ').enumerate() {
        let mut word: Vec<char> = word.chars().collect();
        if column > indent && column + 1 + word.len() > width {
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            column = indent;
        } else if index > 0 {
            wrapped.push(' ');
            column += 1;
        }
        while column + word.len() > width {
            let rest = word.split_off(width - column);
            wrapped.extend(word);
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            (word, column) = (rest, indent);
        }
        column += word.len();
        wrapped.extend(word);
    }
    wrapped
}

/// How a server waits, if it polls before it sleeps: `, polling for 50.0us`.
pub fn polling(spin_ns: Option<u64>) -> String {
    spin_ns.map_or_else(String::new, |ns| format!(", polling for {}", format::duration(ns)))
}

#[cfg(test)]
mod tests {
    use super::{printable, shorten, wrap};

    #[test]
    fn escape_sequences_lose_their_power() {
        assert_eq!(printable("\x1b[31mred\r\n\u{9b}é"), "?[31mred???é");
    }

    #[test]
    fn the_end_of_a_name_is_kept() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("results/runs/mio.json", 11), "...mio.json");
        assert_eq!(shorten("éééééé", 5), "...éé");
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("one two three", 20, 2), "one two three");
        assert_eq!(wrap("one two three", 8, 2), "one two\n  three");
        assert_eq!(wrap("one two", 7, 2), "one two");
        assert_eq!(wrap("  a bb", 4, 2), "  a\n  bb");
    }

    #[test]
    fn a_word_too_long_is_cut() {
        assert_eq!(wrap("abcdefgh i", 4, 1), "abcd\n efg\n h i");
        let text = wrap(&"x".repeat(1000), 100, 8);
        assert!(text.lines().all(|line| line.chars().count() <= 100));
        assert_eq!(text.matches('x').count(), 1000);
    }
}
