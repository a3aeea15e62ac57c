//! Notes below a table: differences between runs, and doubts about a run.

use std::collections::{BTreeMap, BTreeSet};

use crate::environment::circumstances::{self, Circumstance, value};
use crate::{Environment, Record, Spread, format, text};

/// Factor of the CPU per exchange by which runs of one command rarely differ on a steady machine.
const MOVED: f64 = 1.1;

/// One line for each run of which several ranks are here.
pub(super) fn unmerged(records: &[(&str, &Record)]) -> Vec<String> {
    let mut runs: BTreeMap<&str, (u64, u32)> = BTreeMap::new();
    for rank in records.iter().filter_map(|(_, record)| record.rank.as_ref()) {
        let (found, count) = runs.entry(&rank.run_id).or_default();
        (*found, *count) = (*found + 1, rank.count);
    }
    let several = runs.iter().filter(|(_, (found, _))| *found > 1);
    let line = |(run, (found, count)): (&&str, &(u64, u32))| {
        let ranks = text::plural((*count).into(), "rank");
        let found = text::grouped(*found);
        text::line(&format!(
            "{found} of the {ranks} of run {run}: loadgen merge adds them to one result"
        ))
    };
    several.map(line).collect()
}

/// One line for each circumstance that is not the same in all runs.
pub(super) fn differences(records: &[(&str, &Record)]) -> Vec<String> {
    let circumstances: Vec<_> = records.iter().map(|(_, record)| circumstances(record)).collect();
    let mut seen = BTreeSet::new();
    let names = circumstances.iter().flatten().map(|(name, _)| name);
    let names: Vec<&String> = names.filter(|&name| seen.insert(name)).collect();
    let mut lines = Vec::new();
    for name in names {
        let values: Vec<&str> = circumstances.iter().map(|all| value(all, name)).collect();
        if values.iter().any(|&value| value != values[0]) {
            let labels = records.iter().map(|&(label, _)| label);
            lines.push(difference(name, &labels.zip(values).collect::<Vec<_>>()));
        }
    }
    if !lines.is_empty() {
        lines.insert(0, "not the same in all:".into());
    }
    lines
}

/// `kernel: 6.1.0 (mio, blocking) | 6.18.44 (io-uring)`.
fn difference(name: &str, values: &[(&str, &str)]) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for &(label, value) in values {
        match groups.iter_mut().find(|(found, _)| *found == value) {
            Some((_, labels)) => labels.push(label),
            None => groups.push((value, vec![label])),
        }
    }
    let groups: Vec<String> =
        groups.iter().map(|(value, labels)| format!("{value} ({})", labels.join(", "))).collect();
    let line = format!("  {name}: {}", groups.join(" | "));
    text::line(&line)
}

/// One line for each run during which the machine had another speed than during the first.
pub(super) fn changed_speed(records: &[(&str, &Record)]) -> Vec<String> {
    let Some(((label, first), others)) = records.split_first() else { return Vec::new() };
    let line = |(other, record): &(&str, &Record)| {
        let found = match (one_thread(first), one_thread(record)) {
            (Some(before), Some(now)) => {
                let [from, to] = [before, now].map(|floor| format::duration(floor.median as u64));
                let ratio = now.changed_from(&before)?;
                format!(
                    "its floor took {from} before {label} and {to} before {other} ({ratio:.2}x)"
                )
            }
            _ => {
                let ratio = both_sides(first, record)?;
                format!("both sides of {other} used {ratio:.2}x the CPU per exchange of {label}")
            }
        };
        (first.environment.host == record.environment.host)
            .then(|| text::line(&format!("the machine changed its speed: {found}")))
    };
    others.iter().filter_map(line).collect()
}

/// Floor of an exchange in one thread, under the load of a run.
fn one_thread(record: &Record) -> Option<Spread> {
    record.floor.as_ref()?.one_thread_spread(record.conns)
}

/// Factor by which the CPU per exchange of both sides differs, if it is the same for both: then it
/// is the machine's. `None` for different loads or servers.
fn both_sides(first: &Record, record: &Record) -> Option<f64> {
    let command = |record: &Record| {
        let (rate, subject) =
            (record.rate.as_ref().map(|rate| rate.planned_per_s), &record.subject);
        let server = (subject.name.clone(), subject.shards, subject.spin_ns);
        (server, record.conns, record.size, rate, record.threads, record.placement.clone())
    };
    let client = record.client.cpu_us_per_exchange / first.client.cpu_us_per_exchange;
    let server =
        record.server.as_ref()?.cpu_us_per_exchange / first.server.as_ref()?.cpu_us_per_exchange;
    let is_change = |ratio: f64| ratio.is_finite() && ratio.ln().abs() >= MOVED.ln();
    let alike = (client / server).ln().abs() < MOVED.ln();
    (command(first) == command(record) && is_change(client) && is_change(server) && alike)
        .then(|| (client * server).sqrt())
}

