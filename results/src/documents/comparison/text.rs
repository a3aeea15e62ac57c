//! Text of a comparison; its tables are also Markdown.

use super::sentences::{decimals, interval};
use super::{Asked, Cell, Comparison, Measured, Metric, RoundFloor, exclusion};
use crate::statistics::{Ratio, Stopped, Verdict};
use crate::text::{COLUMNS, line, load, plural, printable, shorten, table};
use crate::{ErrorCount, format};

/// Longest name of a subject in a table, in characters.
const NAME: usize = 20;

pub(super) fn text(comparison: &Comparison) -> String {
    let mut blocks = vec![lines(header(comparison))];
    blocks.extend(comparison.cells.iter().map(|cell| cell_text(comparison, cell)));
    blocks.push(lines(notes(comparison)));
    blocks.push(lines(conclusion(comparison)));
    blocks.retain(|block| !block.is_empty());
    blocks.join("\n")
}

fn lines(sentences: Vec<String>) -> String {
    sentences.iter().map(|sentence| line(sentence) + "\n").collect()
}

fn header(comparison: &Comparison) -> Vec<String> {
    let plan = &comparison.plan;
    let others: Vec<&str> =
        plan.subjects.iter().map(String::as_str).filter(|name| *name != plan.baseline).collect();
    let mut lines = vec![format!(
        "{} against {}: each run starts its own server, in random order",
        others.join(", "),
        plan.baseline
    )];
    for measured in comparison.cells.iter().flat_map(|cell| &cell.subjects) {
        let via = measured.subject.via.as_ref();
        let place = format!(
            "servers{} on CPU {}, generator on CPU {} with {}{}",
            via.map_or_else(String::new, |via| format!(" through '{via}'")),
            measured.server_cpus.as_deref().unwrap_or("unknown"),
            measured.client_cpus,
            plural(measured.threads.into(), "thread"),
            match measured.placement.as_deref() {
                Some("apart") | None => String::new(),
                Some(how) => format!(", {how}"),
            }
        );
        if !lines.contains(&place) {
            lines.push(place);
        }
    }
    lines.extend(plan.asked.iter().map(asked));
    lines.extend(plan.asked.as_ref().and_then(slices));
    lines.extend(plan.header.seed.map(|seed| format!("seed {seed}")));
    for absent in &plan.absent {
        lines.push(format!("without {}, which did not start: {}", absent.subject, absent.cause));
    }
    lines
}

/// Options that every run has.
fn asked(asked: &Asked) -> String {
    let load = match (asked.rate_per_s, &asked.arrivals) {
        (Some(rate), Some(arrivals)) => format!("{rate} requests/s, {arrivals}"),
        _ => "closed loop".to_owned(),
    };
    let warmup = match asked.warmup_s {
        Some(seconds) => format!("{seconds} s of warm-up"),
        None => "it was steady".to_owned(),
    };
    let mut line = format!("each run: {load}, {} s after {warmup}", asked.duration_s);
    let more = [("threads", asked.threads), ("shards", asked.shards), ("backlog", asked.backlog)];
    for (name, value) in more {
        line.extend(value.map(|value| format!(", {name} {value}")));
    }
    line.extend(asked.engine.iter().map(|engine| format!(", generator on {engine}")));
    line.extend(asked.spin_s.map(|spin_s| format!(", spinning {:.0} us", spin_s * 1e6)));
    line.extend(
        asked.server_spin_ns.map(|ns| format!(", backends polling for {}", format::duration(ns))),
    );
    line
}

/// Time slices of the subjects of a round.
fn slices(asked: &Asked) -> Option<String> {
    let slices = asked.conns.iter().zip(&asked.turns_s).filter(|&(_, &slice_s)| slice_s > 0.0);
    let slices: Vec<String> = slices
        .map(|(conns, slice_s)| format!("{:.0} ms at {conns} connections", slice_s * 1e3))
        .collect();
    (!slices.is_empty())
        .then(|| format!("the subjects of a round alternate, in slices of {}", slices.join(", ")))
}

