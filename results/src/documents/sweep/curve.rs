//! What a server does under more and more load.

use crate::html::figure::Figure;
use crate::html::lines::{Lines, Point, Series};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;
use crate::{Axis, Latency, Level, Outcome, Sweep, format};

/// A value of a level, if it is known.
type Value = fn(&Level) -> Option<f64>;

/// The latency-throughput curve: what a user waits, against what the server does.
pub(crate) fn latency(sweep: &Sweep) -> Option<Figure> {
    let levels = sweep.levels();
    let mut series = Vec::new();
    let percentiles: [(&str, Value); 3] = [
        ("p50", |level| level.p50_ns),
        ("p99", |level| level.p99_ns),
        ("p99.9", |level| level.p999_ns),
    ];
    for (name, value) in percentiles {
        series.push(over_levels(name, &levels, |level| level.achieved_per_s, value));
    }
    series.extend(invalid(sweep, |point| point.achieved_per_s, |p99| p99.p99_ns as f64));
    let x = achieved(&series);
    draw(Lines {
        title: "Latency against throughput".into(),
        description: "Lines for the median, the 99th and the 99.9th percentile of the latency at \
                      the rate achieved, from the least to the most load."
            .into(),
        x,
        x_label: "exchanges a second, achieved".into(),
        y: latencies(&series),
        y_label: "latency".into(),
        series,
        note:
            "A point: the medians of a level's runs. Red: the server was overloaded there. A run \
               that is INVALID is no part of the curve."
                .into(),
        data: points(sweep),
    })
}

/// What was achieved at each level.
pub(crate) fn throughput(sweep: &Sweep) -> Option<Figure> {
    let levels = sweep.levels();
    let achieved = |level: &Level| Some(level.achieved_per_s);
    let series = vec![over_levels("achieved", &levels, |level| level.level as f64, achieved)];
    draw(Lines {
        title: "Throughput by load".into(),
        description: "A line: the exchanges a second that were achieved at each level.".into(),
        x: by_level(sweep, &levels),
        x_label: level_words(sweep.plan.axis).into(),
        y: Scale::from_zero(Unit::PerSecond, highest(&series)),
        y_label: "exchanges a second".into(),
        series,
        note: "Red: overloaded.".into(),
        data: by_levels(&levels),
    })
}

/// What an exchange cost the server at each level.
pub(crate) fn server_cpu(sweep: &Sweep) -> Option<Figure> {
    let levels = sweep.levels();
    let cost = |level: &Level| level.server_cpu_us;
    let series = vec![over_levels("server CPU", &levels, |level| level.level as f64, cost)];
    draw(Lines {
        title: "Server CPU per exchange by load".into(),
        description: "A line: the processor time of the server for an exchange at each level."
            .into(),
        x: by_level(sweep, &levels),
        x_label: level_words(sweep.plan.axis).into(),
        y: Scale::from_zero(Unit::Microseconds, highest(&series)),
        y_label: "server CPU".into(),
        series,
        note: "Red: overloaded.".into(),
        data: by_levels(&levels),
    })
}

/// The chart, unless it has no point at all.
fn draw(lines: Lines) -> Option<Figure> {
    let empty = lines.series.iter().all(|series| series.points.is_empty());
    (!empty).then(|| lines.figure())
}

fn over_levels(
    name: &str,
    levels: &[Level],
    x: fn(&Level) -> f64,
    y: impl Fn(&Level) -> Option<f64>,
) -> Series {
    let point = |level: &Level| {
        let point = Point::new(x(level), y(level)?);
        Some(Point { doubtful: level.overloaded, ..point })
    };
    Series {
        name: name.to_owned(),
        points: levels.iter().filter_map(point).collect(),
        marked: true,
        joined: true,
    }
}

/// The runs that say nothing of the server, if there are any.
fn invalid(sweep: &Sweep, x: fn(&crate::Point) -> f64, y: fn(&Latency) -> f64) -> Option<Series> {
    let runs = sweep.points.iter().filter(|point| point.outcome == Outcome::Invalid);
    let points: Vec<Point> =
        runs.filter_map(|run| Some(Point::new(x(run), y(run.latency.main()?)))).collect();
    let name = "p99 of INVALID runs".to_owned();
    (!points.is_empty()).then_some(Series { name, points, marked: true, joined: false })
}

fn achieved(series: &[Series]) -> Scale {
    let xs = series.iter().flat_map(|series| &series.points).map(|point| point.x);
    Scale::spanning(Unit::PerSecond, xs)
}

fn latencies(series: &[Series]) -> Scale {
    let ys = series.iter().flat_map(|series| &series.points).map(|point| point.y);
    Scale::spanning(Unit::Nanoseconds, ys)
}

fn by_level(sweep: &Sweep, levels: &[Level]) -> Scale {
    let unit = match sweep.plan.axis {
        Axis::Rate => Unit::PerSecond,
        Axis::Conns => Unit::Count,
    };
    Scale::spanning(unit, levels.iter().map(|level| level.level as f64))
}

fn level_words(axis: Axis) -> &'static str {
    match axis {
        Axis::Rate => "requests a second, planned",
        Axis::Conns => "connections",
    }
}

fn highest(series: &[Series]) -> f64 {
    series.iter().flat_map(|series| &series.points).map(|point| point.y).fold(0.0, f64::max)
}

fn by_levels(levels: &[Level]) -> Table {
    let mut table =
        Table::new(["level", "achieved", "p50", "p99", "p99.9", "server CPU", "overloaded"]);
    let time = |ns: Option<f64>| ns.map_or("-".into(), |ns| Unit::Nanoseconds.show(ns));
    for level in levels {
        table.row([
            level.level.to_string(),
            Unit::PerSecond.show(level.achieved_per_s),
            time(level.p50_ns),
            time(level.p99_ns),
            time(level.p999_ns),
            level.server_cpu_us.map_or("-".into(), |us| Unit::Microseconds.show(us)),
            if level.overloaded { "yes" } else { "no" }.into(),
        ]);
    }
    table
}

/// Every run.
fn points(sweep: &Sweep) -> Table {
    let mut table = Table::new([
        "level", "round", "outcome", "achieved", "p50", "p99", "p99.9", "max", "limit", "errors",
        "reasons",
    ]);
    for point in &sweep.points {
        let outcome = match point.outcome {
            Outcome::Ok => "ok",
            Outcome::Overloaded => "overloaded",
            Outcome::Invalid => "INVALID",
        };
        let time = |value: fn(&Latency) -> u64| {
            point.latency.main().map_or("-".into(), |latency| format::duration(value(latency)))
        };
        table.row([
            point.level.to_string(),
            point.round.to_string(),
            outcome.into(),
            Unit::PerSecond.show(point.achieved_per_s),
            time(|latency| latency.p50_ns),
            time(|latency| latency.p99_ns),
            time(|latency| latency.p999_ns),
            time(|latency| latency.max_ns),
            point.limit.clone(),
            point.errors_total.to_string(),
            point.reasons.join("; "),
        ]);
    }
    table
}
