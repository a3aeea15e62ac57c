//! Runs side by side, in plain text that is also a Markdown table.

use super::notes;
use crate::text::{COLUMNS, printable, shorten};
use crate::{Cost, Latency, Record, format, text};

/// Longest name in a cell, in characters; a value with its ratio takes as many.
const CELL: usize = 15;

/// With more records than this, a record takes a row.
const COLUMNS_MAX: usize = 3;

/// Compares records, each under its name.
///
/// Every metric that one of them has is a row, and every run a column; from the second run on, a
/// value is followed by its ratio to the first. More than three runs take a row each, with the main
/// metrics only. What is absent is `-`. Below the table: differences in place and settings, and
/// doubts.
pub fn table(records: &[(&str, &Record)]) -> String {
    let labels = labels(records);
    let labelled: Vec<(&str, &Record)> =
        labels.iter().map(String::as_str).zip(records.iter().map(|&(_, record)| record)).collect();
    let grid = if records.len() <= COLUMNS_MAX { by_column(&labelled) } else { by_row(&labelled) };
    let absent = grid.contains(" - ").then(|| "-: not measured".to_owned());
    let mut lines = vec![grid];
    lines.extend(absent);
    for (label, (name, _)) in labels.iter().zip(records) {
        if label != name {
            lines.push(format!("{label} = {}", shorten(&printable(name), COLUMNS - 8)));
        }
    }
    lines.extend(notes::unmerged(records));
    lines.extend(notes::differences(&labelled));
    lines.extend(notes::changed_speed(&labelled));
    lines.extend(labelled.iter().flat_map(|(label, record)| notes::doubts(label, record)));
    lines.join("\n") + "\n"
}

/// The names, or numbers in their place if one does not fit a cell.
fn labels(records: &[(&str, &Record)]) -> Vec<String> {
    let names: Vec<String> = records.iter().map(|(name, _)| printable(name)).collect();
    if names.iter().all(|name| name.chars().count() <= CELL) {
        return names;
    }
    (1..=names.len()).map(|number| format!("#{number}")).collect()
}

/// One line of a comparison.
pub(crate) struct Metric {
    pub(crate) label: &'static str,
    value: fn(&Record) -> Option<f64>,
    show: fn(f64) -> String,
    /// True if a ratio to the first run is meaningful.
    compared: bool,
}

impl Metric {
    const fn new(
        label: &'static str,
        value: fn(&Record) -> Option<f64>,
        show: fn(f64) -> String,
    ) -> Metric {
        Metric { label, value, show, compared: true }
    }

    const fn uncompared(self) -> Metric {
        Metric { compared: false, ..self }
    }

    pub(crate) fn shown(&self, record: &Record) -> String {
        (self.value)(record).map_or("-".into(), self.show)
    }

    fn ratio(&self, record: &Record, first: &Record) -> Option<String> {
        format::ratio((self.value)(record)?, (self.value)(first)?)
    }
}

/// Percentiles of the main latency.
const MAIN: [Metric; 2] = [
    Metric::new("p50", |r| main(r, |l| l.p50_ns), nanoseconds),
    Metric::new("p99", |r| main(r, |l| l.p99_ns), nanoseconds),
];

const THROUGHPUT: Metric = Metric::new("throughput", |r| Some(r.throughput_per_s), per_second);
const SERVER_CPU: Metric = Metric::new("server CPU/exchange", server_cpu, microseconds);

/// The metrics that any of the records has, in the order they are shown.
pub(crate) fn metrics(records: &[(&str, &Record)]) -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().filter(|metric| records.iter().any(|(_, r)| (metric.value)(r).is_some()))
}

static METRICS: [Metric; 24] = [
    THROUGHPUT,
    Metric::new("exchange p50", |r| exchange(r, |l| l.p50_ns), nanoseconds),
    Metric::new("exchange p90", |r| exchange(r, |l| l.p90_ns), nanoseconds),
    Metric::new("exchange p99", |r| exchange(r, |l| l.p99_ns), nanoseconds),
    Metric::new("exchange p99.9", |r| exchange(r, |l| l.p999_ns), nanoseconds),
    Metric::new("exchange max", |r| exchange(r, |l| l.max_ns), nanoseconds),
    Metric::new("response p50", |r| response(r, |l| l.p50_ns), nanoseconds),
    Metric::new("response p90", |r| response(r, |l| l.p90_ns), nanoseconds),
    Metric::new("response p99", |r| response(r, |l| l.p99_ns), nanoseconds),
    Metric::new("response p99.9", |r| response(r, |l| l.p999_ns), nanoseconds),
    Metric::new("response max", |r| response(r, |l| l.max_ns), nanoseconds),
    Metric::new("service p50", |r| Some(r.latency.service.as_ref()?.p50_ns as f64), nanoseconds),
    Metric::new("service p99", |r| p99(r.latency.service.as_ref()), nanoseconds),
    Metric::new("lateness p99", |r| p99(r.latency.lateness.as_ref()), nanoseconds),
    Metric::new("connect p99", |r| p99(r.latency.connect.as_ref()), nanoseconds),
    Metric::new("first exchange p99", |r| p99(r.latency.first_exchange.as_ref()), nanoseconds),
    SERVER_CPU,
    Metric::new("client CPU/exchange", |r| Some(r.client.cpu_us_per_exchange), microseconds),
    Metric::new("server switches/exch", |r| r.server.as_ref()?.context_switches_per_exchange, few),
    Metric::new("server syscalls/exch", |r| r.server.as_ref()?.syscalls_per_exchange, few),
    Metric::new("client switches/exch", |r| r.client.context_switches_per_exchange, few),
    Metric::new("errors", |r| Some(r.errors_total as f64), format::count).uncompared(),
    Metric::new("unserved", |r| Some(r.unserved as f64), format::count).uncompared(),
    Metric::new("fairness (Jain)", |r| Some(r.fairness.as_ref()?.jain), index).uncompared(),
];

