//! Cost of both sides over all ranks.

use std::collections::{BTreeMap, BTreeSet};

use super::input::Part;
use crate::Cost;
use crate::documents::run::notes::ranges;
use crate::documents::run::rank::RankRow;
use crate::text::plural;

/// Cost of all generators, each weighted with its exchanges: the sum of the CPU times over the sum
/// of the exchanges. Quotas are those of the machines, not of the run: they remain with the ranks.
pub(super) fn client(parts: &[Part<'_>], rows: &[RankRow]) -> Cost {
    let exchanges: f64 = parts.iter().map(|part| part.record.exchanges as f64).sum();
    let weighted = |value: fn(&Cost) -> Option<f64>| {
        let busy = parts.iter().filter(|part| part.record.exchanges > 0);
        let sum: Option<f64> =
            busy.map(|part| Some(value(&part.record.client)? * part.record.exchanges as f64)).sum();
        let mean = sum? / exchanges;
        // Without exchanges the cost is zero, as that of one run.
        Some(if exchanges > 0.0 { mean } else { 0.0 })
    };
    Cost {
        cpu_us_per_exchange: weighted(|cost| Some(cost.cpu_us_per_exchange)).unwrap_or(0.0),
        user_us_per_exchange: weighted(|cost| cost.user_us_per_exchange),
        system_us_per_exchange: weighted(|cost| cost.system_us_per_exchange),
        context_switches_per_exchange: weighted(|cost| cost.context_switches_per_exchange),
        busy: busy(parts, rows),
        cpus: cpus(rows),
        syscalls_per_exchange: weighted(|cost| cost.syscalls_per_exchange),
        quota: None,
        source: None,
        counted_by: None,
    }
}

/// Generators of one machine.
#[derive(Default)]
struct Host<'a> {
    name: Option<&'a str>,
    /// CPU lists of the ranks.
    lists: BTreeSet<&'a str>,
    threads: u64,
    /// Longest window.
    window_s: f64,
}

impl Host<'_> {
    /// CPUs of all its ranks; `None` if a list is none.
    fn cpus(&self) -> Option<BTreeSet<u32>> {
        let all: Option<Vec<_>> = self.lists.iter().map(|list| parse(list)).collect();
        Some(all?.into_iter().flatten().collect())
    }

    /// CPU list of all its ranks.
    fn list(&self) -> String {
        match self.cpus() {
            Some(cpus) => ranges(&cpus.into_iter().collect::<Vec<_>>()),
            None => self.lists.iter().copied().collect::<Vec<_>>().join(","),
        }
    }
}

/// The machines by their identity. Ranks without one are of one machine.
fn hosts(rows: &[RankRow]) -> BTreeMap<Option<&str>, Host<'_>> {
    let mut hosts: BTreeMap<_, Host<'_>> = BTreeMap::new();
    for row in rows {
        let host = hosts.entry(row.machine()).or_default();
        host.name = host.name.or(row.host.as_deref());
        host.lists.insert(&row.client_cpus);
        host.threads += u64::from(row.threads);
        host.window_s = host.window_s.max(row.duration_s);
    }
    hosts
}

/// CPU time of all generators over the time of the CPUs that they could use. `None` without CPU
/// lists.
fn busy(parts: &[Part<'_>], rows: &[RankRow]) -> Option<f64> {
    let used = parts
        .iter()
        .map(|part| part.record.client.cpu_us_per_exchange * part.record.exchanges as f64 / 1e6);
    let available = |host: &Host<'_>| {
        Some(host.window_s * (host.cpus()?.len() as u64).min(host.threads) as f64)
    };
    let available: Option<f64> = hosts(rows).values().map(available).sum();
    let busy = used.sum::<f64>() / available?;
    Some(if busy.is_finite() { busy.min(1.0) } else { 0.0 })
}

/// CPU lists of the generators: `0-1,4` on one machine, else by machine: `0-1 of 3 hosts; 0-3 of
/// 9f86d081`.
fn cpus(rows: &[RankRow]) -> String {
    let hosts = hosts(rows);
    if let (1, Some(host)) = (hosts.len(), hosts.values().next()) {
        return host.list();
    }
    let mut by_list: BTreeMap<String, Vec<Option<&str>>> = BTreeMap::new();
    for host in hosts.values() {
        by_list.entry(host.list()).or_default().push(host.name);
    }
    let shown = by_list.iter().map(|(list, hosts)| match hosts[..] {
        [Some(host)] => format!("{list} of {host}"),
        _ => format!("{list} of {}", plural(hosts.len() as u64, "host")),
    });
    shown.collect::<Vec<_>>().join("; ")
}

/// CPUs of a list such as `0,2-3`; `None` if it is none, or has numbers beyond any machine's.
fn parse(list: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend((last < CPUS_MAX).then_some(first..=last)?);
    }
    Some(cpus)
}

/// Largest number of CPUs that Linux can be built for.
const CPUS_MAX: u32 = 8192;

/// Lowest rank that knows the server's cost, if possible by the server's own count.
pub(super) fn reader<'a, 'b>(parts: &'a [Part<'b>]) -> Option<&'a Part<'b>> {
    let counted = |part: &&Part<'_>| {
        let server = part.record.server.as_ref();
        server.is_some_and(|server| server.counted_by.as_deref() == Some("server"))
    };
    let known = |part: &&Part<'_>| part.record.server.is_some();
    parts.iter().find(counted).or_else(|| parts.iter().find(known))
}

/// Cost of the server, as one rank has read it.
///
/// If the server has counted the exchanges, they are those of all ranks. Otherwise a rank divides
/// by its own exchanges, but the CPU time is for those of all: the cost is as much lower as its
/// rate is lower than that of all. `None` if some of them are unknown.
pub(super) fn server(parts: &[Part<'_>], complete: bool) -> Option<Cost> {
    let part = reader(parts)?;
    let cost = part.record.server.clone()?;
    if cost.counted_by.as_deref() == Some("server") {
        return Some(cost);
    }
    let all: f64 = parts.iter().map(Part::throughput).sum();
    let share = part.throughput() / all;
    (complete && share.is_finite()).then(|| Cost {
        cpu_us_per_exchange: cost.cpu_us_per_exchange * share,
        user_us_per_exchange: cost.user_us_per_exchange.map(|us| us * share),
        system_us_per_exchange: cost.system_us_per_exchange.map(|us| us * share),
        context_switches_per_exchange: cost.context_switches_per_exchange.map(|it| it * share),
        ..cost
    })
}

/// Side whose CPUs were full: of the generators, if one was; of the server, if a rank knows it.
pub(super) fn limit(parts: &[Part<'_>]) -> &'static str {
    let any = |names: [&str; 2]| parts.iter().any(|part| names.contains(&&*part.record.limit));
    match (any(["server", "both"]), any(["client", "both"]), any(["neither", "neither"])) {
        (true, true, _) => "both",
        (true, false, _) => "server",
        (false, true, _) => "client",
        (false, false, true) => "neither",
        (false, false, false) => "unknown",
    }
}
