//! Checks of the records before they are added: each for itself, and all among each other.

use std::collections::BTreeSet;

use super::{MergeError, Result};
use crate::documents::run::notes::ranges;
use crate::environment::circumstances::git;
use crate::text::plural;
use crate::{Cost, Rank, Record};

/// Largest number of ranks, that of connections.
const RANKS_MAX: u32 = 1_000_000;

/// Instants are below this, in microseconds: the year 2255, and whole numbers in any reader.
const INSTANT_END: u64 = 1 << 53;

/// Bound of every number with a fraction: sums and products of them remain finite.
const NUMBER_MAX: f64 = 1e15;

/// Part of a window by which its length may differ from that between its instants.
const LENGTH_TOLERANCE: f64 = 0.01;

/// The same, at least, microseconds.
const LENGTH_TOLERANCE_US: f64 = 10_000.0;

/// Record of one rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    /// Name of its file.
    pub(super) file: &'a str,
    pub(super) record: &'a Record,
    pub(super) rank: &'a Rank,
}

impl Part<'_> {
    /// Rate over its own window.
    pub(super) fn throughput(&self) -> f64 {
        match self.record.duration_s {
            seconds if seconds > 0.0 => self.record.exchanges as f64 / seconds,
            _ => 0.0,
        }
    }
}

/// Returns the records in the order of their ranks, and the ranks that have none.
///
/// # Errors
///
/// See [`merge`](super::merge).
pub(super) fn check(
    files: &[(String, Record)],
    partial: bool,
) -> Result<(Vec<Part<'_>>, Vec<u32>)> {
    let mut parts = Vec::new();
    for (file, record) in files {
        let Some(rank) = &record.rank else {
            let error = format!("{file}: not a record of a rank");
            return Err(match record.merge {
                Some(_) => MergeError::new(format!("{error}, but of ranks that are merged")),
                None => MergeError::new(error).hint("loadgen --ranks N --rank K writes them"),
            });
        };
        let part = Part { file, record, rank };
        is_plausible(&part).map_err(|cause| MergeError::new(format!("{file}: {cause}")))?;
        parts.push(part);
    }
    parts.sort_by_key(|part| (part.rank.index, part.file));
    let Some(&first) = parts.first() else {
        return Err(MergeError::new("no record of a rank"));
    };
    is_one_run(&parts)?;
    for pair in parts.windows(2) {
        // Before other differences: a rank that was started again has another start.
        if pair[0].rank.index == pair[1].rank.index {
            let [a, b] = [pair[0].file, pair[1].file];
            let error = format!("rank {} has two records: {a}, {b}", pair[0].rank.index);
            return Err(MergeError::new(error));
        }
    }
    have_equal_options(&parts)?;
    let found: BTreeSet<u32> = parts.iter().map(|part| part.rank.index).collect();
    let count = first.rank.count;
    let missing: Vec<u32> = (0..count).filter(|index| !found.contains(index)).collect();
    if !missing.is_empty() && !partial {
        let ranks = plural(count.into(), "rank");
        let have = if missing.len() == 1 { "has no record" } else { "have no record" };
        let error = format!("{} of {ranks} {have}: {}", missing.len(), ranges(&missing));
        return Err(MergeError::new(error).hint("--partial adds the others"));
    }
    Ok((parts, missing))
}

