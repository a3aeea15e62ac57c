//! What is asked, and whether it is reached.

use std::fmt::Write;

use lockstep_results::statistics::Ratio;
use lockstep_results::{Cell, Comparison, Exchange, Floor, Metric, wrap};

use Metric::{ClientCpuUsPerExchange, P50Ns, P99Ns, ServerCpuUsPerExchange, ThroughputPerS};

/// Columns at most.
const WIDTH: usize = 100;

/// What was measured.
#[derive(Default)]
pub(crate) struct Measured {
    /// By the names of the experiments.
    pub(crate) comparisons: Vec<(&'static str, Comparison)>,
    /// What the machine can do at all.
    pub(crate) floor: Option<Floor>,
}

/// One line of the table.
struct Line {
    target: String,
    asked: Bound,
    value: Option<Value>,
}

/// A number and, where rounds could be paired, its interval.
struct Value {
    median: f64,
    interval: Option<(f64, f64)>,
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

impl Measured {
    fn comparison(&self, name: &str) -> Option<&Comparison> {
        self.comparisons.iter().find(|(of, _)| *of == name).map(|(_, comparison)| comparison)
    }

    fn subject(&self, place: Place) -> Option<&lockstep_results::Measured> {
        let here = |cell: &&Cell| (cell.conns, cell.size) == (place.conns, place.size);
        let cell = self.comparison(place.experiment)?.cells.iter().find(here)?;
        cell.subjects.iter().find(|subject| subject.name == place.subject)
    }

    /// One number over another, round by round.
    fn ratio(&self, of: (Place, Metric), over: (Place, Metric)) -> Option<Value> {
        let (subject, baseline) = (self.subject(of.0)?, self.subject(over.0)?);
        let Ratio { median, low, high, .. } = subject.over(of.1, baseline, over.1)?;
        Some(Value { median, interval: Some((low, high)) })
    }

    fn median(&self, place: Place, metric: Metric) -> Option<f64> {
        Some(self.subject(place)?.metrics.get(metric)?.median)
    }

    /// A throughput as a share of what so many nanoseconds between two replies would give.
    fn share(&self, place: Place, ns: Option<f64>) -> Option<Value> {
        let median = self.median(place, ThroughputPerS)? * ns? / 1e9;
        Some(Value { median, interval: None })
    }
}

fn ns(exchanges: &[Exchange], conns: u32) -> Option<f64> {
    exchanges.iter().find(|exchange| exchange.conns == conns).map(|exchange| exchange.ns.median)
}

/// Every target, with what was measured.
fn lines(measured: &Measured) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = |target: String, asked, value| lines.push(Line { target, asked, value });
    for (conns, size) in [(64, 64), (64, 1024), (1000, 64), (1000, 1024)] {
        let at = |subject| Place { experiment: "crossed", subject, conns, size };
        let monoio = if conns == 64 { 0.97 } else { 0.92 };
        for (subject, over, bound) in [
            ("io-uring", "tokio", 0.88),
            ("io-uring", "monoio", monoio),
            ("mio", "tokio", 0.93),
            ("blocking", "std-threads", 1.0),
        ] {
            let metric = ServerCpuUsPerExchange;
            let value = measured.ratio((at(subject), metric), (at(over), metric));
            let target = format!("server CPU, {subject} over {over}, {conns}x{size}");
            line(target, Bound::AtMost(bound), value);
        }
        let mio = Place { experiment: "generator", ..at("mio") };
        let value = measured.ratio((mio, ClientCpuUsPerExchange), (mio, ServerCpuUsPerExchange));
        let target = format!("CPU, generator over mio, {conns}x{size}");
        line(target, Bound::AtMost(1.0), value);
    }
    let floor = measured.floor.as_ref();
    for subject in ["io-uring", "mio"] {
        for conns in [64, 1000] {
            let place = Place { experiment: "crossed", subject, conns, size: 64 };
            let spinning = floor.and_then(|floor| ns(&floor.two_threads, conns));
            let target = format!("throughput, {subject} over two spinning threads, {conns}x64");
            line(target, Bound::AtLeast(0.95), measured.share(place, spinning));
        }
    }
    for subject in ["io-uring", "mio"] {
        for (conns, bound) in [(64, 1.9), (1000, 1.65)] {
            let at = |subject| Place { experiment: "whole", subject, conns, size: 64 };
            let over_tokio =
                |metric| measured.ratio((at(subject), metric), (at("tokio-mt"), metric));
            let target = format!("whole machine: throughput, {subject} over tokio-mt, {conns}x64");
            line(target, Bound::AtLeast(bound), over_tokio(ThroughputPerS));
            let target = format!("whole machine: p99, {subject} over tokio-mt, {conns}x64");
            line(target, Bound::AtMost(0.2), over_tokio(P99Ns));
            // Every CPU doing whole exchanges.
            let one = floor.and_then(|floor| ns(&floor.one_thread, conns));
            let cpus = measured.subject(at(subject)).map_or(1, |subject| subject.threads);
            let one = one.map(|ns| ns / f64::from(cpus));
            let target = format!("whole machine: throughput, {subject} over the floor, {conns}x64");
            line(target, Bound::AtLeast(0.88), measured.share(at(subject), one));
        }
    }
    for (experiment, how) in [("spinning", "both sides spin"), ("steered", "steered, asleep")] {
        for subject in ["io-uring", "mio"] {
            let place = Place { experiment, subject, conns: 1, size: 64 };
            let p50 =
                measured.median(place, P50Ns).map(|ns| Value { median: ns / 1e3, interval: None });
            line(format!("one connection, {how}: p50 of {subject}, us"), Bound::AtMost(9.0), p50);
        }
    }
    for (subject, bound) in [("io-uring", 1.4), ("mio", 1.6)] {
        let at = |conns| {
            (Place { experiment: "many", subject, conns, size: 64 }, ServerCpuUsPerExchange)
        };
        let target = format!("server CPU, {subject}, 10000 over 1000 connections");
        line(target, Bound::AtMost(bound), measured.ratio(at(10_000), at(1000)));
    }
    lines
}

/// The table, a line for each target of an experiment that was made.
pub(crate) fn table(measured: &Measured) -> String {
    let mut table =
        String::from("|   | target | asked | median | interval |\n|---|---|---|---|---|\n");
    let (mut reached, mut known) = (0, 0);
    for Line { target, asked, value } in lines(measured) {
        let Some(Value { median, interval }) = value else { continue };
        let holds = asked.holds(median);
        known += 1;
        reached += usize::from(holds);
        let mark = match interval {
            _ if holds => "+",
            // The truth may lie on the other side.
            Some((low, high)) if asked.holds(low) || asked.holds(high) => "?",
            _ => "-",
        };
        let interval =
            interval.map_or(String::new(), |(low, high)| format!("[{low:.2}, {high:.2}]"));
        let _infallible =
            writeln!(table, "| {mark} | {target} | {asked} | {median:.2} | {interval} |");
    }
    let legend = "+: the median reaches it; ?: it does not, but the interval (99 %, bootstrap over \
                  rounds) holds values that do; -: it does not";
    format!("{table}\n{reached} of {known} are reached\n{}\n", wrap(legend, WIDTH, 0))
}
