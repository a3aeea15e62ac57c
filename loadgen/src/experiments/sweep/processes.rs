//! A cell of a sweep whose connections are too many for the descriptors of one process: several
//! servers share a port, and several worker processes load them.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use lockstep_results::{Latencies, Latency, Outcome, Point, Purpose};
use rustix::process::{Pid, getpid};

use super::idle::{IDLE, Reading, cpu_ns};
use super::worker::{Counted, Opened, Spec, Workers, failed, monotonic_ns};
use crate::clients::intervals::{add, histogram};
use crate::clients::socket::sources;
use crate::exit::{self, Failure};
use crate::machine::pauses::{self, Pauses};
use crate::machine::placement::Placement;
use crate::machine::quota::{QuotaMeter, QuotaUse};
use crate::progress::Progress;
use crate::run::args::RunArgs;
use crate::run::record::disagreement;
use crate::run::spread;
use crate::run::verdict::{Evidence, Verdict, judge};
use crate::run::warmup::Warmup;
use crate::run::{Session, Several};
use crate::servers::embedded::{self, Ended, Server};

/// Time by which the loop's beginning is announced to the workers.
const HEAD_START: Duration = Duration::from_millis(50);

/// A point, the server's name, and the exit code.
pub(super) struct Measured {
    pub(super) point: Point,
    pub(super) subject: String,
    pub(super) code: u8,
}

/// Measures a cell with `processes` processes on either side. Connections have source addresses
/// from the index `source` on, which is advanced. If some of the generator's processes end early,
/// their connections have failed, and the point is INVALID.
///
/// # Errors
///
/// If a process cannot be started, if all of the generator's end early, or on a signal.
pub(super) fn measure(
    session: &Session,
    args: &RunArgs,
    processes: u32,
    source: &mut u32,
    round: u32,
    label: &str,
) -> Result<Measured, Failure> {
    let progress = Progress::start(Some(label));
    let Several { servers, ready, placement } = session.several(args, processes)?;
    let pids: Vec<Pid> = servers.iter().map(Server::pid).collect();
    let mut signal = None;
    let empty = Reading::take_settled(&pids, &mut |time| {
        signal = session.signal_within(time);
        signal.is_none()
    });
    if let Some(signal) = signal {
        return Err(Failure::signal(signal));
    }
    let specs = specs(args, processes, ready.addr, &placement, source);
    let (warmup, window) = (specs[0].warmup, specs[0].duration);
    let of_server = placement.server.as_deref().unwrap_or_default();
    let placement_warnings = session.warnings(args, &placement, of_server);
    let mut workers = Workers::start(&specs)?;
    let opened: Vec<Opened> = workers.receive(session, |opened| {
        progress.set_phase(format!("opening {opened} of {} connections", args.conns));
    })?;
    let never_opened = workers.lost_conns();
    let from_ns = opened.iter().map(|worker| worker.from_ns).min().unwrap_or(0);
    let until_ns = opened.iter().map(|worker| worker.until_ns).max().unwrap_or(0);
    progress.set_phase("idle");
    wait_until(session, monotonic_ns() + ns(IDLE))?;
    let idle = Reading::take(&pids);

    progress.set_phase(format!("warming up, then measuring for {window:.1?}"));
    let (begin, begin_ns) = (pauses::now(), monotonic_ns() + ns(HEAD_START));
    workers.begin(begin_ns);
    wait_until(session, begin_ns + ns(warmup))?;
    let mut meters = [&[getpid()], &pids[..]].map(QuotaMeter::find);
    meters.iter_mut().for_each(QuotaMeter::begin);
    let (started, start_ns, used_ns) = (SystemTime::now(), monotonic_ns(), cpu_ns(&pids));
    wait_until(session, begin_ns + ns(warmup + window))?;
    let (read_ns, used_ns) = (monotonic_ns() - start_ns, cpu_ns(&pids).saturating_sub(used_ns));
    let quotas = meters.each_ref().map(QuotaMeter::end);
    let pauses = pauses::between(begin, pauses::now());
    progress.set_phase("waiting for the last replies");
    let mut counted = merge(workers.receive(session, |_| {})?)?;
    let (lost, lost_conns) = (workers.lost(), workers.lost_conns());
    drop(workers);
    counted.unserved += never_opened;
    counted.failed += lost_conns;
    let ended: Vec<Ended> = servers.into_iter().map(Server::stop).collect();

    let took = Duration::from_nanos(until_ns.saturating_sub(from_ns));
    let served = u64::from(args.conns) - counted.unserved;
    let mut opening = idle.opening(&empty, took, args.conns, served);
    let statistics: Vec<_> = ended.iter().filter_map(|ended| ended.statistics.clone()).collect();
    let accepted = statistics.iter().filter_map(|counts| counts["accepted"].as_u64());
    opening.accepted = accepted.collect();
    let failed = counted.failed > 0 || ended.iter().any(|ended| ended.error.is_some());
    let code = match counted.wrong_replies {
        0 if !failed => 0,
        0 => exit::INCOMPLETE,
        _ => exit::WRONG_REPLY,
    };
    let window = Window {
        started,
        length: window,
        shards: (ready.shards * processes) as usize,
        // The readings are a little off the window's edges, so the share of a CPU is used.
        server_share: used_ns as f64 / read_ns as f64,
        placement,
        counted,
        ended,
        pauses,
        quotas,
    };
    let mut point = Point {
        round,
        opening: Some(opening),
        idle_memory: Some(idle.memory(&empty)),
        server_processes: Some(processes),
        client_processes: Some(processes),
        ..window.into_point(args)
    };
    if let Some(lost) = lost {
        point.outcome = Outcome::Invalid;
        point.reasons.insert(0, lost);
    }
    point.warnings.extend(placement_warnings);
    point.warnings.extend(spread::of_connections(&statistics));
    Ok(Measured { point, subject: ready.backend, code })
}