/// The tables of a cell, and the machine's floor below them.
fn cell_text(comparison: &Comparison, cell: &Cell) -> String {
    let mut blocks = vec![line(&heading(cell)), primary(comparison, cell)];
    let others = || Metric::ALL.into_iter().filter(|metric| *metric != comparison.primary);
    let head: Vec<&str> = std::iter::once("median").chain(others().map(Metric::label)).collect();
    blocks.push(table(
        1,
        &head,
        cell.subjects.iter().map(|measured| {
            let median = |metric| {
                let summary = measured.metrics.get(metric);
                summary.map_or("-".to_owned(), |summary| metric.show(summary.median))
            };
            std::iter::once(name(measured)).chain(others().map(median)).collect()
        }),
    ));
    blocks.extend(ratios(comparison, cell, &others().collect::<Vec<_>>()));
    blocks.extend(floor(cell).map(|floor| line(&floor)));
    blocks.join("\n\n") + "\n"
}

/// `1,000 connections x 64 bytes, closed loop, 10 rounds: precise enough`.
fn heading(cell: &Cell) -> String {
    let end = match cell.stopped {
        Some(Stopped::Precise) => "precise enough",
        Some(Stopped::Maximum) => "the most allowed",
        None => "there should be more",
    };
    let load = load(cell.conns, cell.size);
    format!("{load}, {} loop, {}: {end}", cell.load, plural(cell.rounds.into(), "round"))
}

fn name(measured: &Measured) -> String {
    shorten(&printable(&measured.name), NAME)
}

/// The metric that the claim rests on.
fn primary(comparison: &Comparison, cell: &Cell) -> String {
    let metric = comparison.primary;
    let baseline = shorten(&printable(&comparison.plan.baseline), NAME);
    let ratios = column(comparison, cell, metric);
    let row = |(measured, ratio): (&Measured, String)| {
        let summary = measured.metrics.get(metric);
        let median = summary.map_or("-".to_owned(), |summary| metric.show(summary.median));
        let noise = summary.map_or("-".to_owned(), |it| format!("{:.0} %", it.spread * 100.0));
        vec![name(measured), median, noise, ratio]
    };
    table(
        1,
        &[metric.words(), "median", "noise", &format!("ratio to {baseline}")],
        cell.subjects.iter().zip(ratios).map(row),
    )
}

/// The ratios in the other metrics, in as few tables as fit.
fn ratios(comparison: &Comparison, cell: &Cell, metrics: &[Metric]) -> Vec<String> {
    let baseline = &comparison.plan.baseline;
    let corner = format!("ratio to {}", shorten(&printable(baseline), NAME));
    let width = |text: &String| text.chars().count();
    let columns: Vec<(&str, Vec<String>)> = metrics
        .iter()
        .map(|&metric| (metric.label(), column(comparison, cell, metric)))
        .filter(|(_, cells)| cells.iter().any(|cell| cell.contains('x')))
        .collect();
    let names = cell.subjects.iter().map(name).chain([corner.clone()]);
    let first = names.map(|name| width(&name)).max().unwrap_or(0) + 4;
    let (mut tables, mut rest) = (Vec::new(), columns.as_slice());
    while !rest.is_empty() {
        let mut used = first;
        let fits = |(label, cells): &&(&str, Vec<String>)| {
            used += cells.iter().map(width).max().unwrap_or(0).max(label.len()) + 3;
            used <= COLUMNS
        };
        let (group, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        rest = others;
        let head = [&*corner].into_iter().chain(group.iter().map(|&(label, _)| label));
        let subjects = cell.subjects.iter().enumerate();
        let rows =
            subjects.filter(|(_, measured)| measured.name != *baseline).map(|(i, measured)| {
                [name(measured)]
                    .into_iter()
                    .chain(group.iter().map(|(_, all)| all[i].clone()))
                    .collect()
            });
        tables.push(table(1, &head.collect::<Vec<_>>(), rows));
    }
    tables
}

/// The ratio of every subject of a cell in a metric, with its marks in front so that digits are
/// aligned, and with the same number of decimals; empty for the baseline.
fn column(comparison: &Comparison, cell: &Cell, metric: Metric) -> Vec<String> {
    let ratios = || cell.subjects.iter().filter_map(|measured| measured.ratio(metric));
    let decimals = ratios().map(decimals).max().unwrap_or(2);
    let shown = |measured: &Measured| match measured.ratio(metric) {
        _ if measured.name == comparison.plan.baseline => String::new(),
        None => "-".to_owned(),
        Some(ratio) => {
            let fewer = if is_partial(ratio, cell) {
                format!("({}) ", ratio.rounds)
            } else {
                String::new()
            };
            format!("{fewer}{}{}", mark(ratio.verdict), interval(ratio, decimals))
        }
    };
    cell.subjects.iter().map(shown).collect()
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Lower | Verdict::Higher => "",
        Verdict::NoDifference => "~ ",
        Verdict::TooFewRounds => "? ",
    }
}

