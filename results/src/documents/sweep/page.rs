//! Section of a sweep: findings and curves.

use super::text;
use crate::html::Page;
use crate::html::figure::Figure;
use crate::html::lines::{Lines, Point, Series};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;
use crate::text::{grouped, load, plural};
use crate::{Axis, Latency, Level, Outcome, Sweep, format};

/// Adds the findings and the curves.
pub(super) fn draw(sweep: &Sweep, page: &mut Page) {
    if sweep.interrupted {
        page.paragraph("loud", "Ended early: there should be more points.");
    }
    page.list("answer", &sweep.sentences());
    let invalid = sweep.points.iter().filter(|point| point.outcome == Outcome::Invalid).count();
    if invalid > 0 {
        let runs = sweep.points.len();
        page.paragraph("loud", &format!("{invalid} of {runs} runs are INVALID and do not count."));
    }
    page.paragraph("sub", &sweep.heading());
    let figures = [latency(sweep), throughput(sweep), server_cpu(sweep)];
    page.charts(figures.into_iter().flatten());
    let rows = sweep.connection_costs();
    if !rows.is_empty() {
        page.push("<h3>Opening and idle memory of the connections</h3>");
        page.paragraph("note", &sweep.connection_legend());
        let mut table = Table::new(text::CONNECTIONS);
        for row in rows {
            table.row(row);
        }
        page.push(&table.html());
    }
}

/// `mio, 5.000k/s to 50.00k/s, 64 connections x 64 bytes`.
pub(super) fn title(sweep: &Sweep) -> String {
    let plan = &sweep.plan;
    let levels = sweep.points.iter().map(|point| point.level);
    let range = match (levels.clone().reduce(f64::min), levels.reduce(f64::max)) {
        (Some(low), Some(high)) if low < high => {
            let low = match plan.axis {
                Axis::Rate => sweep.level(low),
                Axis::Conns => grouped(low as u64),
            };
            format!(", {low} to {}", sweep.level(high))
        }
        (Some(level), _) => format!(", {}", sweep.level(level)),
        _ => String::new(),
    };
    let load = match plan.conns {
        Some(conns) => load(conns, plan.size),
        None => plural(plan.size.into(), "byte"),
    };
    format!("{}{range}, {load}", plan.subject)
}

/// A value of a level, if it is known.
type Value = fn(&Level) -> Option<f64>;

/// The latency-throughput curve: what a user waits, against what the server does. Of several
/// servers, the 99th percentile only.
pub(super) fn latency(sweep: &Sweep) -> Option<Figure> {
    let achieved: fn(&Level) -> f64 = |level| level.achieved_per_s;
    let several = sweep.servers().len() > 1;
    let mut series = match several {
        true => by_server(sweep, "", achieved, |level| level.p99_ns),
        false => {
            let percentiles: [(&str, Value); 3] = [
                ("p50", |level| level.p50_ns),
                ("p99", |level| level.p99_ns),
                ("p99.9", |level| level.p999_ns),
            ];
            let lines = percentiles.map(|(name, value)| by_server(sweep, name, achieved, value));
            lines.into_iter().flatten().collect()
        }
    };
    series.extend(invalid(sweep));
    let what = if several { "p99 latency" } else { "Latency" };
    let all = || series.iter().flat_map(|series| &series.points);
    let (x, y) = (
        Scale::spanning(Unit::PerSecond, all().map(|point| point.x)),
        Scale::spanning(Unit::Nanoseconds, all().map(|point| point.y)),
    );
    figure(Lines {
        title: format!("{what} against throughput"),
        description: format!(
            "A line for each of {}: the latency at the rate achieved, from the least to the most \
             load.",
            series.len()
        ),
        x,
        x_label: "exchanges/s, achieved".into(),
        y,
        y_label: "latency".into(),
        percentiles: !several,
        series,
        note: format!(
            "A point is the median of a level's runs.{}{}",
            overloaded(sweep),
            if sweep.points.iter().any(|point| point.outcome == Outcome::Invalid) {
                " INVALID runs are no part of the curve."
            } else {
                ""
            }
        ),
        data: points(sweep),
    })
}

