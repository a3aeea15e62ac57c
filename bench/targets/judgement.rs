//! The targets, and whether the measurements reach them.

use std::fmt::Write;

use lockstep_results::statistics::Ratio;
use lockstep_results::{Cell, Comparison, Measured as Subject, Metric, RoundFloor, wrap};

use Metric::{ClientCpuUsPerExchange, P50Ns, P99Ns, ServerCpuUsPerExchange, ThroughputPerS};

/// Width of the text below the table, in columns.
const WIDTH: usize = 100;

/// The measurements, with the names of their experiments.
pub(crate) type Comparisons = Vec<(&'static str, Comparison)>;

/// One target with its measurement.
struct Line {
    target: String,
    bound: Bound,
    value: Option<Value>,
    /// The value at the floor, the best that a server with plain system calls can reach. io_uring
    /// makes fewer calls than the floor and can exceed it.
    floor: Option<f64>,
}

/// A median and, if rounds could be paired, its interval.
struct Value {
    median: f64,
    interval: Option<(f64, f64)>,
}

impl From<Ratio> for Value {
    fn from(Ratio { median, low, high, .. }: Ratio) -> Self {
        Self { median, interval: Some((low, high)) }
    }
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(&self, value: f64) -> bool {
        match *self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound:.2}"),
            Self::AtLeast(bound) => write!(f, ">= {bound:.2}"),
        }
    }
}

/// A subject in a cell of an experiment.
#[derive(Clone, Copy)]
struct Place {
    experiment: &'static str,
    subject: &'static str,
    conns: u32,
    size: u32,
}

/// Values from the measurements; `None` if an experiment was not made.
struct Measured<'a>(&'a Comparisons);

impl Measured<'_> {
    fn cell(&self, place: Place) -> Option<&Cell> {
        let (_, comparison) = self.0.iter().find(|(name, _)| *name == place.experiment)?;
        let here = |cell: &&Cell| (cell.conns, cell.size) == (place.conns, place.size);
        comparison.cells.iter().find(here)
    }

    fn subject(&self, place: Place) -> Option<&Subject> {
        self.cell(place)?.subjects.iter().find(|subject| subject.name == place.subject)
    }

    /// Returns the ratio of two metrics, paired by rounds.
    fn ratio(&self, of: (Place, Metric), over: (Place, Metric)) -> Option<Value> {
        let (subject, baseline) = (self.subject(of.0)?, self.subject(over.0)?);
        subject.over(of.1, baseline, over.1).map(Value::from)
    }

    fn median(&self, place: Place, metric: Metric) -> Option<Value> {
        let median = self.subject(place)?.metrics.get(metric)?.median;
        Some(Value { median, interval: None })
    }

    /// Returns the ratio of a metric to the `limit` at the floor, paired by rounds.
    fn over_the_floor(
        &self,
        (place, metric): (Place, Metric),
        limit: impl Fn(&RoundFloor) -> Option<f64>,
    ) -> Option<Value> {
        self.cell(place)?.over_the_floor(self.subject(place)?, metric, limit).map(Value::from)
    }
}

/// Returns the exchanges per second between two spinning threads.
fn spinning(floor: &RoundFloor) -> Option<f64> {
    floor.two_threads_ns.map(|ns| 1e9 / ns)
}

/// Returns every target with its measurement.
fn lines(measured: &Measured<'_>) -> Vec<Line> {
    let mut lines = crossed(measured);
    lines.extend(whole_machine(measured));
    lines.extend(one_connection(measured));
    for (subject, bound) in [("io-uring", 1.4), ("mio", 1.6)] {
        let at = |conns| {
            (Place { experiment: "many", subject, conns, size: 64 }, ServerCpuUsPerExchange)
        };
        lines.push(Line {
            target: format!("server CPU, {subject}, 10000 over 1000 connections"),
            bound: Bound::AtMost(bound),
            value: measured.ratio(at(10_000), at(1000)),
            floor: None,
        });
    }
    lines
}

