//! A comparison as plain text that is also Markdown, in at most 100 columns.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::sentences::interval;
use super::{Cell, Comparison, Measured, Metric};
use crate::statistics::{Ratio, Stopped, Verdict};
use crate::text;

/// The most columns of a terminal it takes.
const WIDTH: usize = 100;

/// The most characters of a subject's name in a table.
const NAME: usize = 18;

/// Where the further lines of a sentence start.
const INDENT: usize = 4;

impl Comparison {
    /// For each cell and metric every subject's median, its noise from run to run, and its ratio to
    /// the baseline; below, how to read them.
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        for cell in &self.cells {
            lines.push(heading(cell));
            lines.push(String::new());
            let grid = self.grid(cell).trim_fmt();
            lines.extend(grid.lines().map(|line| line.trim_end().to_owned()));
            lines.push(String::new());
        }
        lines.extend(self.notes().iter().map(|note| line(note)));
        lines.join("\n") + "\n"
    }

    /// The [`sentences`](Comparison::sentences), and where all subjects are the same server the
    /// [noise floor](Comparison::noise_floor), in lines of at most 100 columns.
    pub fn conclusion(&self) -> String {
        let floor = if self.plan.aa { self.noise_floor() } else { Vec::new() };
        let lines = self.sentences().into_iter().chain(floor);
        lines.map(|sentence| line(&sentence) + "\n").collect()
    }

    fn grid(&self, cell: &Cell) -> Table {
        let mut table = Table::new();
        let baseline = text::shorten(&text::printable(&self.plan.baseline), NAME);
        let ratio = format!("ratio to {baseline}");
        table.load_style(ASCII_MARKDOWN).set_header([
            "",
            "subject",
            "median",
            "spread",
            &ratio,
            "difference",
        ]);
        // Only absurd values are too wide; they are broken, not the table.
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH as u16);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for metric in Metric::ALL {
            for (index, measured) in cell.subjects.iter().enumerate() {
                let label = if index == 0 { metric.label() } else { "" };
                table.add_row(row(label, metric, measured));
            }
        }
        table
    }

    /// How to read the table, and what stands against believing it.
    fn notes(&self) -> Vec<String> {
        let primary = self.primary.words();
        let baseline = &self.plan.baseline;
        let mut notes = vec![format!(
            "[low, high]: bootstrap over rounds of the median ratio, 99 % for the {primary}, 99.8 % \
             for the others; at 6 to 20 rounds the former holds in 96 to 99 of 100 comparisons"
        )];
        if self.primary != Metric::ServerCpuUsPerExchange {
            notes.push(format!(
                "the claim rests on the {primary}: the server's processor time cannot be read for \
                 every subject"
            ));
        }
        let others = self.cells.iter().map(|cell| cell.others(baseline).count());
        let comparisons: usize = others.sum();
        if comparisons > 1 {
            notes.push(format!(
                "{comparisons} comparisons with {baseline}: each may claim a difference between \
                 equals in up to 4 of 100 cases, so expect up to {:.1} such claims in all",
                0.04 * comparisons as f64
            ));
        }
        if self.interrupted {
            notes.push("interrupted: there should be more rounds".into());
        }
        let failed = |measured: &&Measured| measured.runs.iter().any(|run| run.errors_total > 0);
        for cell in &self.cells {
            for measured in cell.subjects.iter().filter(failed) {
                let errors: u64 = measured.runs.iter().map(|run| run.errors_total).sum();
                notes.push(format!(
                    "{}x{}: {} had {errors} errors",
                    cell.conns, cell.size, measured.name
                ));
            }
        }
        notes
    }
}

fn line(sentence: &str) -> String {
    text::wrap(&text::printable(sentence), WIDTH, INDENT)
}

/// `1000 connections x 64 bytes, closed loop, 10 rounds: precise enough`.
fn heading(cell: &Cell) -> String {
    let end = match cell.stopped {
        Some(Stopped::Precise) => "precise enough",
        Some(Stopped::Maximum) => "the most allowed",
        None => "there should be more",
    };
    line(&format!(
        "{} connections x {} bytes, {} loop, {} rounds: {end}",
        cell.conns, cell.size, cell.load, cell.rounds
    ))
}

fn row(label: &str, metric: Metric, measured: &Measured) -> [String; 6] {
    let summary = measured.metrics.get(metric);
    let ratio = summary.and_then(|summary| summary.ratio.as_ref());
    [
        label.to_owned(),
        text::shorten(&text::printable(&measured.name), NAME),
        summary.map_or("-".into(), |summary| metric.show(summary.median)),
        summary.map_or("-".into(), |summary| format!("{:.1}%", summary.spread * 100.0)),
        ratio.map(interval).unwrap_or_default(),
        ratio.map(difference).unwrap_or_default().to_owned(),
    ]
}

fn difference(ratio: &Ratio) -> &'static str {
    match ratio.verdict {
        Verdict::Lower => "lower",
        Verdict::Higher => "higher",
        Verdict::NoDifference => "none",
        Verdict::TooFewRounds => "too few",
    }
}
