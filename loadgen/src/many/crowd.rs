//! A server and so many connections, from the first connect to the last count.

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_results::Crowd;
use rustix::process::Pid;

use super::args::{Cell, ManyArgs};
use super::part::{Counted, Opened, Order, Window, monotonic_ns};
use super::parts::Parts;
use crate::exit::Failure;
use crate::machine::memory::{self, Kernel};
use crate::machine::placement::Placement;
use crate::progress::Progress;
use crate::run::record::{Subject, disagreement, subject};
use crate::run::verdict::{Evidence, Verdict, judge};
use crate::run::{Session, Several};
use crate::servers::embedded::{self, Ended, Server};
use lockstep_sys::cpu_time;
use lockstep_sys::cpus::format_list;

/// How long connections are left idle before memory is looked at.
const IDLE: Duration = Duration::from_millis(200);

/// How often, and how many times at most, it is looked whether the kernel still gives back memory.
const SETTLE: Duration = Duration::from_millis(100);
const SETTLE_LOOKS: u32 = 20;

/// How long before the loop begins the processes are told.
const HEAD_START: Duration = Duration::from_millis(50);

/// A crowd, and what else the exit code depends on.
pub(super) struct Measured {
    pub(super) crowd: Crowd,
    pub(super) connected: bool,
    pub(super) wrong_replies: bool,
}

/// What both sides have used by an instant.
#[derive(Clone, Copy)]
struct Used {
    at_ns: u64,
    server_ns: u64,
    client_ns: u64,
}

/// What there is by an instant.
#[derive(Clone, Copy)]
struct Memory {
    server_bytes: u64,
    kernel: Kernel,
}

/// What was seen of a crowd.
struct Seen {
    placement: Placement,
    shards: u32,
    /// Without connections, and when all were open.
    memory: [Memory; 2],
    /// Likewise, and at the edges of the window.
    used: [Used; 4],
    opened: Opened,
    counted: Counted,
    ended: Vec<Ended>,
}

/// Measures a crowd with so many processes on either side.
pub(super) fn measure(
    session: &Session,
    args: &ManyArgs,
    cell: &Cell,
    processes: u32,
    seed: u64,
) -> Result<Measured, Failure> {
    let progress = Progress::start(Some(&format!("{} with {}: ", cell.backend, cell.conns)));
    let Several { servers, ready, placement } = session.several(&args.server(cell), processes)?;
    let addr = ready.addr;
    let (pids, shards) = (servers.iter().map(Server::pid).collect::<Vec<_>>(), ready.shards);
    let memory = || Memory {
        server_bytes: pids.iter().filter_map(|&pid| memory::anonymous(pid)).sum(),
        kernel: Kernel::now(),
    };
    let used = |clients: &[Pid]| Used {
        at_ns: monotonic_ns(),
        server_ns: cpu_ns(&pids),
        client_ns: cpu_ns(clients),
    };
    settle(session)?;
    let (empty, at_first) = (memory(), used(&[]));
    progress.tell("opening connections");
    let mut parts = Parts::start(&orders(args, cell, processes, addr, &placement, seed))?;
    let clients = parts.pids();
    let opened = parts.opened(session)?;
    progress.tell("idle");
    wait_until(session, monotonic_ns() + ns(IDLE))?;
    let (idle, at_rest) = (memory(), used(&clients));

    let warmup = args.warmup(cell.conns);
    progress.tell(format!("warming up, then measuring for {:.1?}", args.duration));
    let start_ns = monotonic_ns() + ns(HEAD_START + warmup);
    parts.begin(Window { start_ns })?;
    wait_until(session, start_ns)?;
    let at_start = used(&clients);
    wait_until(session, start_ns + ns(args.duration))?;
    let at_end = used(&clients);
    progress.tell("waiting for the last replies");
    let counted = parts.counted(session)?;
    let ended = servers.into_iter().map(Server::stop).collect();

    let subject = Subject { addr, ready: Some(ready), ended: None };
    let seen = Seen {
        placement,
        shards: shards * processes,
        memory: [empty, idle],
        used: [at_first, at_rest, at_start, at_end],
        opened,
        counted,
        ended,
    };
    Ok(evaluate(args, cell, processes, subject, seen))
}

/// Waits, not for long, until the kernel gives back no more of what a crowd before this one held.
fn settle(session: &Session) -> Result<(), Failure> {
    let mut held = u64::MAX;
    for _look in 0..SETTLE_LOOKS {
        let now = Kernel::now().bytes;
        if now >= held {
            break;
        }
        held = now;
        wait_until(session, monotonic_ns() + ns(SETTLE))?;
    }
    Ok(())
}

/// What each process of the generator is to do.
fn orders(
    args: &ManyArgs,
    cell: &Cell,
    processes: u32,
    addr: SocketAddr,
    placement: &Placement,
    seed: u64,
) -> Vec<Order> {
    let orders = (0..processes).scan(0, |source, process| {
        let conns = cell.conns / processes + u32::from(process < cell.conns % processes);
        let order = Order {
            engine: args.engine().name().to_owned(),
            addr,
            conns,
            source: *source,
            size: args.size,
            seed: seed.wrapping_add(process.into()),
            cpus: placement.client.clone(),
            timeout: args.generator.timeout,
            duration: args.duration,
        };
        *source += crate::clients::socket::sources(conns);
        Some(order)
    });
    orders.collect()
}

