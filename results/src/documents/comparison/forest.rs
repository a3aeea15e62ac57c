//! Chart of the ratios to the baseline with their intervals.

use super::{decimals, interval};
use crate::html::figure::Figure;
use crate::html::rows::{Mark, Row, Rows};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::statistics::{Ratio, Verdict};
use crate::{Cell, Metric, format};

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
