//! Charts of runs: cost, throughput, fairness, and latency over time.

use crate::html::figure::Figure;
use crate::html::lines::{Lines, Point, Series};
use crate::html::rows::{Mark, Row, Rows};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;
use crate::{Cost, Interval, Record, format};

/// One side of the exchange, if its cost is known.
type Side = fn(&Record) -> Option<&Cost>;

/// CPU time for an exchange of server and client, user and system.
pub(crate) fn costs(runs: &[(&str, &Record)]) -> Option<Figure> {
    let mut rows = Vec::new();
    let mut max = 0.0f64;
    let mut data =
        Table::new(["run", "side", "CPU", "user", "system", "switches", "system calls", "busy"]);
    let sides: [(&str, Side); 2] =
        [("server", |run| run.server.as_ref()), ("load generator", |run| Some(&run.client))];
    for (side, cost) in sides {
        if runs.iter().all(|(_, run)| cost(run).is_none()) {
            continue;
        }
        rows.push(Row::Heading(side.to_owned()));
        for (series, &(name, run)) in runs.iter().enumerate() {
            let Some(cost) = cost(run) else { continue };
            let all = cost.cpu_us_per_exchange;
            // In full shade if it is not divided.
            let user = cost.user_us_per_exchange.unwrap_or(all).min(all);
            max = max.max(all);
            let time = |us: f64| Unit::Microseconds.show(us);
            let number = |value: Option<f64>| value.map_or("-".into(), |it| format!("{it:.3}"));
            rows.push(Row::Marks {
                name: name.to_owned(),
                series,
                marks: vec![Mark::Bar(0.0, user), Mark::Part(user, all)],
                value: time(all),
            });
            data.row([
                name.to_owned(),
                side.to_owned(),
                time(all),
                cost.user_us_per_exchange.map_or("-".into(), time),
                cost.system_us_per_exchange.map_or("-".into(), time),
                number(cost.context_switches_per_exchange),
                number(cost.syscalls_per_exchange),
                cost.busy.map_or("-".into(), |busy| format!("{:.0}%", busy * 100.0)),
            ]);
        }
    }
    (max > 0.0).then(|| {
        let rows = Rows {
            title: "CPU time per exchange".into(),
            description: "A bar for each run and side: user time, then system time.".into(),
            scale: Scale::from_zero(Unit::Microseconds, max),
            reference: None,
            rows,
            note: "Full shade: user time; light shade: system time. One run has no interval: \
                   loadgen compare gives one."
                .into(),
            data,
        };
        rows.figure()
    })
}

/// Exchanges a second of each of several runs.
pub(crate) fn throughput(runs: &[(&str, &Record)]) -> Option<Figure> {
    let max = runs.iter().map(|(_, run)| run.throughput_per_s).fold(0.0, f64::max);
    if runs.len() < 2 || max <= 0.0 {
        return None;
    }
    let mut data = Table::new(["run", "throughput", "exchanges", "measured"]);
    let rows = runs.iter().enumerate().map(|(series, &(name, run))| {
        let value = Unit::PerSecond.show(run.throughput_per_s);
        data.row([
            name.to_owned(),
            value.clone(),
            run.exchanges.to_string(),
            format!("{:.2} s", run.duration_s),
        ]);
        let marks = vec![Mark::Bar(0.0, run.throughput_per_s)];
        let value = if run.valid { value } else { format!("{value} INVALID") };
        Row::Marks { name: name.to_owned(), series, marks, value }
    });
    let rows = Rows {
        title: "Throughput".into(),
        description: format!(
            "A bar for each run: exchanges a second, up to {}.",
            format::count(max)
        ),
        scale: Scale::from_zero(Unit::PerSecond, max),
        reference: None,
        rows: rows.collect(),
        note: String::new(),
        data,
    };
    Some(rows.figure())
}

/// The fewest and the most exchanges of a connection beside the mean, for each run.
pub(crate) fn fairness(runs: &[(&str, &Record)]) -> Option<Figure> {
    let mut data = Table::new(["run", "fewest", "mean", "most", "Jain's index"]);
    let (mut rows, mut max) = (Vec::new(), 0.0f64);
    for (series, &(name, run)) in runs.iter().enumerate() {
        let Some(fairness) = &run.fairness else { continue };
        let mean = run.exchanges as f64 / f64::from(run.conns.max(1));
        let (least, most) = (fairness.min as f64, fairness.max as f64);
        max = max.max(most);
        let jain = format!("{:.4}", fairness.jain);
        data.row([
            name.to_owned(),
            fairness.min.to_string(),
            format!("{mean:.1}"),
            fairness.max.to_string(),
            jain.clone(),
        ]);
        rows.push(Row::Marks {
            name: name.to_owned(),
            series,
            marks: vec![Mark::Interval(least, most), Mark::Value(mean)],
            value: format!("Jain {jain}"),
        });
    }
    (max > 0.0).then(|| {
        let rows = Rows {
            title: "Fairness: exchanges per connection".into(),
            description: "For each run the fewest and the most exchanges that a connection \
                          completed, and their mean."
                .into(),
            scale: Scale::from_zero(Unit::Count, max),
            reference: None,
            rows,
            note: "From the connection served least to the one served most; the dot is the mean. \
                   Jain's index is 1 when all are equal."
                .into(),
            data,
        };
        rows.figure()
    })
}

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
        data: intervals(run),
    };
    Some(lines.figure())
}

fn intervals(run: &Record) -> Table {
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