/// Throughput at each level.
pub(super) fn throughput(sweep: &Sweep) -> Option<Figure> {
    over_levels(sweep, "Throughput", "exchanges/s", Unit::PerSecond, |level| {
        Some(level.achieved_per_s)
    })
}

/// Server CPU time for an exchange at each level.
pub(super) fn server_cpu(sweep: &Sweep) -> Option<Figure> {
    over_levels(sweep, "Server CPU per exchange", "server CPU", Unit::Microseconds, |level| {
        level.server_cpu_us
    })
}

fn over_levels(
    sweep: &Sweep,
    title: &str,
    y_label: &str,
    unit: Unit,
    value: Value,
) -> Option<Figure> {
    let series = by_server(sweep, y_label, |level| level.level, value);
    let highest =
        series.iter().flat_map(|series| &series.points).map(|point| point.y).fold(0.0, f64::max);
    let (x_unit, x_label) = match sweep.plan.axis {
        Axis::Rate => (Unit::PerSecond, "requests/s, planned"),
        Axis::Conns => (Unit::Count, "connections"),
    };
    figure(Lines {
        title: format!("{title} by {x_label}"),
        description: format!("A line for each server: the {y_label} at each level."),
        x: Scale::spanning(x_unit, sweep.levels().iter().map(|level| level.level)),
        x_label: x_label.into(),
        y: Scale::from_zero(unit, highest),
        y_label: y_label.into(),
        percentiles: false,
        series,
        note: overloaded(sweep).trim().to_owned(),
        data: by_levels(&sweep.levels()),
    })
}

/// Meaning of the red points, if there are any.
fn overloaded(sweep: &Sweep) -> &'static str {
    match sweep.levels().iter().any(|level| level.overloaded) {
        true => " Red: the server was overloaded.",
        false => "",
    }
}

/// The chart, unless it has no point at all.
fn figure(lines: Lines) -> Option<Figure> {
    let empty = lines.series.iter().all(|series| series.points.is_empty());
    (!empty).then(|| lines.figure())
}

/// A line for each server, with its name, or `name` in a sweep of one.
fn by_server(sweep: &Sweep, name: &str, x: fn(&Level) -> f64, y: Value) -> Vec<Series> {
    let levels = sweep.levels();
    let line = |server: Option<&str>| {
        let own = levels.iter().filter(|level| level.subject.as_deref() == server);
        let points = own.filter_map(|level| {
            let point = Point::new(x(level), y(level)?);
            Some(Point { doubtful: level.overloaded, ..point })
        });
        Series {
            name: server.filter(|_| sweep.servers().len() > 1).unwrap_or(name).to_owned(),
            points: points.collect(),
            marked: true,
            joined: true,
        }
    };
    sweep.servers().into_iter().map(line).collect()
}

/// Runs that say nothing about their server, a series for each server that has some.
fn invalid(sweep: &Sweep) -> Vec<Series> {
    let several = sweep.servers().len() > 1;
    let of_server = |server: Option<&str>| {
        let runs = sweep.points.iter().filter(|point| point.outcome == Outcome::Invalid);
        let own = runs.filter(|point| point.subject.as_deref() == server);
        let point = |run: &crate::Point| {
            Some(Point::new(run.achieved_per_s, run.latency.main()?.p99_ns as f64))
        };
        let name = match server {
            Some(server) if several => format!("INVALID runs of {server}"),
            _ => "p99 of INVALID runs".to_owned(),
        };
        Series { name, points: own.filter_map(point).collect(), marked: true, joined: false }
    };
    let series = sweep.servers().into_iter().map(of_server);
    series.filter(|series| !series.points.is_empty()).collect()
}

fn by_levels(levels: &[Level]) -> Table {
    let mut table = Table::new([
        "server",
        "level",
        "achieved",
        "p50",
        "p99",
        "p99.9",
        "server CPU",
        "overloaded",
    ]);
    let time = |ns: Option<f64>| ns.map_or("-".into(), |ns| Unit::Nanoseconds.show(ns));
    for level in levels {
        table.row([
            level.subject.clone().unwrap_or("-".into()),
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
        "server", "level", "round", "outcome", "achieved", "p50", "p99", "p99.9", "max", "limit",
        "errors", "reasons",
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
            point.subject.clone().unwrap_or("-".into()),
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
