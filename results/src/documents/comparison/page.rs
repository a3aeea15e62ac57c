//! Section of a comparison: its answer, the ratios of all cells, and each cell.

use std::collections::BTreeSet;

use super::charts::{forest, rounds, verdict};
use super::{decimals, interval};
use crate::html::Page;
use crate::html::escape;
use crate::html::spectrum::{Named, spectrum};
use crate::html::table::Table;
use crate::statistics::{Stopped, Verdict};
use crate::text::{grouped, load};
use crate::{Cell, Comparison, Metric, format};

/// Adds the answer, the ratios of all cells, and the charts of each cell.
pub(super) fn draw(comparison: &Comparison, page: &mut Page, id: &str) {
    if comparison.interrupted {
        page.paragraph("loud", "Interrupted: there should be more rounds.");
    }
    // With several cells, the matrix is the answer.
    if comparison.cells.len() == 1 {
        page.list("answer", &comparison.sentences());
    }
    if comparison.plan.aa {
        page.list("answer", &comparison.noise_floor());
    }
    if comparison.cells.len() > 1 {
        matrix(page, id, comparison);
    }
    for cell in &comparison.cells {
        in_cell(page, id, comparison, cell);
    }
    let stopping = &comparison.plan.stopping;
    let rounds = match stopping.rounds_min == stopping.rounds_max {
        true => format!("{} rounds", stopping.rounds_max),
        false => format!(
            "{} to {} rounds, until every interval of the {} is within {:.0} %",
            stopping.rounds_min,
            stopping.rounds_max,
            comparison.primary.words(),
            stopping.precision * 100.0
        ),
    };
    page.paragraph("note", &rounds);
}

/// `io-uring and blocking against mio, at 64 and 1,000 connections, 64 bytes`.
pub(super) fn title(comparison: &Comparison) -> String {
    let plan = &comparison.plan;
    let others: Vec<String> =
        plan.subjects.iter().filter(|&subject| *subject != plan.baseline).cloned().collect();
    let against = match others.as_slice() {
        [] => plan.baseline.clone(),
        others => format!("{} against {}", listed(others), plan.baseline),
    };
    let values = |value: fn(&Cell) -> u32| {
        let values: BTreeSet<u32> = comparison.cells.iter().map(value).collect();
        listed(&values.into_iter().map(|value| grouped(value.into())).collect::<Vec<_>>())
    };
    match comparison.cells.as_slice() {
        [] => against,
        [cell] => format!("{against}, {}", load(cell.conns, cell.size)),
        _ => {
            let (conns, sizes) = (values(|cell| cell.conns), values(|cell| cell.size));
            format!("{against}, at {conns} connections, {sizes} bytes")
        }
    }
}

/// `1, 64 and 1,000`.
fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Table of the ratios in the primary metric: a row for each cell, a column for each subject.
fn matrix(page: &mut Page, id: &str, comparison: &Comparison) {
    let plan = &comparison.plan;
    let others: Vec<&String> =
        plan.subjects.iter().filter(|&subject| *subject != plan.baseline).collect();
    page.push(&format!(
        "<h3>{}, ratio to {}</h3><div class=\"scroll\" tabindex=\"0\"><table class=\"matrix\">\
         <thead><tr><th scope=\"col\">load</th>",
        escape(comparison.primary.words()),
        escape(&plan.baseline)
    ));
    for name in &others {
        page.push(&format!("<th scope=\"col\">{}</th>", escape(name)));
    }
    page.push("</tr></thead><tbody>");
    for cell in &comparison.cells {
        page.push(&format!(
            "<tr><th scope=\"row\"><a href=\"#{id}-{}\">{}</a></th>",
            place(cell),
            load(cell.conns, cell.size)
        ));
        for name in &others {
            let measured = cell.subjects.iter().find(|measured| measured.name == **name);
            let ratio = measured.and_then(|measured| measured.ratio(comparison.primary));
            page.push(&match ratio {
                None => "<td>-</td>".to_owned(),
                Some(ratio) => format!(
                    "<td class=\"{}\"><b>{:.2}x</b> <small>{}</small></td>",
                    judgement(comparison.primary, ratio.verdict),
                    ratio.median,
                    verdict(ratio.verdict)
                ),
            });
        }
        page.push("</tr>");
    }
    page.push("</tbody></table></div>");
}

/// CSS class of a verdict: better or worse than the baseline.
fn judgement(metric: Metric, verdict: Verdict) -> &'static str {
    match (verdict, metric) {
        (Verdict::Lower, Metric::ThroughputPerS) => "worse",
        (Verdict::Higher, Metric::ThroughputPerS) | (Verdict::Lower, _) => "better",
        (Verdict::Higher, _) => "worse",
        (Verdict::NoDifference | Verdict::TooFewRounds, _) => "equal",
    }
}

/// Identifier of a cell: `64x1024`.
fn place(cell: &Cell) -> String {
    format!("{}x{}", cell.conns, cell.size)
}

fn in_cell(page: &mut Page, id: &str, comparison: &Comparison, cell: &Cell) {
    let end = match cell.stopped {
        Some(Stopped::Precise) => "precise enough",
        Some(Stopped::Maximum) => "the most allowed",
        None => "there should be more",
    };
    page.push(&format!(
        "<section class=\"cell\" id=\"{id}-{}\"><h3>{}</h3>",
        place(cell),
        load(cell.conns, cell.size)
    ));
    page.paragraph("sub", &format!("{} loop, {} rounds: {end}", cell.load, cell.rounds));
    if comparison.cells.len() > 1 {
        page.list("sentences", &comparison.sentences_of(cell));
    }
    let (spectrum, problems) = spectrum("Latency by percentile, all rounds", &pooled(cell));
    page.list("warning", &problems);
    let figures = [
        forest(cell, &comparison.plan.baseline, comparison.primary),
        rounds(cell, Metric::ServerCpuUsPerExchange, "Server CPU per exchange"),
        rounds(cell, Metric::ThroughputPerS, "Throughput"),
        spectrum,
    ];
    page.charts(figures.into_iter().flatten());
    page.push(&medians(cell).behind("All metrics"));
    page.push("</section>");
}

fn pooled(cell: &Cell) -> Vec<Named<'_>> {
    let subjects = cell.subjects.iter().map(|measured| (&measured.name, &measured.pooled));
    subjects
        .map(|(name, latency)| Named { name: name.clone(), latency: latency.as_ref() })
        .collect()
}

/// Every subject's median, its noise and its ratio in every metric; and where it ran.
fn medians(cell: &Cell) -> Table {
    let mut table = Table::new([
        "metric",
        "subject",
        "median",
        "spread",
        "ratio",
        "errors",
        "left out",
        "client CPUs",
        "server CPUs",
    ]);
    for metric in Metric::ALL {
        for measured in &cell.subjects {
            let summary = measured.metrics.get(metric);
            let errors: f64 = measured.runs.iter().map(|run| run.errors_total as f64).sum();
            table.row([
                metric.words().to_owned(),
                measured.name.clone(),
                summary.map_or("-".into(), |summary| metric.show(summary.median)),
                summary.map_or("-".into(), |summary| format!("{:.1}%", summary.spread * 100.0)),
                measured.ratio(metric).map_or("-".into(), |ratio| interval(ratio, decimals(ratio))),
                format::count(errors),
                measured.excluded.to_string(),
                measured.client_cpus.clone(),
                measured.server_cpus.clone().unwrap_or("-".into()),
            ]);
        }
    }
    table
}