/// Returns the targets with server and generator on a CPU each.
fn crossed(measured: &Measured<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (conns, size) in [(64, 64), (64, 1024), (1000, 64), (1000, 1024)] {
        let at = |subject| Place { experiment: "crossed", subject, conns, size };
        let mut line = |target, bound, value| {
            let target = format!("{target}, {conns}x{size}");
            lines.push(Line { target, bound: Bound::AtMost(bound), value, floor: None });
        };
        let monoio = if conns == 64 { 0.97 } else { 0.92 };
        for (subject, over, bound) in [
            ("io-uring", "tokio", 0.88),
            ("io-uring", "monoio", monoio),
            ("mio", "tokio", 0.93),
            ("blocking", "std-threads", 1.0),
        ] {
            let metric = ServerCpuUsPerExchange;
            let value = measured.ratio((at(subject), metric), (at(over), metric));
            line(format!("server CPU, {subject} over {over}"), bound, value);
        }
        let mio = Place { experiment: "generator", ..at("mio") };
        let value = measured.ratio((mio, ClientCpuUsPerExchange), (mio, ServerCpuUsPerExchange));
        line("CPU, generator over mio".to_owned(), 1.0, value);
    }
    for subject in ["io-uring", "mio"] {
        for conns in [64, 1000] {
            let place = Place { experiment: "crossed", subject, conns, size: 64 };
            lines.push(Line {
                target: format!("throughput, {subject} over two spinning threads, {conns}x64"),
                bound: Bound::AtLeast(0.95),
                value: measured.over_the_floor((place, ThroughputPerS), spinning),
                floor: None,
            });
        }
    }
    lines
}

/// Returns the targets with server and generator on all CPUs. At the floor each CPU makes complete
/// exchanges.
fn whole_machine(measured: &Measured<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    for subject in ["io-uring", "mio"] {
        for (conns, bound) in [(64, 1.9), (1000, 1.65)] {
            let at = |subject| Place { experiment: "whole", subject, conns, size: 64 };
            let cpus = measured.subject(at(subject)).map_or(1, |subject| subject.threads);
            let most = |floor: &RoundFloor| Some(f64::from(cpus) * 1e9 / floor.one_thread_ns);
            // The mean with this many in flight (Little's law). A server that serves all alike has
            // no p99 below it.
            let mean_ns = |floor: &RoundFloor| Some(f64::from(conns) * 1e9 / most(floor)?);
            let over_tokio =
                |metric| measured.ratio((at(subject), metric), (at("tokio-mt"), metric));
            let floor_over_tokio = |metric, limit: &dyn Fn(&RoundFloor) -> Option<f64>| {
                let tokio_over = measured.over_the_floor((at("tokio-mt"), metric), limit);
                tokio_over.map(|tokio_over| 1.0 / tokio_over.median)
            };
            let mut line = |target, bound, value, floor| {
                let target = format!("whole machine: {target}, {conns}x64");
                lines.push(Line { target, bound, value, floor });
            };
            line(
                format!("throughput, {subject} over tokio-mt"),
                Bound::AtLeast(bound),
                over_tokio(ThroughputPerS),
                floor_over_tokio(ThroughputPerS, &most),
            );
            line(
                format!("p99, {subject} over tokio-mt"),
                Bound::AtMost(0.2),
                over_tokio(P99Ns),
                floor_over_tokio(P99Ns, &mean_ns),
            );
            line(
                format!("throughput, {subject} over the floor"),
                Bound::AtLeast(0.88),
                measured.over_the_floor((at(subject), ThroughputPerS), most),
                None,
            );
        }
    }
    lines
}