fn exchange(record: &Record, value: fn(&Latency) -> u64) -> Option<f64> {
    record.latency.exchange.as_ref().map(|latency| value(latency) as f64)
}

fn response(record: &Record, value: fn(&Latency) -> u64) -> Option<f64> {
    record.latency.response.as_ref().map(|latency| value(latency) as f64)
}

fn main(record: &Record, value: fn(&Latency) -> u64) -> Option<f64> {
    record.latency.main().map(|latency| value(latency) as f64)
}

fn p99(latency: Option<&Latency>) -> Option<f64> {
    latency.map(|latency| latency.p99_ns as f64)
}

fn server(record: &Record, value: fn(&Cost) -> f64) -> Option<f64> {
    record.server.as_ref().map(value)
}

fn server_cpu(record: &Record) -> Option<f64> {
    server(record, |cost| cost.cpu_us_per_exchange)
}

fn per_second(value: f64) -> String {
    format::count(value) + "/s"
}

fn nanoseconds(value: f64) -> String {
    format::duration(value as u64)
}

fn microseconds(value: f64) -> String {
    format::duration((value * 1e3).round() as u64)
}

fn few(value: f64) -> String {
    if value < 9.9995 { format!("{value:.3}") } else { format::count(value) }
}

fn index(value: f64) -> String {
    format!("{value:.4}")
}

/// A metric a row, a record a column.
fn by_column(records: &[(&str, &Record)]) -> String {
    let head: Vec<&str> = [""].into_iter().chain(records.iter().map(|&(label, _)| label)).collect();
    let fact = |label: &str, fact: fn(&Record) -> String| -> Vec<String> {
        let cells = records.iter().map(|(_, record)| shorten(&fact(record), CELL));
        std::iter::once(label.to_owned()).chain(cells).collect()
    };
    let mut rows = vec![
        fact("subject", |record| printable(&record.subject.name)),
        fact("connections", |record| record.conns.to_string()),
        fact("bytes in a request", |record| record.size.to_string()),
    ];
    for metric in metrics(records) {
        let cells = records.iter().enumerate().map(|(column, (_, record))| {
            let shown = metric.shown(record);
            match column {
                0 => shown,
                _ => {
                    let ratio = metric.ratio(record, records[0].1).filter(|_| metric.compared);
                    format!("{shown} {:>6}", ratio.unwrap_or_default())
                }
            }
        });
        rows.push(std::iter::once(metric.label.to_owned()).chain(cells).collect());
    }
    rows.push(fact("valid", |record| if record.valid { "yes" } else { "NO" }.into()));
    text::table(1, &head, rows)
}

/// A record a row, with the main metrics.
fn by_row(records: &[(&str, &Record)]) -> String {
    // A name says enough; a number needs the subject beside it.
    let numbered = records.iter().all(|(label, _)| label.starts_with('#'));
    let subject = |name: String| numbered.then_some(name);
    let mut head = vec![""];
    head.extend(numbered.then_some("subject"));
    head.extend(["conns", "bytes", "exch./s", "", "p50", "p99", "CPU"]);
    let row = |&(label, record): &(&str, &Record)| {
        let mut row = vec![label.to_owned()];
        row.extend(subject(shorten(&printable(&record.subject.name), 10)));
        row.extend([record.conns.to_string(), record.size.to_string()]);
        row.push(format::count(record.throughput_per_s));
        row.push(THROUGHPUT.ratio(record, records[0].1).unwrap_or_default());
        row.extend(MAIN.iter().chain([&SERVER_CPU]).map(|metric| metric.shown(record)));
        row
    };
    let table = text::table(if numbered { 2 } else { 1 }, &head, records.iter().map(row));
    table + "\nCPU: of the server, for an exchange"
}