/// Readings and counts of the measured window.
struct Window {
    started: SystemTime,
    length: Duration,
    placement: Placement,
    /// Shards of all servers.
    shards: usize,
    /// CPU time of the servers in relation to the window's length.
    server_share: f64,
    counted: Counted,
    ended: Vec<Ended>,
    /// Pauses of this process.
    pauses: Pauses,
    /// CPU quotas of the generator and of the servers.
    quotas: [Option<QuotaUse>; 2],
}

impl Window {
    fn into_point(self, args: &RunArgs) -> Point {
        let client_share = self.counted.cpu_ns as f64 / ns(self.length) as f64;
        let evidence = self.evidence(args, client_share);
        let Verdict { limit, invalid_reasons, warnings } = judge(&evidence);
        let Counted { exchanges, failed, latency, .. } = self.counted;
        let length_s = self.length.as_secs_f64();
        let each_us = |share: f64| share * length_s * 1e6 / exchanges.max(1) as f64;
        Point {
            subject: None,
            level: args.conns.into(),
            round: 1,
            purpose: Purpose::Level,
            started: humantime::format_rfc3339_millis(self.started).to_string(),
            duration_s: length_s,
            outcome: if invalid_reasons.is_empty() { Outcome::Ok } else { Outcome::Invalid },
            held: None,
            reasons: invalid_reasons,
            conns: args.conns,
            offered_per_s: None,
            achieved_per_s: exchanges as f64 / length_s,
            exchanges,
            errors_total: failed,
            server_cpu_us_per_exchange: Some(each_us(self.server_share)),
            server_busy: evidence.server_busy,
            client_cpu_us_per_exchange: each_us(client_share),
            client_busy: Some(evidence.client_busy),
            limit: limit.name().to_owned(),
            latency,
            warnings,
            opening: None,
            idle_memory: None,
            server_processes: None,
            client_processes: None,
        }
    }

    fn evidence(&self, args: &RunArgs, client_share: f64) -> Evidence {
        let Self { placement, counted, server_share, .. } = self;
        let [client_quota, server_quota] = self.quotas.each_ref().map(Option::as_ref);
        let shared_quota = client_quota
            .zip(server_quota)
            .is_some_and(|(client, server)| client.is_shared_with(server));
        let clients = &placement.client;
        let servers = placement.server.as_deref().unwrap_or_default();
        // With a thread for each connection, one shard uses all CPUs.
        let threads = match embedded::thread_per_connection(&args.backend) {
            true => args.conns as usize,
            false => self.shards,
        };
        let shared = servers.iter().any(|cpu| clients.contains(cpu));
        let certain = counted.failed + counted.outstanding == 0;
        let workers = Pauses { stopped: counted.stopped, suspended: counted.suspended };
        Evidence {
            client_busy: (client_share / clients.len() as f64).min(1.0),
            client_quota: client_quota.map(|quota| quota.record(clients.len(), shared_quota)),
            server_quota: server_quota.map(|quota| quota.record(servers.len(), shared_quota)),
            client_disturbed: None,
            server_disturbed: None,
            sides_share_cpus: shared,
            own_server: true,
            server_busy: Some((server_share / servers.len().min(threads).max(1) as f64).min(1.0)),
            shared_busy: shared
                .then(|| ((client_share + server_share) / clients.len() as f64).min(1.0)),
            server_changed: false,
            pauses: workers.max(self.pauses),
            pauses_before: Pauses::default(),
            outstanding: counted.outstanding,
            longest_wait_ns: counted.longest_wait_ns,
            silent: counted.silent,
            exchanges: counted.exchanges,
            wrong_replies: counted.wrong_replies,
            conns: args.conns.into(),
            failed: counted.failed,
            failure: None,
            disagreement: disagreement(&self.ended, args.size, certain.then_some(counted.total)),
            debug_build: cfg!(debug_assertions),
            warmup_at_bound: false,
            trend: None,
            open: None,
        }
    }
}

