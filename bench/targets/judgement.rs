//! What is asked, and whether it is reached.

use std::fmt::Write;

use lockstep_results::statistics::Ratio;
use lockstep_results::{Cell, Comparison, Measured as Subject, Metric, RoundFloor, wrap};

use Metric::{ClientCpuUsPerExchange, P50Ns, P99Ns, ServerCpuUsPerExchange, ThroughputPerS};

/// Columns at most.
const WIDTH: usize = 100;

/// What was measured, by the names of the experiments.
pub(crate) type Comparisons = Vec<(&'static str, Comparison)>;

/// One line of the table.
struct Line {
    target: String,
    asked: Bound,
    value: Option<Value>,
    /// What the value would be at the floor: no server of plain system calls can do better here,
    /// though io_uring's saves calls that the floor makes.
    floor: Option<f64>,
}

/// A number and, where rounds could be paired, its interval.
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

/// Who, in which experiment and cell.
#[derive(Clone, Copy)]
struct Place {
    experiment: &'static str,
    subject: &'static str,
    conns: u32,
    size: u32,
}

/// The answers that the lines ask for; none where an experiment was not made.
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

    /// One number over another, round by round.
    fn ratio(&self, of: (Place, Metric), over: (Place, Metric)) -> Option<Value> {
        let (subject, baseline) = (self.subject(of.0)?, self.subject(over.0)?);
        subject.over(of.1, baseline, over.1).map(Value::from)
    }

    fn median(&self, place: Place, metric: Metric) -> Option<Value> {
        let median = self.subject(place)?.metrics.get(metric)?.median;
        Some(Value { median, interval: None })
    }

    /// A number over what `limit` makes of the floor, round by round.
    fn over_the_floor(
        &self,
        (place, metric): (Place, Metric),
        limit: impl Fn(&RoundFloor) -> Option<f64>,
    ) -> Option<Value> {
        self.cell(place)?.over_the_floor(self.subject(place)?, metric, limit).map(Value::from)
    }
}

/// Exchanges a second between two spinning threads.
fn spinning(floor: &RoundFloor) -> Option<f64> {
    floor.two_threads_ns.map(|ns| 1e9 / ns)
}

/// Every target, with what was measured.
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
            asked: Bound::AtMost(bound),
            value: measured.ratio(at(10_000), at(1000)),
            floor: None,
        });
    }
    lines
}

/// Server and generator each on a CPU of its own.
fn crossed(measured: &Measured<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (conns, size) in [(64, 64), (64, 1024), (1000, 64), (1000, 1024)] {
        let at = |subject| Place { experiment: "crossed", subject, conns, size };
        let mut line = |target, bound, value| {
            let target = format!("{target}, {conns}x{size}");
            lines.push(Line { target, asked: Bound::AtMost(bound), value, floor: None });
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
                asked: Bound::AtLeast(0.95),
                value: measured.over_the_floor((place, ThroughputPerS), spinning),
                floor: None,
            });
        }
    }
    lines
}

/// Servers and generator share all CPUs. At the floor each of them does whole exchanges.
fn whole_machine(measured: &Measured<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    for subject in ["io-uring", "mio"] {
        for (conns, bound) in [(64, 1.9), (1000, 1.65)] {
            let at = |subject| Place { experiment: "whole", subject, conns, size: 64 };
            let cpus = measured.subject(at(subject)).map_or(1, |subject| subject.threads);
            let most = |floor: &RoundFloor| Some(f64::from(cpus) * 1e9 / floor.one_thread_ns);
            // With so many in flight the mean is no less (Little's law), and who serves all of
            // them alike has no p99 below it.
            let mean_ns = |floor: &RoundFloor| Some(f64::from(conns) * 1e9 / most(floor)?);
            let over_tokio =
                |metric| measured.ratio((at(subject), metric), (at("tokio-mt"), metric));
            let floor_over_tokio = |metric, limit: &dyn Fn(&RoundFloor) -> Option<f64>| {
                let tokio_over = measured.over_the_floor((at("tokio-mt"), metric), limit);
                tokio_over.map(|tokio_over| 1.0 / tokio_over.median)
            };
            let mut line = |target, asked, value, floor| {
                let target = format!("whole machine: {target}, {conns}x64");
                lines.push(Line { target, asked, value, floor });
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

/// One connection, with either way of doing without a wake-up on another CPU.
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
                asked: Bound::AtMost(9.0),
                value: p50.map(|p50| Value { median: us(p50.median), ..p50 }),
                floor: measured.cell(place).and_then(|cell| cell.at_the_floor(limit)).map(us),
            });
        }
    }
    lines
}

/// The table, a line for each target of an experiment that was made.
pub(crate) fn table(comparisons: &Comparisons) -> String {
    let mut table = String::from(
        "|   | target | asked | median | interval | floor |\n|---|---|---|---|---|---|\n",
    );
    let (mut reached, mut beyond, mut known) = (0, 0, 0);
    for Line { target, asked, value, floor } in lines(&Measured(comparisons)) {
        let Some(Value { median, interval }) = value else { continue };
        known += 1;
        let mark = match interval {
            _ if asked.holds(median) => {
                reached += 1;
                '+'
            }
            _ if floor.is_some_and(|floor| !asked.holds(floor)) => {
                beyond += 1;
                'x'
            }
            // The truth may lie on the other side.
            Some((low, high)) if asked.holds(low) || asked.holds(high) => '?',
            _ => '-',
        };
        let interval = interval.map(|(low, high)| format!("[{low:.2}, {high:.2}]"));
        let floor = floor.map(|floor| format!("{floor:.2}"));
        let (interval, floor) = (interval.unwrap_or_default(), floor.unwrap_or_default());
        let _infallible =
            writeln!(table, "| {mark} | {target} | {asked} | {median:.2} | {interval} | {floor} |");
    }
    let legend = "+: the median reaches it; x: it does not, and neither would exchanges without any \
                  event loop, by plain system calls (the last column: the floor, measured in \
                  every round); ?: the median does not, but the interval (99 %, bootstrap over \
                  rounds) holds values that do; -: it does not";
    format!(
        "{table}\n{reached} of {known} are reached, {beyond} are beyond the floor\n{}\n",
        wrap(legend, WIDTH, 0)
    )
}
