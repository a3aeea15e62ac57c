//! Section of single runs: their numbers, doubts, and charts of all.

use super::charts::{costs, fairness, throughput, timeline};
use super::notes;
use super::table::metrics;
use super::text;
use crate::environment::circumstances::git;
use crate::html::Page;
use crate::html::escape;
use crate::html::spectrum::{Named, spectrum};
use crate::html::table::Table;
use crate::{Document, Latency, Record, Threshold, format};

/// Most runs in a chart: there are as many colours.
const TOGETHER: usize = 8;

/// Adds the section; alone, the page's heading is its own. The names are of files.
pub(crate) fn section(page: &mut Page, runs: &[(&str, &Record)], alone: bool) {
    let labels = labels(runs);
    page.push("<section class=\"document\" id=\"runs\">");
    page.paragraph("eyebrow", if runs.len() == 1 { "Run" } else { "Runs" });
    match runs {
        _ if alone => {}
        [(_, run)] => page.push(&format!("<h2>{}</h2>", escape(&run.title()))),
        _ => page.push(&format!("<h2>{} runs side by side</h2>", runs.len())),
    }
    page.push("<div class=\"cards\">");
    for ((file, run), label) in runs.iter().zip(&labels) {
        card(page, file, label, run);
    }
    page.push("</div>");
    if runs.len() > 1 {
        let note = "Single runs have no interval: a few percent between them may be noise. \
                    loadgen compare tells noise from difference.";
        page.paragraph("note", note);
    }
    page.list("warning", &notes::unmerged(runs));
    let labelled: Vec<(&str, &Record)> =
        labels.iter().map(String::as_str).zip(runs.iter().map(|&(_, run)| run)).collect();
    for together in labelled.chunks(TOGETHER) {
        charts(page, together);
    }
    for (label, run) in &labelled {
        ranks(page, label, run);
    }
    details(page, &labelled);
    page.push("</section>");
}

/// Names of runs in charts: the subject, with the load if that is not enough, or with a number.
pub(super) fn labels(runs: &[(&str, &Record)]) -> Vec<String> {
    let subject = |run: &Record| run.subject.name.clone();
    let loaded =
        |run: &Record| format!("{}, {} conns x {} B", run.subject.name, run.conns, run.size);
    for name in [subject, loaded] {
        let names: Vec<String> = runs.iter().map(|(_, run)| name(run)).collect();
        let mut distinct = names.clone();
        distinct.sort();
        distinct.dedup();
        if distinct.len() == names.len() {
            return names;
        }
    }
    let numbered = runs.iter().enumerate();
    numbered.map(|(index, (_, run))| format!("{} #{}", run.subject.name, index + 1)).collect()
}

/// Main numbers of a run.
fn card(page: &mut Page, file: &str, label: &str, run: &Record) {
    let state = match (run.valid, run.interrupted) {
        (false, _) => ("invalid", "INVALID"),
        (true, true) => ("doubtful", "interrupted"),
        (true, false) => ("valid", "valid"),
    };
    page.push(&format!(
        "<article class=\"card {0}\"><h3>{1} <span class=\"badge {0}\">{2}</span></h3>",
        state.0,
        escape(label),
        state.1
    ));
    page.paragraph("sub", &load(run));
    if !run.valid {
        page.paragraph("loud", "INVALID: these numbers may not be quoted as the server's.");
        page.list("loud", &run.invalid_reasons);
    }
    let thresholds = |wanted: fn(&Threshold) -> bool| {
        let found = run.thresholds.iter().filter(|threshold| wanted(threshold));
        found.map(|threshold| threshold.expression.as_str()).collect::<Vec<_>>().join(", ")
    };
    for (class, name, found) in [
        ("loud", "Threshold missed", thresholds(Threshold::missed)),
        ("loud", "Threshold undecided", thresholds(|it| it.undecided.is_some())),
        ("sub", "threshold held", thresholds(|it| it.held)),
    ] {
        if !found.is_empty() {
            page.paragraph(class, &format!("{name}: {found}"));
        }
    }
    page.list("warning", &run.warnings);
    page.push("<dl class=\"tiles\">");
    for (name, value) in tiles(run) {
        page.push(&format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(&value)));
    }
    page.push("</dl>");
    if let Some(share) = run.against_floor() {
        page.paragraph("sub", &share);
    }
    let doubts: Vec<String> = run
        .errors
        .iter()
        .map(|error| {
            let errno = error.errno.as_ref().map(|errno| format!(" {errno}")).unwrap_or_default();
            format!("{} {}{errno}, the first: {}", error.count, error.kind, error.first)
        })
        .collect();
    page.list("warning", &doubts);
    page.paragraph("file", &format!("{file}, {}", run.header.started));
    page.push("</article>");
}

