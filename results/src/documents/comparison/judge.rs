//! Verdicts from runs.

use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram;

use super::{ByMetric, Cell, Comparison, Measured, Measurement, Metric, Plan, Run, Summary};
use super::{by_round, exclusion, floors, pairs};
use crate::statistics::{Ratio, median, spread};
use crate::{Environment, Latency};

impl Comparison {
    /// Judges the runs so far, in any order. A cell is all runs with the same connections and size.
    /// Runs of a subject that the plan does not name are ignored.
    ///
    /// An invalid or interrupted run is left out of the metrics that its reasons spoil. A round in
    /// which the baseline or the subject is left out makes no pair. Of several runs of a subject in
    /// one round, the first that counts is taken.
    ///
    /// Cheap enough to be called after every round: [`Cell::stopped`] marks the cells that have
    /// enough rounds.
    pub fn judge(plan: Plan, runs: &[Run]) -> Comparison {
        let primary = primary(&plan, runs);
        let keys: BTreeSet<(u32, u32)> = runs.iter().map(key).collect();
        let cells: Vec<Cell> = keys
            .into_iter()
            .map(|found| {
                let runs: Vec<&Run> = runs.iter().filter(|run| key(run) == found).collect();
                cell(&plan, primary, &runs)
            })
            .collect();
        Comparison {
            interrupted: runs.iter().any(|run| run.record.interrupted),
            primary,
            rounds: cells.iter().map(|cell| cell.rounds).max().unwrap_or(0),
            cells,
            environment: environment(runs),
            plan,
        }
    }
}

/// Key of a cell.
fn key(run: &Run) -> (u32, u32) {
    (run.record.conns, run.record.size)
}

/// Metric that the claim rests on. It depends on what could be read and never on the values: a
/// metric chosen for its result would find a difference between equals.
fn primary(plan: &Plan, runs: &[Run]) -> Metric {
    // A subject without a run that counts does not decide.
    let mut readable: BTreeMap<((u32, u32), &str), bool> = BTreeMap::new();
    let metric = Metric::ServerCpuUsPerExchange;
    for run in runs.iter().filter(|run| plan.subjects.contains(&run.subject)) {
        if !exclusion::left_out(&exclusion::reasons(&run.record)).contains(&metric) {
            *readable.entry((key(run), &run.subject)).or_default() |=
                metric.of(&run.record).is_some();
        }
    }
    if readable.values().all(|&readable| readable) {
        Metric::ServerCpuUsPerExchange
    } else if runs.iter().any(|run| run.record.load == "open") {
        Metric::P99Ns
    } else {
        Metric::ThroughputPerS
    }
}

fn cell(plan: &Plan, primary: Metric, runs: &[&Run]) -> Cell {
    let mut subjects: Vec<Measured> =
        plan.subjects.iter().filter_map(|name| measured(name, runs)).collect();
    if let Some(baseline) = subjects.iter().find(|subject| subject.name == plan.baseline).cloned() {
        for subject in subjects.iter_mut().filter(|subject| subject.name != baseline.name) {
            compare(subject, &baseline, primary);
        }
    }
    let rounds = runs.iter().map(|run| run.round).max().unwrap_or(0);
    let planned = plan.subjects.iter().filter(|&name| *name != plan.baseline);
    let ratios: Vec<Option<&Ratio>> = planned
        .map(|name| subjects.iter().find(|subject| subject.name == *name)?.ratio(primary))
        .collect();
    let stopped = plan.stopping.stop(rounds, &ratios);
    let record = &runs[0].record;
    Cell {
        conns: record.conns,
        size: record.size,
        load: record.load.clone(),
        rounds,
        stopped,
        floors: floors::floors(runs),
        subjects,
    }
}