/// Returns the targets with one connection, with the two ways to avoid a wake-up on another CPU.
fn one_connection(measured: &Measured<'_>) -> Vec<Line> {
    type Limit = fn(&RoundFloor) -> Option<f64>;
    let ways: [(_, _, Limit); 2] = [
        ("spinning", "both sides spin", |floor| floor.two_threads_ns),
        ("steered", "steered, asleep", |floor| Some(floor.one_thread_ns)),
    ];
    let mut lines = Vec::new();
    for (experiment, how, limit) in ways {
        for subject in ["io-uring", "mio"] {
            let place = Place { experiment, subject, conns: 1, size: 64 };
            let us = |ns: f64| ns / 1e3;
            let p50 = measured.median(place, P50Ns);
            lines.push(Line {
                target: format!("one connection, {how}: p50 of {subject}, us"),
                bound: Bound::AtMost(9.0),
                value: p50.map(|p50| Value { median: us(p50.median), ..p50 }),
                floor: measured.cell(place).and_then(|cell| cell.at_the_floor(limit)).map(us),
            });
        }
    }
    lines
}

/// The verdict on one target, as marked in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// The median reaches the target.
    Reached = b'+' as isize,
    /// The median does not reach it, and neither does the floor.
    BeyondFloor = b'x' as isize,
    /// The median does not reach it, but the interval contains values that do.
    Undecided = b'?' as isize,
    /// The whole interval misses it.
    Missed = b'-' as isize,
}

impl Verdict {
    fn of(bound: &Bound, value: &Value, floor: Option<f64>) -> Self {
        match value.interval {
            _ if bound.holds(value.median) => Self::Reached,
            _ if floor.is_some_and(|floor| !bound.holds(floor)) => Self::BeyondFloor,
            Some((low, high)) if bound.holds(low) || bound.holds(high) => Self::Undecided,
            _ => Self::Missed,
        }
    }
}

/// Formats a table with one line for each target of the experiments that were made.
pub(crate) fn table(comparisons: &Comparisons) -> String {
    let mut table = String::from(
        "|   | target | asked | median | interval | floor |\n|---|---|---|---|---|---|\n",
    );
    let (mut reached, mut beyond, mut known) = (0, 0, 0);
    for Line { target, bound, value, floor } in lines(&Measured(comparisons)) {
        let Some(value) = value else { continue };
        let verdict = Verdict::of(&bound, &value, floor);
        known += 1;
        reached += usize::from(verdict == Verdict::Reached);
        beyond += usize::from(verdict == Verdict::BeyondFloor);
        let interval = value.interval.map(|(low, high)| format!("[{low:.2}, {high:.2}]"));
        let floor = floor.map(|floor| format!("{floor:.2}"));
        let _infallible = writeln!(
            table,
            "| {} | {target} | {bound} | {:.2} | {} | {} |",
            verdict as u8 as char,
            value.median,
            interval.unwrap_or_default(),
            floor.unwrap_or_default()
        );
    }
    let legend = "+: the median reaches the target. ?: it does not, but the interval (99 %, \
                  bootstrap over rounds) contains values that do. x: it does not, and neither does \
                  the floor, which is measured in every round: exchanges by plain system calls \
                  without an event loop. -: it does not.";
    format!(
        "{table}\n{reached} of {known} are reached, {beyond} are beyond the floor\n{}\n",
        wrap(legend, WIDTH, 0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_from_median_interval_and_floor() {
        let verdict = |bound, median, interval, floor| {
            Verdict::of(&bound, &Value { median, interval }, floor)
        };
        let (low, high) = (Some((0.8, 0.9)), Some((0.9, 1.2)));
        assert_eq!(verdict(Bound::AtMost(0.88), 0.85, low, None), Verdict::Reached);
        assert_eq!(verdict(Bound::AtMost(0.84), 0.85, low, None), Verdict::Undecided);
        assert_eq!(verdict(Bound::AtMost(0.7), 0.85, low, None), Verdict::Missed);
        assert_eq!(verdict(Bound::AtMost(0.7), 0.85, low, Some(0.75)), Verdict::BeyondFloor);
        assert_eq!(verdict(Bound::AtMost(0.7), 0.85, low, Some(0.6)), Verdict::Missed);
        assert_eq!(verdict(Bound::AtLeast(1.1), 1.0, high, Some(1.2)), Verdict::Undecided);
        assert_eq!(verdict(Bound::AtLeast(1.1), 1.0, None, None), Verdict::Missed);
        assert_eq!(verdict(Bound::AtLeast(0.9), 1.0, None, None), Verdict::Reached);
    }
}