/// The load of each worker process. Advances `source` beyond the source addresses of all.
fn specs(
    args: &RunArgs,
    processes: u32,
    addr: SocketAddr,
    placement: &Placement,
    source: &mut u32,
) -> Vec<Spec> {
    let cpus = &placement.client;
    let (Warmup::Fixed(warmup), Some(duration)) = (args.warmup, args.duration) else {
        unreachable!("a sweep has a fixed warm-up and duration");
    };
    let seed = args.generator.seed.unwrap_or_default();
    let spec = |process: u32| {
        let conns = args.conns / processes + u32::from(process < args.conns % processes);
        let first = *source;
        *source = first.wrapping_add(sources(conns));
        Spec {
            engine: args.engine().name().to_owned(),
            addr,
            conns,
            sources: args.generator.source.clone(),
            source: first,
            size: args.size,
            seed: seed.wrapping_add(process.into()),
            threads: args.generator.threads.unwrap_or(cpus.len()).min(conns as usize),
            cpus: cpus.clone(),
            timeout: args.generator.timeout,
            connect_rate: args.generator.connect_rate.map(|rate| rate / f64::from(processes)),
            spin: args.spin_closed(),
            warmup,
            duration,
        }
    };
    (0..processes).map(spec).collect()
}

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Waits until an instant of the monotonic clock.
fn wait_until(session: &Session, instant_ns: u64) -> Result<(), Failure> {
    loop {
        let left_ns = instant_ns.saturating_sub(monotonic_ns());
        if left_ns == 0 {
            return Ok(());
        }
        if let Some(signal) = session.signal_within(Duration::from_nanos(left_ns)) {
            return Err(Failure::signal(signal));
        }
    }
}

/// The sum of the counts; of latencies, the sum of the histograms.
fn merge(counted: Vec<Counted>) -> Result<Counted, Failure> {
    let latency = |field: fn(&Latencies) -> &Option<Latency>| {
        let (mut sum, mut unanswered) = (histogram(), 0);
        for part in counted.iter().filter_map(|worker| field(&worker.latency).as_ref()) {
            unanswered += part.unanswered.unwrap_or(0);
            let part = part
                .histogram()
                .map_err(|error| failed(format!("a process of the generator: {error}")))?;
            add(&mut sum, &part);
        }
        Ok(Latency::with_unanswered(&sum, unanswered))
    };
    let sum = |field: fn(&Counted) -> u64| counted.iter().map(field).sum();
    let most = |field: fn(&Counted) -> u64| counted.iter().map(field).max().unwrap_or(0);
    let longest =
        |field: fn(&Counted) -> Duration| counted.iter().map(field).max().unwrap_or_default();
    Ok(Counted {
        exchanges: sum(|worker| worker.exchanges),
        total: sum(|worker| worker.total),
        cpu_ns: sum(|worker| worker.cpu_ns),
        unserved: sum(|worker| worker.unserved),
        wrong_replies: sum(|worker| worker.wrong_replies),
        latency: Latencies {
            connect: latency(|latency| &latency.connect)?,
            first_exchange: latency(|latency| &latency.first_exchange)?,
            exchange: latency(|latency| &latency.exchange)?,
            ..Latencies::default()
        },
        failed: sum(|worker| worker.failed),
        outstanding: sum(|worker| worker.outstanding),
        silent: sum(|worker| worker.silent),
        longest_wait_ns: most(|worker| worker.longest_wait_ns),
        stopped: longest(|worker| worker.stopped),
        suspended: longest(|worker| worker.suspended),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_divide_connections_and_source_addresses() {
        let args = RunArgs {
            conns: 100_001,
            duration: Some(Duration::from_secs(1)),
            warmup: Warmup::Fixed(Duration::ZERO),
            ..RunArgs::default()
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let placement = Placement { client: vec![0], server: None };
        let (mut source, mut used) = (7, Vec::new());
        for _ in 0..2 {
            let specs = specs(&args, 6, addr, &placement, &mut source);
            let conns: Vec<u32> = specs.iter().map(|spec| spec.conns).collect();
            assert_eq!(conns, [16_667, 16_667, 16_667, 16_667, 16_667, 16_666]);
            for spec in specs {
                used.extend((0..sources(spec.conns)).map(|index| spec.source + index));
            }
        }
        let each_once: Vec<u32> = (7..source).collect();
        assert_eq!(used, each_once, "no address is used again, also not by the next cell");
    }

    #[test]
    fn merged_latencies_are_those_of_all_samples() {
        let latency = |values: std::ops::Range<u64>| {
            let mut part = histogram();
            values.for_each(|value| part.record(value * 1000).unwrap());
            Latency::from_histogram(&part)
        };
        let worker = |values| Counted {
            exchanges: 7,
            latency: Latencies { exchange: latency(values), ..Latencies::default() },
            ..Counted::default()
        };
        let merged = merge(vec![worker(1..11), worker(11..1001)]).unwrap();
        let exchange = merged.latency.exchange.unwrap();
        assert_eq!((exchange.count, exchange.p99_ns), (1000, latency(1..1001).unwrap().p99_ns));
        assert_eq!((merged.exchanges, merged.latency.connect), (14, None));
    }
}
