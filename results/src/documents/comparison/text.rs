//! A comparison as plain text that is also Markdown, in at most 100 columns.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::exclusion;
use super::sentences::interval;
use super::{Asked, Cell, Comparison, Measured, Metric};
use crate::statistics::{Ratio, Stopped, Verdict};
use crate::{format, text};

/// The most characters of a subject's name in a table.
const NAME: usize = 20;

/// Where the further lines of a sentence start.
const INDENT: usize = 4;

/// What was compared and where it ran, the table, and what it shows.
pub(super) fn text(comparison: &Comparison) -> String {
    let text: String = header(comparison).iter().map(|header| line(header) + "\n").collect();
    text + "\n" + &comparison.table() + "\n" + &comparison.conclusion()
}

impl Comparison {
    /// For each cell every subject's medians, and below them the ratios to the baseline; at the end
    /// how to read them.
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        for cell in &self.cells {
            lines.push(heading(cell));
            for table in [self.medians(cell)].into_iter().chain(self.ratios(cell)) {
                lines.push(String::new());
                let grid = table.trim_fmt();
                lines.extend(grid.lines().map(|line| line.trim_end().to_owned()));
            }
            lines.extend(floor(cell).map(|floor| format!("\n{}", line(&floor))));
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

    /// A row a subject, a column a metric.
    fn medians(&self, cell: &Cell) -> Table {
        let mut table = grid("median", Metric::ALL);
        for measured in &cell.subjects {
            let median = |metric: Metric| {
                let Some(summary) = measured.metrics.get(metric) else { return "-".into() };
                let spread = match metric == self.primary {
                    true => format!(" ~{:.0}%", summary.spread * 100.0),
                    false => String::new(),
                };
                metric.show(summary.median) + &spread
            };
            table.add_row(row(&measured.name, Metric::ALL.map(median)));
        }
        table
    }

    /// The same of the ratios, three metrics at a time.
    fn ratios(&self, cell: &Cell) -> Vec<Table> {
        let baseline = text::shorten(&text::printable(&self.plan.baseline), NAME);
        let others: Vec<&Measured> = cell.others(&self.plan.baseline).collect();
        if others.iter().all(|measured| measured.ratio(self.primary).is_none()) {
            return Vec::new();
        }
        let mut tables = Vec::new();
        for metrics in Metric::ALL.chunks(3) {
            let mut table = grid(&format!("x {baseline}"), metrics.iter().copied());
            for measured in &others {
                let ratio = |metric: &Metric| {
                    measured.ratio(*metric).map_or("-".into(), |ratio| marked(ratio, cell))
                };
                table.add_row(row(&measured.name, metrics.iter().map(ratio)));
            }
            tables.push(table);
        }
        tables
    }

    /// How to read the table, and what stands against believing it.
    fn notes(&self) -> Vec<String> {
        let primary = self.primary.words();
        let baseline = &self.plan.baseline;
        let mut notes = vec![format!(
            "~: run-to-run noise; x: the median of the ratios round by round, with its bootstrap \
             interval (99 % for the {primary}, 99.8 % for the others; from 6 rounds on the former \
             holds in 96 to 99 of 100 comparisons); *: a difference; ?: too few rounds to tell; \
             (5): rests on 5 rounds, some being left out"
        )];
        let partly = |measured: &&Measured| {
            let full = measured.exclusions.iter().any(|found| found.kind == "generator-full");
            full && measured.rounds(Metric::ThroughputPerS) > 0
        };
        let mut partly = self.cells.iter().flat_map(|cell| cell.subjects.iter().filter(partly));
        if let Some(measured) = partly.next() {
            notes.push(format!(
                "{}: where only the generator was full the run is left out of throughput and \
                 latency; those are the subject's fastest, so it is faster than they say",
                measured.name
            ));
        }
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
        let subjects = || self.cells.iter().flat_map(|cell| &cell.subjects);
        let warnings = exclusion::warnings(subjects().flat_map(|measured| &measured.runs));
        if !warnings.is_empty() {
            let runs: usize = subjects().map(|measured| measured.runs.len()).sum();
            let kinds: Vec<String> =
                warnings.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
            notes.push(format!("of {runs} runs some have warnings: {}", kinds.join(", ")));
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
    text::wrap(&text::printable(sentence), text::COLUMNS, INDENT)
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

/// What the machine could do at all under the cell's load.
fn floor(cell: &Cell) -> Option<String> {
    let one_thread = cell.at_the_floor(|floor| Some(floor.one_thread_ns))?;
    let one_thread = format::duration(one_thread as u64);
    let spinning = cell
        .at_the_floor(|floor| floor.two_threads_ns)
        .map(|ns| format!(", and two spinning threads reach {}/s", format::count(1e9 / ns)));
    Some(format!(
        "floor: without an event loop both sides of an exchange took {one_thread} of one CPU{}",
        spinning.unwrap_or_default()
    ))
}

/// A table with a column for each metric.
fn grid(corner: &str, metrics: impl IntoIterator<Item = Metric>) -> Table {
    let mut table = Table::new();
    let labels = metrics.into_iter().map(|metric| metric.label().to_owned());
    table.load_style(ASCII_MARKDOWN).set_header(row(corner, labels));
    // Only absurd values are too wide; they are broken, not the table.
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(text::COLUMNS as u16);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn row(name: &str, values: impl IntoIterator<Item = String>) -> Vec<String> {
    let name = text::shorten(&text::printable(name), NAME);
    std::iter::once(name).chain(values).collect()
}

/// `0.87x [0.84, 0.90]*(5)`: the star is a claim, which rests on five rounds though there were more.
fn marked(ratio: &Ratio, cell: &Cell) -> String {
    let mark = match ratio.verdict {
        Verdict::Lower | Verdict::Higher => "*",
        Verdict::NoDifference => "",
        Verdict::TooFewRounds => "?",
    };
    let rounds = match ratio.rounds < cell.rounds {
        true => format!("({})", ratio.rounds),
        false => String::new(),
    };
    interval(ratio) + mark + &rounds
}

fn header(comparison: &Comparison) -> Vec<String> {
    let plan = &comparison.plan;
    let others: Vec<&str> =
        plan.subjects.iter().map(String::as_str).filter(|name| *name != plan.baseline).collect();
    let mut lines = vec![format!(
        "{} against {}: each run has a server of its own; the order is drawn by lot",
        others.join(", "),
        plan.baseline
    )];
    let subjects = comparison.cells.iter().flat_map(|cell| &cell.subjects);
    let mut places: Vec<String> = Vec::new();
    for measured in subjects {
        let server = measured.server_cpus.as_deref().unwrap_or("unknown");
        let threads = measured.threads;
        let place = format!(
            "servers on CPU {server}, generator on CPU {} with {threads} thread{}{}",
            measured.client_cpus,
            if threads == 1 { "" } else { "s" },
            match measured.placement.as_deref() {
                Some("apart") | None => String::new(),
                Some(how) => format!(", {how}"),
            }
        );
        if !places.contains(&place) {
            places.push(place);
        }
    }
    lines.extend(places);
    lines.extend(plan.asked.as_ref().map(asked));
    lines.extend(plan.asked.as_ref().and_then(turns));
    lines.push(format!("seed {}", plan.header.seed.map_or("-".into(), |seed| seed.to_string())));
    for absent in &plan.absent {
        lines.push(format!("without {}, which did not start: {}", absent.subject, absent.cause));
    }
    lines
}

/// How the runs of a round take turns.
fn turns(asked: &Asked) -> Option<String> {
    let turns = asked.conns.iter().zip(&asked.turns_s).filter(|&(_, &turn_s)| turn_s > 0.0);
    let turns: Vec<String> =
        turns.map(|(conns, turn_s)| format!("{:.0} ms at {conns} conns", turn_s * 1e3)).collect();
    (!turns.is_empty()).then(|| format!("subjects are under load in turn: {}", turns.join(", ")))
}

/// What every run was asked for.
fn asked(asked: &Asked) -> String {
    let load = match (asked.rate_per_s, &asked.arrivals) {
        (Some(rate), Some(arrivals)) => format!("{rate} requests/s, {arrivals}"),
        _ => "closed loop".to_owned(),
    };
    let warmup = match asked.warmup_s {
        Some(seconds) => format!("{seconds} s of warm-up"),
        None => "it was steady".to_owned(),
    };
    let mut line = format!("each run: {load}, {} s after {warmup}", asked.duration_s);
    let more = [("threads", asked.threads), ("shards", asked.shards), ("backlog", asked.backlog)];
    for (name, value) in more {
        line.extend(value.map(|value| format!(", {name} {value}")));
    }
    line.extend(asked.engine.iter().map(|engine| format!(", generator on {engine}")));
    line.extend(asked.spin_s.map(|spin_s| format!(", spinning {:.0} us", spin_s * 1e6)));
    line.extend(
        asked.server_spin_ns.map(|ns| format!(", backends polling for {}", format::duration(ns))),
    );
    line
}
