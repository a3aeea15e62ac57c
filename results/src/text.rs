//! Text for a terminal: lines, tables, and words that several texts share.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use textwrap::{Options, WordSeparator, WordSplitter};

use crate::format;

/// Columns of a terminal that every text fits.
pub(crate) const COLUMNS: usize = 80;

/// Replaces control characters: a file may come from anywhere, and its text must not move the
/// cursor of the terminal it is shown on.
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
/// indented. An interval such as `0.87x [0.84, 0.90]` stays on one line, as does `4 %`.
pub fn wrap(text: &str, width: usize, indent: usize) -> String {
    const GLUE: char = '\u{a0}';
    const LONGEST: usize = 24;
    let indent = " ".repeat(indent);
    let options = Options::new(width)
        .subsequent_indent(&indent)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    let mut glued = String::with_capacity(text.len());
    let mut in_interval = false;
    for (index, character) in text.char_indices() {
        let rest = text[index + character.len_utf8()..].trim_start_matches(' ');
        let closes = || rest.chars().take(LONGEST).any(|character| character == ']');
        in_interval = character == '[' && closes() || in_interval && character != ']';
        let before_interval = rest.starts_with('[') && glued.ends_with('x');
        let joins = in_interval || before_interval || rest.starts_with('%');
        glued.push(if character == ' ' && joins { GLUE } else { character });
    }
    textwrap::fill(&glued, options).replace(GLUE, " ")
}

/// [`wrap`] for a sentence of unknown origin: printable, and its further lines indented.
pub(crate) fn line(sentence: &str) -> String {
    wrap(&printable(sentence), COLUMNS, 4)
}

/// A Markdown table without its last newline. The first `names` columns are left-aligned, all
/// others right-aligned.
///
/// It fits the terminal unless a cell is absurdly long; then cells are broken, not the table.
pub(crate) fn table(
    names: usize,
    head: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(head);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(COLUMNS as u16);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let text = table.trim_fmt();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A count with a comma after every three digits.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate: `1,234` from a hundred on, else with its fraction: `0.2`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 99.95 { format::count(per_second) } else { grouped(per_second.round() as u64) }
}

/// A count with the noun that fits it: `1 shard`, `1,000 connections`.
pub(crate) fn plural(count: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// `1,000 connections x 64 bytes`.
pub(crate) fn load(conns: u32, size: u32) -> String {
    format!("{} x {}", plural(conns.into(), "connection"), plural(size.into(), "byte"))
}

/// Busy-polling of a server, if there is any: `, polling for 50.0us`.
pub(crate) fn polling(spin_ns: Option<u64>) -> String {
    spin_ns.map_or_else(String::new, |ns| format!(", polling for {}", format::duration(ns)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_disarms_escape_sequences() {
        assert_eq!(printable("\x1b[31mred\r\n\u{9b}é"), "?[31mred???é");
    }

    #[test]
    fn shorten_keeps_the_end() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("results/runs/mio.json", 11), "...mio.json");
        assert_eq!(shorten("éééééé", 5), "...éé");
    }

    #[test]
    fn wrap_breaks_between_words_and_cuts_long_ones() {
        assert_eq!(wrap("one two three", 20, 2), "one two three");
        assert_eq!(wrap("one two three", 8, 2), "one two\n  three");
        assert_eq!(wrap("abcdefgh i", 4, 1), "abc\n def\n gh\n i");
        let text = wrap(&"x".repeat(1000), 100, 8);
        assert!(text.lines().all(|line| line.chars().count() <= 100));
        assert_eq!(text.matches('x').count(), 1000);
    }

    #[test]
    fn wrap_keeps_intervals_and_percentages_whole() {
        for (width, text) in [
            (25, "mio needs\n0.87x [0.84, 0.90] of it"),
            (22, "mio needs\n0.87x [0.84, 0.90] of\nit"),
        ] {
            assert_eq!(wrap("mio needs 0.87x [0.84, 0.90] of it", width, 0), text);
        }
        assert_eq!(wrap("it hides 4 % there", 10, 0), "it hides\n4 % there");
        assert_eq!(wrap("é [é, é]", 3, 0).matches('é').count(), 3);
    }

    #[test]
    fn counts_are_grouped() {
        for (count, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (12_345, "12,345"), (1 << 20, "1,048,576")]
        {
            assert_eq!(grouped(count), text);
        }
        assert_eq!(plural(1, "shard"), "1 shard");
        for (per_second, text) in
            [(0.0, "0"), (0.2, "0.2"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1,235")]
        {
            assert_eq!(rate(per_second), text);
        }
        assert_eq!(plural(2000, "shard"), "2,000 shards");
    }
}