/// Circumstances of a run.
pub(crate) fn circumstances(record: &Record) -> Vec<Circumstance> {
    let subject = &record.subject;
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let server_quota = record.server.as_ref().and_then(|cost| cost.quota.as_ref());
    let server_cpus = record.server.as_ref().map(|cost| cost.cpus.clone());
    let source = record.server.as_ref().and_then(|cost| cost.source.as_ref());
    // Not its address: a server that is started for the run has another port each time.
    let published = source.map(|_| "its metrics".to_owned());
    let named = [
        ("service", Some(subject.service.clone())),
        ("load", Some(record.load.clone())),
        ("rate", record.rate.as_ref().map(|r| format!("{}/s {}", r.planned_per_s, r.arrivals))),
        ("ranks", number(record.merge.as_ref().map(|merge| merge.expected))),
        ("connections", number(Some(record.conns))),
        ("bytes", number(Some(record.size))),
        ("measured", Some(format!("{:.0}s", record.duration_s))),
        ("warm-up", Some(warmup(record))),
        ("shards", number(subject.shards)),
        ("backlog", number(subject.backlog)),
        ("server spin", subject.spin_ns.map(format::duration)),
        ("client threads", number(Some(record.threads))),
        ("engine", Some(record.engine.clone())),
        ("spin", record.spin_ns.map(format::duration)),
        ("placement", record.placement.clone()),
        ("client CPUs", Some(record.client.cpus.clone())),
        ("client CPU quota", record.client.quota.as_ref().map(|quota| quota.cpus.to_string())),
        ("server CPUs", server_cpus.filter(|cpus| !cpus.is_empty())),
        ("server CPU quota", server_quota.map(|quota| quota.cpus.to_string())),
        ("server CPU from", published),
        ("program", Some(record.header.program())),
    ];
    let named = named.map(|(name, value)| (name.to_owned(), value));
    named.into_iter().chain(circumstances::circumstances(&record.environment)).collect()
}

/// `1.0s`, or `until steady` for a warm-up of variable length.
fn warmup(record: &Record) -> String {
    match &record.warmup_end {
        None => format!("{:.1}s", record.warmup_s),
        Some(_) => "until steady".to_owned(),
    }
}

/// Numbers in ascending order as ranges: `0-2,5`.
pub(crate) fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(",")
}

/// Doubts about a run.
pub(super) fn doubts(label: &str, record: &Record) -> Vec<String> {
    let mut doubts = Vec::new();
    if !record.valid {
        let reasons = record.invalid_reasons.join("; ");
        doubts.push(format!(
            "not valid: {}",
            if reasons.is_empty() { "no reason given" } else { &reasons }
        ));
    }
    if record.interrupted {
        doubts.push("interrupted: the window was cut short".into());
    }
    if record.errors_total > 0 {
        let kinds: Vec<String> = record
            .errors
            .iter()
            .map(|error| {
                let errno = error.errno.as_ref().map(|errno| format!(" {errno}"));
                format!("{} {}{}", error.count, error.kind, errno.unwrap_or_default())
            })
            .collect();
        let kinds = if kinds.is_empty() { "of no stated kind".into() } else { kinds.join(", ") };
        doubts.push(format!("errors: {kinds}"));
    }
    doubts.extend(record.warnings.iter().map(|warning| format!("warning: {warning}")));
    let warned = record.warnings.iter().any(|warning| warning.starts_with("stolen: "));
    if let Some(stolen) = stolen_s(&record.environment).filter(|s| *s > 0.01 * record.duration_s)
        && !warned
    {
        doubts.push(format!("the hypervisor withheld {stolen:.2}s of CPU time"));
    }
    let line = |doubt| text::line(&format!("{label}: {doubt}"));
    doubts.iter().map(line).collect()
}

/// CPU time that the hypervisor gave to others during the run.
fn stolen_s(environment: &Environment) -> Option<f64> {
    let before = environment.load_before.as_ref()?.steal_s?;
    let after = environment.load_after.as_ref()?.steal_s?;
    Some(after - before)
}