fn evaluate(
    args: &ManyArgs,
    cell: &Cell,
    processes: u32,
    subject_asked: Subject,
    seen: Seen,
) -> Measured {
    let [at_first, at_rest, at_start, at_end] = seen.used;
    // The readings are a little off the window's edges, so it is the rate that counts.
    let read_ns = (at_end.at_ns - at_start.at_ns) as f64;
    let server_share = (at_end.server_ns - at_start.server_ns) as f64 / read_ns;
    let client_share = (at_end.client_ns - at_start.client_ns) as f64 / read_ns;
    let verdict = verdict(args, cell, &seen, server_share, client_share);
    let Seen { placement, memory: [empty, idle], opened, counted, ended, .. } = seen;
    let window_s = args.duration.as_secs_f64();
    let each = |share: f64| match counted.exchanges {
        0 => 0.0,
        exchanges => share * window_s * 1e6 / exchanges as f64,
    };
    // That the generator was the limit spoils the throughput, but none of the costs.
    let (limited, invalid_reasons): (Vec<_>, Vec<_>) =
        verdict.invalid_reasons.into_iter().partition(|said| said.starts_with("generator-full"));
    let opening_s = opened.until_ns.saturating_sub(opened.from_ns) as f64 / 1e9;
    let open_ns = at_rest.server_ns - at_first.server_ns;
    let statistics = ended.iter().filter_map(|ended| ended.statistics.as_ref());
    let crowd = Crowd {
        subject: subject(&subject_asked, &args.server(cell)),
        conns: cell.conns,
        server_processes: processes,
        client_processes: processes,
        server_cpus: format_list(&placement.server.unwrap_or_default()),
        client_cpus: format_list(&placement.client),
        invalid_reasons,
        warnings: [limited, verdict.warnings].concat(),
        opening_s,
        opened_per_s: (u64::from(cell.conns) - counted.unserved) as f64 / opening_s,
        open_cpu_us_per_connection: open_ns as f64 / 1e3 / f64::from(cell.conns),
        accepted: statistics.filter_map(|counts| counts["accepted"].as_u64()).collect(),
        server_memory_bytes: idle.server_bytes.saturating_sub(empty.server_bytes),
        kernel_memory_bytes: idle.kernel.bytes as i64 - empty.kernel.bytes as i64,
        tcp_memory_bytes: idle.kernel.tcp_bytes as i64 - empty.kernel.tcp_bytes as i64,
        warmup_s: args.warmup(cell.conns).as_secs_f64(),
        duration_s: window_s,
        exchanges: counted.exchanges,
        throughput_per_s: counted.exchanges as f64 / window_s,
        server_cpu_us_per_exchange: each(server_share),
        client_cpu_us_per_exchange: each(client_share),
        limit: verdict.limit.name().to_owned(),
        latency: counted.latency,
        unserved: counted.unserved,
        errors_total: counted.errors.iter().map(|error| error.count).sum(),
        errors: counted.errors,
    };
    let (connected, wrong_replies) = (counted.connected > 0, counted.wrong_replies > 0);
    Measured { crowd, connected, wrong_replies }
}

/// Who was the limit, and what there is to say against the numbers; each side's share is that of
/// one processor.
fn verdict(
    args: &ManyArgs,
    cell: &Cell,
    seen: &Seen,
    server_share: f64,
    client_share: f64,
) -> Verdict {
    let Seen { placement, shards, counted, ended, .. } = seen;
    let clients = placement.client.len() as f64;
    let servers = placement.server.as_deref().unwrap_or_default();
    // A backend with a thread for each connection uses all its processors with one shard.
    let threads =
        if embedded::thread_per_connection(&cell.backend) { cell.conns } else { *shards } as usize;
    let shared = servers.iter().any(|cpu| placement.client.contains(cpu));
    let certain = counted.errors.is_empty();
    judge(&Evidence {
        client_busy: client_share / clients,
        client_waiting: None,
        server_busy: Some(server_share / servers.len().min(threads).max(1) as f64),
        shared_busy: shared.then(|| (client_share + server_share) / clients),
        server_changed: false,
        exchanges: counted.exchanges,
        wrong_replies: counted.wrong_replies,
        conns: cell.conns.into(),
        failed: counted.errors.iter().map(|error| error.count).sum(),
        disagreement: disagreement(ended, args.size, certain.then_some(counted.total)),
        debug_build: cfg!(debug_assertions),
        warmup_at_bound: false,
        trend: None,
        open: None,
    })
}

/// Processor time of several processes, nanoseconds.
fn cpu_ns(pids: &[Pid]) -> u64 {
    pids.iter().filter_map(|&pid| cpu_time::of_process_ns(pid)).sum()
}

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Waits until that instant of the monotonic clock.
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