/// True if fewer rounds count for a ratio than for others of its cell.
fn is_partial(ratio: &Ratio, cell: &Cell) -> bool {
    let all = cell
        .subjects
        .iter()
        .flat_map(|measured| Metric::ALL.into_iter().filter_map(|metric| measured.ratio(metric)));
    all.map(|other| other.rounds).max().is_some_and(|most| ratio.rounds < most)
}

/// Floor of the machine under the cell's load.
fn floor(cell: &Cell) -> Option<String> {
    let one_thread = cell.at_the_floor(|floor| Some(floor.one_thread_ns))?;
    let one_thread = format::duration(one_thread as u64);
    let spinning = cell
        .at_the_floor(|floor| floor.two_threads_ns)
        .map(|ns| format!("; two spinning threads reach {}/s", format::count(1e9 / ns)));
    Some(format!(
        "floor of this machine, without a server: {one_thread} of CPU for both sides of an \
         exchange{}",
        spinning.unwrap_or_default()
    ))
}

/// Meaning of the marks that occur, and doubts about the numbers.
fn notes(comparison: &Comparison) -> Vec<String> {
    let (primary, baseline) = (comparison.primary.words(), &comparison.plan.baseline);
    let subjects = || comparison.cells.iter().flat_map(|cell| &cell.subjects);
    let mut notes = legend(comparison);
    let full = |measured: &&Measured| {
        let full = measured.exclusions.iter().any(|found| found.kind == "generator-full");
        full && measured.rounds(Metric::ThroughputPerS) > 0
    };
    notes.extend(subjects().find(full).map(|measured| {
        format!(
            "{}: runs in which only the generator was full do not count for throughput and \
             latency. They are its fastest runs, so it is faster than these say",
            measured.name
        )
    }));
    if comparison.primary != Metric::ServerCpuUsPerExchange {
        notes.push(format!(
            "the claim rests on the {primary}: the CPU time of the server cannot be read for every \
             subject"
        ));
    }
    let comparisons: usize =
        comparison.cells.iter().map(|cell| cell.others(baseline).count()).sum();
    if comparisons > 1 {
        notes.push(format!(
            "{comparisons} comparisons with {baseline}: if none differed, chance would show up to \
             {:.1} differences (4 % each)",
            0.04 * comparisons as f64
        ));
    }
    let warnings = exclusion::warnings(subjects().flat_map(|measured| &measured.runs));
    if !warnings.is_empty() {
        let runs: usize = subjects().map(|measured| measured.runs.len()).sum();
        let kinds: Vec<String> =
            warnings.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
        notes.push(format!("of {runs} runs some have warnings: {}", kinds.join(", ")));
    }
    notes.extend(subjects().filter_map(uneven_shards));
    for cell in &comparison.cells {
        notes.extend(cell.changed_speed().map(|(fastest, slowest, ratio)| {
            let time = |floor: &RoundFloor| format::duration(floor.one_thread_ns as u64);
            format!(
                "{}: the machine changed its speed: its floor took {} in round {} and {} in round \
                 {} ({ratio:.2}x). Ratios compare values of the same round; medians mix the speeds",
                load(cell.conns, cell.size),
                time(fastest),
                fastest.round,
                time(slowest),
                slowest.round
            )
        }));
    }
    if comparison.interrupted {
        notes.push("interrupted: there should be more rounds".into());
    }
    for cell in &comparison.cells {
        let load = load(cell.conns, cell.size);
        let failed = cell.subjects.iter().filter_map(failures);
        notes.extend(failed.map(|failures| format!("{load}: {failures}")));
    }
    notes
}