/// Summary of a subject's runs in a cell; `None` if there are none.
fn measured(name: &str, runs: &[&Run]) -> Option<Measured> {
    let mut runs: Vec<&Run> = runs.iter().copied().filter(|run| run.subject == name).collect();
    runs.sort_by_key(|run| run.round);
    let first = &runs.first()?.record;
    let measurements: Vec<Measurement> = runs.iter().map(|run| measurement(run)).collect();
    let metrics = ByMetric::from_fn(|metric| {
        if measurements.iter().any(|run| lacks_samples(run, metric)) {
            return None;
        }
        let values: Vec<f64> = by_round(&measurements, metric).map(|(_, value)| value).collect();
        let (median, spread) = (median(&values)?, spread(&values).unwrap_or(0.0));
        Some(Summary { median, spread, ratio: None })
    });
    Some(Measured {
        name: name.to_owned(),
        subject: first.subject.clone(),
        threads: first.threads,
        client_cpus: first.client.cpus.clone(),
        placement: first.placement.clone(),
        server_cpus: first
            .server
            .as_ref()
            .map(|server| server.cpus.clone())
            .filter(|cpus| !cpus.is_empty()),
        excluded: measurements.iter().filter(|run| !run.excluded.is_empty()).count() as u32,
        metrics,
        exclusions: exclusion::by_kind(&measurements),
        pooled: pooled(&runs),
        runs: measurements,
    })
}

/// True if a run that counts has too few samples for a percentile. Then the percentile is left out
/// for all runs: those that have it are the faster ones.
fn lacks_samples(run: &Measurement, metric: Metric) -> bool {
    let percentile = matches!(metric, Metric::P50Ns | Metric::P99Ns | Metric::P999Ns);
    percentile && !run.left_out_of.contains(&metric) && run.values.get(metric).is_none()
}

fn measurement(run: &Run) -> Measurement {
    let finite = |metric: Metric| metric.of(&run.record).filter(|value| value.is_finite());
    let excluded = exclusion::reasons(&run.record);
    Measurement {
        round: run.round,
        started: run.record.header.started.clone(),
        left_out_of: exclusion::left_out(&excluded),
        excluded,
        warnings: run.record.warnings.clone(),
        errors_total: run.record.errors_total,
        errors: run.record.errors.clone(),
        values: ByMetric::from_fn(finite),
        record: run.file.clone(),
    }
}

/// Adds the ratios to the baseline.
fn compare(subject: &mut Measured, baseline: &Measured, primary: Metric) {
    let (runs, mut metrics) = (&subject.runs, subject.metrics.clone());
    metrics = ByMetric::from_fn(|metric| {
        let mut summary = metrics.get(metric)?.clone();
        let pairs = pairs((&baseline.runs, metric), (runs, metric));
        let family = if metric == primary { 1 } else { Metric::ALL.len() as u32 - 1 };
        summary.ratio = Ratio::of(&pairs, family);
        Some(summary)
    });
    subject.metrics = metrics;
}

/// Latencies of the runs that count for latency, added up.
fn pooled(runs: &[&Run]) -> Option<Latency> {
    let mut sum: Option<Histogram<u64>> = None;
    let mut unanswered = 0;
    let counts = |run: &&&Run| {
        !exclusion::left_out(&exclusion::reasons(&run.record)).contains(&Metric::P50Ns)
    };
    for run in runs.iter().filter(counts) {
        let latency = run.record.latency.main()?;
        let histogram = latency.histogram().ok()?;
        unanswered += latency.unanswered.unwrap_or(0);
        match &mut sum {
            None => sum = Some(histogram),
            Some(sum) => sum.add(histogram).ok()?,
        }
    }
    Latency::with_unanswered(&sum?, unanswered)
}

fn environment(runs: &[Run]) -> Environment {
    let (first, last) = (
        runs.iter().min_by_key(|run| &run.record.header.started),
        runs.iter().max_by_key(|run| &run.record.header.started),
    );
    Environment {
        load_after: last.and_then(|run| run.record.environment.load_after.clone()),
        ..first.map(|run| run.record.environment.clone()).unwrap_or_default()
    }
}