/// Checks that one run was measured.
fn is_one_run(parts: &[Part<'_>]) -> Result<()> {
    let runs: BTreeSet<&str> = parts.iter().map(|part| part.rank.run_id.as_str()).collect();
    if runs.len() < 2 {
        return Ok(());
    }
    let shown: Vec<&str> = runs.iter().take(RUNS_SHOWN).copied().collect();
    let more = match runs.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let error = format!("ranks of {} runs: {}{more}", runs.len(), shown.join(", "));
    let error = MergeError::new(error);
    // Ranks that were given other options or starts by mistake: without --run-id, its digest
    // contains these.
    let indices: BTreeSet<u32> = parts.iter().map(|part| part.rank.index).collect();
    Err(match indices.len() == parts.len() {
        true => error.hint("ranks of one run need the same options and start; argv states them"),
        false => error.hint("--run-id ID chooses one"),
    })
}

/// Number of runs that an error lists.
const RUNS_SHOWN: usize = 20;

/// Checks a record for itself.
fn is_plausible(part: &Part<'_>) -> std::result::Result<(), String> {
    let Part { record, rank, .. } = part;
    let Rank { index, count, .. } = rank;
    if *count > RANKS_MAX {
        return Err(format!("{count} ranks, and at most {RANKS_MAX} are possible"));
    }
    if index >= count {
        return Err(format!("rank {index} of {count}: ranks are from 0"));
    }
    if record.conns == 0 || record.threads == 0 {
        return Err("a rank without connections or threads".to_owned());
    }
    let instants = [
        rank.planned_start_unix_us,
        rank.start_unix_us,
        rank.start_monotonic_us,
        rank.window_start_unix_us,
        rank.window_end_unix_us,
    ];
    if instants.iter().any(|&instant| instant >= INSTANT_END) {
        return Err("an instant of the rank is out of range".to_owned());
    }
    let window_us = rank.window_end_unix_us.checked_sub(rank.window_start_unix_us);
    let window_us = window_us.ok_or("its window ends before it starts")? as f64;
    for (name, value) in numbers(record) {
        if !(0.0..=NUMBER_MAX).contains(&value) {
            return Err(format!("{name} is {value:e}"));
        }
    }
    if 0.0 < record.duration_s && record.duration_s < 1e-9 {
        return Err(format!("duration_s is {:e}", record.duration_s));
    }
    let measured_us = record.duration_s * 1e6;
    let tolerance = (LENGTH_TOLERANCE * measured_us).max(LENGTH_TOLERANCE_US);
    if (measured_us - window_us).abs() > tolerance {
        return Err(format!(
            "duration_s is {}, but its window lasts {window_us:.0} us",
            record.duration_s
        ));
    }
    if let Some(fairness) = &record.fairness {
        let least = 1.0 / f64::from(record.conns);
        // The last digits differ by rounding.
        if !(least * 0.999..=1.001).contains(&fairness.jain) || fairness.min > fairness.max {
            return Err("fairness is not that of its connections".to_owned());
        }
    }
    Ok(())
}

/// All numbers with a fraction that are used.
fn numbers(record: &Record) -> Vec<(&'static str, f64)> {
    let mut numbers = vec![("duration_s", record.duration_s), ("warmup_s", record.warmup_s)];
    let costs = std::iter::once(&record.client).chain(&record.server);
    numbers.extend(costs.flat_map(cost_numbers));
    if let Some(rate) = &record.rate {
        numbers.push(("rate.planned_per_s", rate.planned_per_s));
        numbers.push(("rate.achieved_per_s", rate.achieved_per_s));
    }
    for interval in &record.intervals {
        numbers.push(("intervals.start_s", interval.start_s));
        numbers.push(("intervals.length_s", interval.length_s));
    }
    numbers
}

fn cost_numbers(cost: &Cost) -> [(&'static str, f64); 6] {
    [
        ("cpu_us_per_exchange", Some(cost.cpu_us_per_exchange)),
        ("user_us_per_exchange", cost.user_us_per_exchange),
        ("system_us_per_exchange", cost.system_us_per_exchange),
        ("context_switches_per_exchange", cost.context_switches_per_exchange),
        ("busy", cost.busy),
        ("syscalls_per_exchange", cost.syscalls_per_exchange),
    ]
    .map(|(name, value)| (name, value.unwrap_or(0.0)))
}

/// Property that all ranks have in common. `None` is not known to the rank.
type Common = (&'static str, fn(&Part<'_>) -> Option<String>);

/// Properties that all ranks have in common: versions, options, and the agreed start.
const COMMON: [Common; 25] = [
    ("number of ranks", |part| Some(part.rank.count.to_string())),
    ("program", |part| Some(part.record.header.program())),
    ("schema", |part| Some(part.record.header.schema.to_string())),
    ("revision", |part| Some(git(&part.record.environment.build).unwrap_or("-".into()))),
    ("profile", |part| Some(shown(&part.record.environment.build.profile))),
    ("agreed start", |part| {
        part.rank.has_window().then(|| format!("{} us", part.rank.planned_start_unix_us))
    }),
    ("service", |part| Some(part.record.subject.service.clone())),
    ("server", |part| Some(part.record.subject.name.clone())),
    ("address", |part| Some(part.record.subject.addr.clone())),
    ("backend", |part| part.record.subject.backend.clone()),
    ("shards", |part| part.record.subject.shards.map(|shards| shards.to_string())),
    ("backlog", |part| part.record.subject.backlog.map(|backlog| backlog.to_string())),
    ("server spin_ns", |part| part.record.subject.spin_ns.map(|ns| ns.to_string())),
    ("load", |part| Some(part.record.load.clone())),
    ("rate", |part| Some(shown(&part.record.rate.as_ref().map(|rate| rate.planned_per_s)))),
    ("arrivals", |part| Some(shown(&part.record.rate.as_ref().map(|rate| &rate.arrivals)))),
    ("rate spin_ns", |part| Some(shown(&part.record.rate.as_ref().map(|rate| rate.spin_ns)))),
    ("size", |part| Some(part.record.size.to_string())),
    ("engine", |part| Some(part.record.engine.clone())),
    ("spin_ns", |part| Some(shown(&part.record.spin_ns))),
    ("warm-up end", |part| Some(shown(&part.record.warmup_end))),
    ("seed", |part| Some(shown(&part.record.header.seed))),
    ("start source", |part| part.rank.has_window().then(|| part.rank.start_source.clone())),
    ("digest of the options", |part| Some(part.rank.options_digest.clone())),
    ("kind", |part| Some(part.record.header.kind.clone())),
];

fn shown<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or("-".to_owned(), ToString::to_string)
}

/// Checks that all ranks have the same options.
fn have_equal_options(parts: &[Part<'_>]) -> Result<()> {
    for (name, value) in COMMON {
        let mut first: Option<(String, &Part<'_>)> = None;
        for part in parts {
            let Some(found) = value(part) else { continue };
            match &first {
                None => first = Some((found, part)),
                Some((value, _)) if *value == found => {}
                Some((value, first)) => {
                    let error =
                        format!("{}: {name} is {found}, but {value} in {}", part.file, first.file);
                    return Err(MergeError::new(error).hint(
                        "all ranks need the same program, options and start; argv states them",
                    ));
                }
            }
        }
    }
    Ok(())
}