/// Properties and a row for each rank of a merged run.
fn ranks(page: &mut Page, label: &str, run: &Record) {
    let Some(merge) = &run.merge else { return };
    page.push(&format!("<h3>Ranks of {}</h3>", escape(label)));
    for (name, sentence) in text::ranks::facts(run, merge) {
        page.paragraph("note", &format!("{name}: {sentence}"));
    }
    let mut table = Table::new(text::ranks::HEAD);
    for rank in &run.ranks {
        table.row(text::ranks::cells(rank));
    }
    page.push(&table.html());
}

/// `1000 connections x 64 bytes, closed loop`.
fn load(run: &Record) -> String {
    let pace = run.rate.as_ref().map_or_else(
        || format!("{} loop", run.load),
        |rate| {
            let planned = format::count(rate.planned_per_s);
            format!("open loop, {planned}/s {}", rate.arrivals)
        },
    );
    let load = crate::text::load(run.conns, run.size);
    format!("{load}, {pace}, {:.1} s; limit: {}", run.duration_s, run.limit)
}

fn tiles(run: &Record) -> Vec<(&'static str, String)> {
    let mut tiles = vec![("exchanges a second", format::count(run.throughput_per_s))];
    if let Some(server) = &run.server {
        let ns = (server.cpu_us_per_exchange * 1e3).round() as u64;
        tiles.push(("server CPU per exchange", format::duration(ns)));
    }
    if let Some(latency) = run.latency.main() {
        let percentiles = [
            ("p50", 0.5, latency.p50_ns),
            ("p99", 0.99, latency.p99_ns),
            ("p99.9", 0.999, latency.p999_ns),
            ("max", 1.0, latency.max_ns),
        ];
        tiles.extend(percentiles.map(|(name, quantile, ns)| (name, latency.shown(quantile, ns))));
    }
    if run.errors_total > 0 {
        tiles.push(("errors", run.errors_total.to_string()));
    }
    tiles
}

fn charts(page: &mut Page, runs: &[(&str, &Record)]) {
    let mut figures = Vec::new();
    let mut problems = Vec::new();
    let mut distributions = |title: &str, named: &[Named]| {
        let (figure, found) = spectrum(title, named);
        figures.extend(figure);
        problems.extend(found);
    };
    if let [(_, run)] = runs {
        // Of one run there is room for all that was timed.
        distributions("Latency by percentile", &timed(run));
    } else {
        let named: Vec<Named> = (runs.iter())
            .map(|(name, run)| Named { name: (*name).to_owned(), latency: run.latency.main() })
            .collect();
        distributions("Latency by percentile", &named);
    }
    let all: Vec<&Record> = runs.iter().map(|&(_, run)| run).collect();
    figures.extend(runs.iter().filter_map(|(name, run)| timeline(name, run, &all)));
    figures.extend(costs(runs));
    figures.extend(throughput(runs));
    figures.extend(fairness(runs));
    page.list("warning", &problems);
    page.charts(figures);
}

/// Distributions of a run, without connects and first exchanges, which are in the table.
fn timed(run: &Record) -> Vec<Named<'_>> {
    let latency = &run.latency;
    let kinds: [(&str, Option<&Latency>); 4] = [
        ("exchange", latency.exchange.as_ref()),
        ("response (from plan)", latency.response.as_ref()),
        ("service (from send)", latency.service.as_ref()),
        ("lateness (send - plan)", latency.lateness.as_ref()),
    ];
    let named = |(name, latency): (&str, Option<_>)| {
        latency.map(|latency| Named { name: name.to_owned(), latency: Some(latency) })
    };
    kinds.into_iter().filter_map(named).collect()
}

/// One fact about how a run was made.
type Fact = fn(&Record) -> String;

/// Tables of all metrics and of how the runs were made.
fn details(page: &mut Page, runs: &[(&str, &Record)]) {
    let names = runs.iter().map(|(name, _)| (*name).to_owned());
    let mut numbers = Table::new(std::iter::once(String::new()).chain(names.clone()));
    for metric in metrics(runs) {
        let values = runs.iter().map(|(_, run)| metric.shown(run));
        numbers.row(std::iter::once(metric.label.to_owned()).chain(values));
    }
    page.push(&numbers.behind("All metrics"));
    let mut made = Table::new(std::iter::once(String::new()).chain(names));
    let facts: [(&str, Fact); 6] = [
        ("command line", |run| run.header.argv.join(" ")),
        ("seed", |run| run.header.seed.map_or("-".into(), |seed| seed.to_string())),
        ("began", |run| run.header.started.clone()),
        ("address", |run| run.subject.addr.clone()),
        ("program", |run| run.header.program()),
        ("git", |run| git(&run.environment.build).unwrap_or("-".into())),
    ];
    for (name, fact) in facts {
        made.row(std::iter::once(name.to_owned()).chain(runs.iter().map(|(_, run)| fact(run))));
    }
    page.push(&made.behind("How they were made"));
}
