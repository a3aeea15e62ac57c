//! Chart of latency over time, which a percentile of the whole run hides.

use crate::html::figure::Figure;
use crate::html::lines::{Lines, Point, Series};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;
use crate::{Interval, Record, format};

/// Latency of an interval, if there was any exchange.
type Value = fn(&Interval) -> Option<u64>;

/// Lines of the chart.
const LINES: [(&str, Value); 3] = [
    ("p50", |interval| interval.p50_ns),
    ("p99", |interval| interval.p99_ns),
    ("max", |interval| interval.max_ns),
];

/// The chart of a run, or `None` if it has fewer than two intervals or no latency in any.
///
/// `all` are the runs beside it, with which it shares the axes.
pub(crate) fn timeline(name: &str, run: &Record, all: &[&Record]) -> Option<Figure> {
    let timed = run.intervals.iter().any(|interval| interval.max_ns.is_some());
    if run.intervals.len() < 2 || !timed {
        return None;
    }
    let values = all.iter().flat_map(|run| &run.intervals).flat_map(|interval| {
        LINES.iter().filter_map(|(_, value)| value(interval)).map(|ns| ns as f64)
    });
    let end = |run: &Record| {
        run.intervals
            .iter()
            .map(|interval| interval.start_s + interval.length_s)
            .fold(0.0, f64::max)
    };
    let series = LINES.map(|(line, value)| Series {
        name: line.to_owned(),
        points: run
            .intervals
            .iter()
            .filter_map(|interval| {
                // In the middle of the interval.
                let middle = interval.start_s + interval.length_s / 2.0;
                Some(Point::new(middle, value(interval)? as f64))
            })
            .collect(),
        marked: run.intervals.len() <= 60,
        joined: true,
    });
    let lines = Lines {
        title: format!("Latency over time: {name}"),
        description: "Lines for the median, the 99th percentile and the slowest exchange of each \
                      interval of the measured window."
            .into(),
        x: Scale::between(Unit::Seconds, 0.0, all.iter().map(|run| end(run)).fold(0.0, f64::max)),
        x_label: "seconds of the measured window".into(),
        y: Scale::spanning(Unit::Nanoseconds, values),
        y_label: if run.rate.is_some() { "response" } else { "latency" }.into(),
        percentiles: true,
        series: series.into(),
        note: String::new(),
        data: table(run),
    };
    Some(lines.figure())
}

fn table(run: &Record) -> Table {
    let mut table =
        Table::new(["from", "seconds", "exchanges", "errors", "p50", "p90", "p99", "max"]);
    let time = |ns: Option<u64>| ns.map_or("-".into(), format::duration);
    for interval in &run.intervals {
        table.row([
            format!("{:.2}", interval.start_s),
            format!("{:.2}", interval.length_s),
            interval.exchanges.to_string(),
            interval.errors.to_string(),
            time(interval.p50_ns),
            time(interval.p90_ns),
            time(interval.p99_ns),
            time(interval.max_ns),
        ]);
    }
    table
}