/// `mine: 12 connections failed in 2 of 8 runs: 12 eof, the server closed an idle connection`.
fn failures(measured: &Measured) -> Option<String> {
    let total = measured.runs.iter().fold(0, |sum: u64, run| sum.saturating_add(run.errors_total));
    let failed = measured.runs.iter().filter(|run| run.errors_total > 0).count();
    let mut kinds: Vec<ErrorCount> = Vec::new();
    for error in measured.runs.iter().flat_map(|run| &run.errors) {
        let same =
            |known: &&mut ErrorCount| (&known.kind, &known.errno) == (&error.kind, &error.errno);
        match kinds.iter_mut().find(same) {
            Some(known) => known.count = known.count.saturating_add(error.count),
            None => kinds.push(error.clone()),
        }
    }
    kinds.sort_by_key(|error| std::cmp::Reverse(error.count));
    let kinds: Vec<String> = kinds
        .iter()
        .map(|error| format!("{} {}, {}", error.count, error.kind, error.cause()))
        .collect();
    let (name, runs) = (printable(&measured.name), measured.runs.len());
    let causes = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join("; ")) };
    (total > 0).then(|| {
        let connections = plural(total, "connection");
        format!("{name}: {connections} failed in {failed} of {runs} runs{causes}")
    })
}

/// Runs of a subject whose shards were unevenly loaded, which may be the reason for a difference.
fn uneven_shards(measured: &Measured) -> Option<String> {
    let fact = |warning: &String| warning.strip_prefix("uneven-shards: ").map(str::to_owned);
    let runs = measured.runs.iter();
    let facts: Vec<String> = runs.filter_map(|run| run.warnings.iter().find_map(fact)).collect();
    let (first, all) = (facts.first()?, measured.runs.len());
    let runs = if all == 1 { "run" } else { "runs" };
    Some(format!(
        "{}: in {} of {all} {runs} the load was uneven, which costs throughput and latency: {first}",
        measured.name,
        facts.len()
    ))
}

fn legend(comparison: &Comparison) -> Vec<String> {
    let cells = || {
        comparison.cells.iter().flat_map(|cell| {
            let ratios = cell.subjects.iter().flat_map(|measured| {
                Metric::ALL.into_iter().filter_map(|metric| measured.ratio(metric))
            });
            ratios.map(move |ratio| (ratio, cell))
        })
    };
    let mut marks = vec!["noise: variation from run to run".to_owned()];
    if cells().next().is_some() {
        marks.push(format!(
            "[a, b]: confidence interval, 99 % for the {}, 99.8 % for the others",
            comparison.primary.words()
        ));
    }
    if cells().any(|(ratio, _)| ratio.verdict == Verdict::NoDifference) {
        marks.push("~: no difference shown".to_owned());
    }
    if cells().any(|(ratio, _)| ratio.verdict == Verdict::TooFewRounds) {
        marks.push("?: too few rounds to tell".to_owned());
    }
    if let Some((ratio, _)) = cells().find(|(ratio, cell)| is_partial(ratio, cell)) {
        marks.push(format!("({0}): only {0} rounds count", ratio.rounds));
    }
    if has_gaps(comparison) {
        marks.push("-: not measured, or too few values".to_owned());
    }
    marks
}

/// True if a table of a cell has a `-`: a subject without a median, or without a ratio in a column
/// that another has.
fn has_gaps(comparison: &Comparison) -> bool {
    let gap = |cell: &Cell, metric: Metric| {
        let medians = cell.subjects.iter().any(|measured| measured.metrics.get(metric).is_none());
        let others = || cell.others(&comparison.plan.baseline);
        let shown = metric == comparison.primary || others().any(|it| it.ratio(metric).is_some());
        medians || shown && others().any(|measured| measured.ratio(metric).is_none())
    };
    let metrics = |cell| Metric::ALL.into_iter().any(|metric| gap(cell, metric));
    comparison.cells.iter().any(metrics)
}

/// The sentences, under the load that they are about if there are several.
fn conclusion(comparison: &Comparison) -> Vec<String> {
    let mut lines = Vec::new();
    for cell in &comparison.cells {
        let several = comparison.cells.len() > 1;
        lines.extend(several.then(|| format!("{}:", load(cell.conns, cell.size))));
        let indent = if several { "  " } else { "" };
        let sentences = comparison.sentences_of(cell).into_iter();
        lines.extend(sentences.map(|sentence| format!("{indent}{sentence}")));
    }
    if comparison.plan.aa {
        lines.extend(comparison.noise_floor());
    }
    lines
}
