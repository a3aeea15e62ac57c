//! Charts of a comparison: ratios to the baseline, and the rounds of one metric.

use super::{decimals, interval};
use crate::html::figure::Figure;
use crate::html::rows::{Mark, Row, Rows};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;
use crate::statistics::{Ratio, Verdict, median_interval};
use crate::{Cell, Measured, Metric, format};

/// The chart of a cell, or `None` where nothing has a ratio.
pub(crate) fn forest(cell: &Cell, baseline: &str, primary: Metric) -> Option<Figure> {
    let mut metrics = vec![primary];
    metrics.extend(Metric::ALL.into_iter().filter(|&metric| metric != primary));
    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    let mut data = Table::new([
        "metric",
        "subject",
        "ratio [interval]",
        "verdict",
        "confidence",
        "rounds",
        "signed-rank p",
    ]);
    for metric in metrics {
        let others: Vec<(usize, &str, &Ratio)> = (cell.subjects.iter().enumerate())
            .filter_map(|(index, subject)| {
                Some((index, subject.name.as_str(), subject.ratio(metric)?))
            })
            .collect();
        if others.is_empty() {
            continue;
        }
        let role = if metric == primary { " (the claim rests on it)" } else { "" };
        rows.push(Row::Heading(format!("{}{role}", metric.words())));
        for (series, name, ratio) in others {
            ratios.extend([ratio.low, ratio.median, ratio.high]);
            rows.push(Row::Marks {
                name: name.to_owned(),
                series,
                marks: vec![Mark::Interval(ratio.low, ratio.high), Mark::Value(ratio.median)],
                value: interval(ratio, decimals(ratio)),
            });
            data.row([
                metric.words().to_owned(),
                name.to_owned(),
                interval(ratio, decimals(ratio)),
                verdict(ratio.verdict).to_owned(),
                format!("{}%", format::count(ratio.confidence * 100.0)),
                ratio.rounds.to_string(),
                format!("{:.3}", ratio.p_signed_rank),
            ]);
        }
    }
    (!rows.is_empty()).then(|| {
        let rows = Rows {
            title: format!("Ratio to {baseline}"),
            description: format!(
                "For each metric and subject the median of the paired ratios to {baseline}, with \
                 its interval; an interval beside 1 is a claimed difference."
            ),
            scale: Scale::of_ratios(ratios),
            reference: Some(1.0),
            rows,
            note: format!(
                "Left of the line at 1 is less than {baseline}: better for all but throughput. \
                 Bootstrap intervals over rounds, 99 % for the first metric, 99.8 % for the others."
            ),
            data,
        };
        rows.figure()
    })
}

/// A verdict in a table.
pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Lower => "lower",
        Verdict::Higher => "higher",
        Verdict::NoDifference => "no difference within noise",
        Verdict::TooFewRounds => "too few rounds",
    }
}

/// Confidence of the interval.
const CONFIDENCE: f64 = 0.95;

/// The chart of a metric in a cell, or `None` where it was not measured.
pub(crate) fn rounds(cell: &Cell, metric: Metric, title: &str) -> Option<Figure> {
    let mut rows = Vec::new();
    let mut max = 0.0f64;
    let mut data = Table::new(["subject", "median", "interval", "rounds, in order"]);
    for (series, subject) in cell.subjects.iter().enumerate() {
        let values = values(subject, metric);
        max = values.iter().map(|&(value, _)| value).fold(max, f64::max);
        let counted: Vec<f64> =
            values.iter().filter(|(_, counts)| *counts).map(|&(value, _)| value).collect();
        let mut marks: Vec<Mark> = values
            .iter()
            .map(
                |&(value, counts)| if counts { Mark::Sample(value) } else { Mark::Excluded(value) },
            )
            .collect();
        let summary = subject.metrics.get(metric);
        let interval = median_interval(&counted, CONFIDENCE);
        if let (Some(summary), Some((low, high))) = (summary, interval) {
            marks.push(Mark::Interval(low, high));
            marks.push(Mark::Value(summary.median));
        }
        let median = summary.map_or("-".into(), |summary| metric.show(summary.median));
        data.row([
            subject.name.clone(),
            median.clone(),
            interval.map_or("-".into(), |(low, high)| {
                format!("[{}, {}]", metric.show(low), metric.show(high))
            }),
            values
                .iter()
                .map(|&(value, counts)| {
                    metric.show(value) + if counts { "" } else { " (left out)" }
                })
                .collect::<Vec<_>>()
                .join(", "),
        ]);
        rows.push(Row::Marks { name: subject.name.clone(), series, marks, value: median });
    }
    (max > 0.0).then(|| {
        let rows = Rows {
            title: title.to_owned(),
            description: format!(
                "For each subject the {} of every round, their median and its interval.",
                metric.words()
            ),
            scale: Scale::from_zero(unit(metric), max),
            reference: None,
            rows,
            note: "Small dots: rounds (a cross: left out). Large: their median, with its 95 % \
                   bootstrap interval."
                .into(),
            data,
        };
        rows.figure()
    })
}

/// Value of each run; true if it counts.
fn values(subject: &Measured, metric: Metric) -> Vec<(f64, bool)> {
    let value = |run: &crate::Measurement| {
        let value = *run.values.get(metric)?;
        // Old files do not name the metrics: then the run is left out of all.
        let counts = match run.left_out_of.as_slice() {
            [] => run.excluded.is_empty(),
            metrics => !metrics.contains(&metric),
        };
        value.is_finite().then_some((value, counts))
    };
    subject.runs.iter().filter_map(value).collect()
}

fn unit(metric: Metric) -> Unit {
    match metric {
        Metric::ThroughputPerS => Unit::PerSecond,
        Metric::P50Ns | Metric::P99Ns | Metric::P999Ns => Unit::Nanoseconds,
        Metric::ServerCpuUsPerExchange | Metric::ClientCpuUsPerExchange => Unit::Microseconds,
    }
}
