//! Addition of the records of ranks to the record of the whole run.
//!
//! Counters and histograms are added. Percentiles are those of the sum: a mean of percentiles is
//! none. What cannot be computed from the parts is absent. The records are of unknown origin:
//! whatever they contain, the result is a record or an error.

mod cost;
mod input;
mod notes;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::Histogram;

use self::input::Part;
use self::windows::Windows;
use super::rank::{Merge, RankRow};
use crate::latency::COUNT_MAX;
use crate::text::printable;
use crate::{
    ErrorCount, Fairness, Header, Interval, Latencies, Latency, Rate, Record, Sent, Statistic,
    Subject,
};

/// Reason why records cannot be added.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MergeError {
    /// The cause in one line.
    pub error: String,
    /// A remedy in one line.
    pub hint: Option<String>,
}

impl MergeError {
    fn new(error: impl AsRef<str>) -> Self {
        Self { error: printable(error.as_ref()), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

type Result<T> = std::result::Result<T, MergeError>;

/// Adds the records of all ranks of a run, each with the name of its file, in any order. `argv` is
/// the command line that the result states.
///
/// The throughput is the sum of the ranks' rates, each over its own window; `duration_s` is such
/// that it divides the exchanges into this sum. Environment, floor and build are those of the
/// lowest rank.
///
/// # Errors
///
/// If a record is not of a rank, contradicts itself or another record, if a rank has two records,
/// or none and `partial` is false.
pub fn merge(files: &[(String, Record)], partial: bool, argv: Vec<String>) -> Result<Record> {
    let (parts, missing) = input::check(files, partial)?;
    let (first, rank) = (parts[0].record, parts[0].rank);
    let windows = Windows::new(&parts);
    let started = UNIX_EPOCH + Duration::from_micros(rank.window_start_unix_us);
    let throughput: f64 = parts.iter().map(Part::throughput).sum();
    let exchanges = total(&parts, "exchanges", |record| record.exchanges)?;
    let longest = parts.iter().map(|part| part.record.duration_s).fold(0.0, f64::max);
    let invalid_reasons = windows.reasons(&parts).into_iter().chain(notes::reasons(&parts));
    let invalid_reasons: Vec<String> = invalid_reasons.collect();
    let errors = errors(&parts)?;
    let rows: Vec<RankRow> = parts.iter().map(row).collect();
    Ok(Record {
        header: Header::new("run", started, argv, first.header.seed),
        valid: invalid_reasons.is_empty(),
        invalid_reasons,
        warnings: notes::warnings(&parts, &missing, rank.count),
        interrupted: parts.iter().any(|part| part.record.interrupted),
        rank: None,
        client: cost::client(&parts, &rows),
        ranks: rows,
        merge: Some(Merge { missing, ..windows.merge(rank) }),
        subject: subject(&parts),
        load: first.load.clone(),
        rate: rate(&parts)?,
        conns: small_total(&parts, "conns", |record| record.conns)?,
        sources: sources(&parts),
        size: first.size,
        threads: small_total(&parts, "threads", |record| record.threads)?,
        engine: first.engine.clone(),
        spin_ns: first.spin_ns,
        warmup_s: parts.iter().map(|part| part.record.warmup_s).fold(f64::INFINITY, f64::min),
        warmup_end: first.warmup_end.clone(),
        duration_s: if throughput > 0.0 { exchanges as f64 / throughput } else { longest },
        exchanges,
        throughput_per_s: throughput,
        errors_total: errors.iter().map(|error| error.count).sum(),
        errors,
        unserved: total(&parts, "unserved", |record| record.unserved)?,
        outstanding: positive(total(&parts, "outstanding", |it| it.outstanding.unwrap_or(0))?),
        conns_without_exchange: positive(total(&parts, "conns_without_exchange", |record| {
            record.conns_without_exchange.unwrap_or(0)
        })?),
        sent: sent(&parts)?,
        latency: latencies(&parts)?,
        intervals: intervals(&parts, &windows)?,
        server: cost::server(&parts, missing_none(&parts, rank.count)),
        server_processes: cost::reader(&parts)
            .map(|part| part.record.server_processes.clone())
            .unwrap_or_default(),
        limit: cost::limit(&parts).to_owned(),
        thresholds: Vec::new(),
        fairness: fairness(&parts),
        placement: common(&parts, |record| record.placement.clone()),
        server_statistics: None,
        floor: None,
        environment: first.environment.clone(),
    })
}

/// True if every rank has a record.
fn missing_none(parts: &[Part<'_>], count: u32) -> bool {
    parts.len() == count as usize
}

fn positive(count: u64) -> Option<u64> {
    Some(count).filter(|&count| count > 0)
}

/// Sum of a counter.
fn total(parts: &[Part<'_>], name: &str, value: impl Fn(&Record) -> u64) -> Result<u64> {
    sum(name, parts.iter().map(|part| value(part.record)))
}

fn small_total(parts: &[Part<'_>], name: &str, value: impl Fn(&Record) -> u32) -> Result<u32> {
    let sum = total(parts, name, |record| value(record).into())?;
    u32::try_from(sum).map_err(|_| too_large(name))
}

fn sum(name: &str, values: impl IntoIterator<Item = u64>) -> Result<u64> {
    let sum = values.into_iter().try_fold(0u64, u64::checked_add);
    sum.ok_or_else(|| too_large(name))
}

fn too_large(name: &str) -> MergeError {
    MergeError::new(format!("the sum of {name} over all ranks is too large"))
}

/// Value that all parts have in common.
fn common<T: PartialEq>(parts: &[Part<'_>], value: impl Fn(&Record) -> Option<T>) -> Option<T> {
    let mut values = parts.iter().map(|part| value(part.record));
    let first = values.next()??;
    values.all(|value| value.as_ref() == Some(&first)).then_some(first)
}

fn row(part: &Part<'_>) -> RankRow {
    let (record, main) = (part.record, part.record.latency.main());
    RankRow {
        rank: part.rank.clone(),
        host: record.environment.host.clone(),
        argv: record.header.argv.clone(),
        valid: record.valid,
        conns: record.conns,
        threads: record.threads,
        duration_s: record.duration_s,
        exchanges: record.exchanges,
        throughput_per_s: part.throughput(),
        p50_ns: main.map(|latency| latency.p50_ns),
        p99_ns: main.map(|latency| latency.p99_ns),
        errors_total: record.errors_total,
        client_cpu_us_per_exchange: (record.exchanges > 0)
            .then_some(record.client.cpu_us_per_exchange),
        client_cpus: record.client.cpus.clone(),
    }
}

/// The server, with what any rank knows of it.
fn subject(parts: &[Part<'_>]) -> Subject {
    let subjects = || parts.iter().map(|part| &part.record.subject);
    let number = |value: fn(&Subject) -> Option<u32>| subjects().find_map(value);
    Subject {
        backend: subjects().find_map(|subject| subject.backend.clone()),
        shards: number(|subject| subject.shards),
        backlog: number(|subject| subject.backlog),
        spin_ns: subjects().find_map(|subject| subject.spin_ns),
        ..parts[0].record.subject.clone()
    }
}

/// Sum of the rates. The p99 of the own lateness has no distribution in the records.
fn rate(parts: &[Part<'_>]) -> Result<Option<Rate>> {
    let rates: Vec<&Rate> = parts.iter().filter_map(|part| part.record.rate.as_ref()).collect();
    let Some(first) = rates.first() else { return Ok(None) };
    let count = |name, value: fn(&Rate) -> u64| sum(name, rates.iter().map(|rate| value(rate)));
    Ok(Some(Rate {
        planned_per_s: rates.iter().map(|rate| rate.planned_per_s).sum(),
        achieved_per_s: rates.iter().map(|rate| rate.achieved_per_s).sum(),
        arrivals: first.arrivals.clone(),
        planned: count("planned requests", |rate| rate.planned)?,
        unsent: count("unsent requests", |rate| rate.unsent)?,
        waited: count("requests that waited", |rate| rate.waited)?,
        own_lateness_p99_ns: None,
        spin_ns: first.spin_ns,
    }))
}

/// Source addresses of all ranks, each once.
fn sources(parts: &[Part<'_>]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = parts.iter().flat_map(|part| &part.record.sources);
    all.filter(|&source| seen.insert(source)).cloned().collect()
}

/// Failures by kind and errno. The first of each kind is that of the lowest rank.
fn errors(parts: &[Part<'_>]) -> Result<Vec<ErrorCount>> {
    let mut errors: Vec<ErrorCount> = Vec::new();
    let mut places = BTreeMap::new();
    for part in parts {
        for error in &part.record.errors {
            let place = *places.entry((&error.kind, &error.errno)).or_insert(errors.len());
            if place == errors.len() {
                errors.push(ErrorCount { count: 0, first: first(part, error), ..error.clone() });
            }
            let count = &mut errors[place].count;
            *count = sum("errors", [*count, error.count])?;
        }
    }
    sum("errors", errors.iter().map(|error| error.count))?;
    Ok(errors)
}

/// `connection 17 of rank 2: Connection reset by peer`.
fn first(part: &Part<'_>, error: &ErrorCount) -> String {
    let rank = part.rank.index;
    match error.first.split_once(": ") {
        Some((connection, cause)) => format!("{connection} of rank {rank}: {cause}"),
        None => format!("rank {rank}: {}", error.first),
    }
}

/// Requests sent, if all ranks counted them.
fn sent(parts: &[Part<'_>]) -> Result<Option<Sent>> {
    let all: Option<Vec<Sent>> = parts.iter().map(|part| part.record.sent).collect();
    let Some(all) = all else { return Ok(None) };
    let count = |value: fn(&Sent) -> u64| sum("sent requests", all.iter().map(value));
    Ok(Some(Sent {
        first_exchanges: count(|sent| sent.first_exchanges)?,
        warmup: count(|sent| sent.warmup)?,
        window: count(|sent| sent.window)?,
        after: count(|sent| sent.after)?,
        total: count(|sent| sent.total)?,
    }))
}

fn latencies(parts: &[Part<'_>]) -> Result<Latencies> {
    Ok(Latencies {
        connect: latency(parts, "connect", |all| all.connect.as_ref())?,
        first_exchange: latency(parts, "first_exchange", |all| all.first_exchange.as_ref())?,
        exchange: latency(parts, "exchange", |all| all.exchange.as_ref())?,
        response: latency(parts, "response", |all| all.response.as_ref())?,
        service: latency(parts, "service", |all| all.service.as_ref())?,
        lateness: latency(parts, "lateness", |all| all.lateness.as_ref())?,
    })
}

/// Sum of a distribution, with the statistics that every rank was asked for.
fn latency(
    parts: &[Part<'_>],
    name: &str,
    of: fn(&Latencies) -> Option<&Latency>,
) -> Result<Option<Latency>> {
    let mut all: Option<(Histogram<u64>, &Part<'_>)> = None;
    let mut unanswered = 0;
    let mut asked: Option<BTreeSet<&String>> = None;
    for part in parts {
        let Some(latency) = of(&part.record.latency) else { continue };
        let wrong = |cause| MergeError::new(format!("{}: latency.{name}: {cause}", part.file));
        let histogram = latency.histogram().map_err(&wrong)?;
        let own = latency.unanswered.unwrap_or(0);
        if own > latency.count {
            return Err(wrong(format!("{own} of {} values are unanswered", latency.count)));
        }
        unanswered += own; // Bounded like the counts.
        let keys: BTreeSet<&String> = latency.asked.keys().collect();
        asked = Some(match asked {
            None => keys,
            Some(asked) => asked.intersection(&keys).copied().collect(),
        });
        match &mut all {
            None => all = Some((histogram, part)),
            Some((sum, first)) => {
                if layout(sum) != layout(&histogram) {
                    let [(low, high, digits), (l, h, d)] = [layout(sum), layout(&histogram)];
                    return Err(wrong(format!(
                        "a histogram from {l} to {h} ns of {d} digits, but from {low} to {high} \
                         of {digits} in {}: they cannot be added exactly",
                        first.file
                    )));
                }
                if sum.len() + histogram.len() > COUNT_MAX {
                    return Err(too_large(&format!("latency.{name}.count")));
                }
                sum.add(&histogram).map_err(|error| wrong(error.to_string()))?;
            }
        }
    }
    let statistics: Vec<Statistic> =
        asked.iter().flatten().filter_map(|key| Statistic::of_key(key)).collect();
    let latency = all.and_then(|(sum, _)| Latency::with_unanswered(&sum, unanswered));
    Ok(latency.map(|latency| latency.with(&statistics)))
}

/// Lowest and highest value and number of digits. Histograms with the same ones have the same
/// counters.
fn layout(histogram: &Histogram<u64>) -> (u64, u64, u8) {
    (histogram.low(), histogram.high(), histogram.sigfig())
}

/// Intervals by their number, if they are the same time of all ranks. Their percentiles cannot be
/// computed from those of the ranks.
fn intervals(parts: &[Part<'_>], windows: &Windows) -> Result<Vec<Interval>> {
    let first = &parts[0].record.intervals;
    let all = || parts.iter().map(|part| &part.record.intervals);
    let length_us = first.first().map_or(0.0, |interval| interval.length_s * 1e6);
    let alike = |others: &Vec<Interval>| {
        let pairs = first.iter().zip(others);
        others.len() == first.len()
            && pairs.clone().all(|(a, b)| (a.start_s - b.start_s).abs() < 1e-6)
            && pairs.clone().all(|(a, b)| (a.length_s - b.length_s).abs() * 1e6 < ALIKE * length_us)
    };
    if !all().all(alike) || windows.spread_us() as f64 > ALIKE * length_us {
        return Ok(Vec::new());
    }
    let merged = |number: usize| {
        let these = || all().map(|intervals| &intervals[number]);
        Ok(Interval {
            start_s: first[number].start_s,
            length_s: these().map(|interval| interval.length_s).fold(0.0, f64::max),
            exchanges: sum("exchanges of an interval", these().map(|it| it.exchanges))?,
            errors: sum("errors of an interval", these().map(|it| it.errors))?,
            p50_ns: None,
            p90_ns: None,
            p99_ns: None,
            max_ns: these().filter_map(|interval| interval.max_ns).max(),
        })
    };
    (0..first.len()).map(merged).collect()
}

/// Part of an interval by which intervals of the same number may differ to be added.
const ALIKE: f64 = 0.05;

/// Fairness over the connections of all ranks. The sum of squares of a rank follows from its index.
/// `None` if a rank does not state its fairness, or was interrupted, since not all of its
/// connections count then.
fn fairness(parts: &[Part<'_>]) -> Option<Fairness> {
    let (mut connections, mut sum, mut squares) = (0.0, 0.0, 0.0);
    let (mut min, mut max) = (u64::MAX, 0);
    for part in parts {
        let (record, exchanges) = (part.record, part.record.exchanges as f64);
        let own = match &record.fairness {
            _ if record.interrupted => return None,
            None if record.exchanges == 0 => &Fairness { min: 0, max: 0, jain: 1.0 },
            None => return None,
            Some(fairness) => fairness,
        };
        connections += f64::from(record.conns);
        sum += exchanges;
        squares += exchanges * exchanges / (f64::from(record.conns) * own.jain);
        (min, max) = (min.min(own.min), max.max(own.max));
    }
    (max > 0).then(|| Fairness { min, max, jain: (sum * sum / (connections * squares)).min(1.0) })
}
