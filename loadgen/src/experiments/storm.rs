//! New connections against a server that accepts, all at once or at a rate.
//!
//! One thread makes the connections and their exchanges; this one watches the server's accept
//! queue meanwhile. An accept queue that overflows drops SYNs, and a SYN that is dropped costs its
//! client a second: what the storm shows is that cliff, and who has fallen off it.

mod args;
mod wave;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime};

use lockstep_results::backlog::{Counters, Depth};
use lockstep_results::storm::{Queue, Storm};
use lockstep_results::{Environment, Header, Latencies, Latency};

pub use args::{Close, StormArgs};

use crate::clients::clock::Clock;
use crate::clients::pattern::Pattern;
use crate::clients::socket::Target;
use crate::exit::{self, Failure, Outcome};
use crate::experiments::listening::kernel_settings;
use crate::run::args::RunArgs;
use crate::run::{Job, Session};
use lockstep_sys::counters::NetCounters;
use lockstep_sys::errno::describe;
use lockstep_sys::sock_diag::SockDiag;
use wave::{Plan, Tally, Wave};

/// How often the depth of the accept queue is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// How late a connect may be, nanoseconds, without a word about it.
const LATE_MAX_NS: f64 = 50e6;

/// Changes of the depth that are kept, at most; a storm of a minute has fewer.
const DEPTHS_MAX: usize = 50_000;

/// Storms that are over.
#[derive(Debug)]
pub struct Finished {
    /// What came of them, one at least.
    pub storms: Vec<Storm>,
    /// The exit code.
    pub code: u8,
}

/// One of several storms.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Cell {
    backend: String,
    backlog: Option<u32>,
    conns: u32,
}

/// Carries out a storm for each backend, listen queue and number of connections.
///
/// # Errors
///
/// When there is no result at all. Connections that fail are a result.
pub fn storm(args: &StormArgs, argv: &[String]) -> Result<Finished, Failure> {
    args.output.check()?;
    let session = Session::start()?;
    let cells = args.cells();
    for cell in &cells {
        // At a rate, how many are open at a time is for the server to say.
        let at_a_time = if args.rate.is_some() { 1 } else { cell.conns };
        session.check(&RunArgs { conns: at_a_time, ..args.server(cell) })?;
    }
    let (mut storms, mut sum) = (Vec::new(), None);
    for cell in &cells {
        let (storm, outcome) = one(&session, args, cell, argv)?;
        storms.push(storm);
        let sum = sum.get_or_insert(outcome);
        sum.signal = outcome.signal;
        sum.wrong_replies |= outcome.wrong_replies;
        sum.connected &= outcome.connected;
        sum.failures |= outcome.failures;
        if sum.signal.is_some() {
            break;
        }
    }
    let code = sum.map_or(exit::FAILURE, |sum| sum.code());
    Ok(Finished { storms, code })
}

/// Carries out one storm, against a server of its own if there is no target.
fn one(
    session: &Session,
    args: &StormArgs,
    cell: &Cell,
    argv: &[String],
) -> Result<(Storm, Outcome), Failure> {
    let server_args = args.server(cell);
    let mut environment = Environment::capture();
    let job = Job {
        args: &server_args,
        command: None,
        argv: Vec::new(),
        label: String::new(),
        floor: None,
    };
    let prepared = session.prepare(&job)?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let plan = Plan {
        target: Target::new(prepared.addr),
        pattern: Pattern::new(args.size, seed),
        conns: cell.conns,
        interval_ns: args.rate.map_or(0.0, |rate| 1e9 / rate as f64),
        exchanges: args.exchanges,
        close: args.close,
        timeout: args.timeout,
    };
    let started = SystemTime::now();
    let Driven { tally, queue, counters, signal } = drive(session, &plan)?;
    let (subject, trouble) = prepared.into_subject(&server_args);
    let failures = tally.failures.total() > 0 || trouble.is_some();
    let notes = trouble.into_iter().chain(rate_missed(&plan, &tally)).collect();
    environment.capture_after();
    let errors_total = tally.failures.total();
    let outcome = Outcome {
        signal,
        wrong_replies: tally.failures.wrong_replies() > 0,
        connected: tally.connected > 0,
        failures,
        valid: true,
        held: true,
    };
    let storm = Storm {
        header: Header::new("storm", started, argv.to_vec(), Some(seed)),
        interrupted: signal.is_some(),
        subject,
        placement: args.server.place_name(),
        kernel: kernel_settings(),
        conns: cell.conns.into(),
        rate_per_s: args.rate.map(|rate| rate as f64),
        exchanges_each: args.exchanges,
        size: args.size,
        close: args.close.name().to_owned(),
        issued_s: tally.issued_ns as f64 / 1e9,
        length_s: tally.over_ns as f64 / 1e9,
        completed: tally.completed,
        unfinished: u64::from(cell.conns) - tally.completed - errors_total,
        errors_total,
        latency: latencies(&tally),
        by_syn: tally.by_syn(),
        resent: tally.resent,
        queue,
        counters,
        errors: tally.failures.into_counts(),
        notes,
        environment,
    };
    Ok((storm, outcome))
}

/// Whether connects came much later than planned, which is the generator's doing.
fn rate_missed(plan: &Plan, tally: &Tally) -> Option<String> {
    let planned_ns = tally.tried.saturating_sub(1) as f64 * plan.interval_ns;
    let late_ns = tally.issued_ns as f64 - planned_ns;
    let missed = plan.interval_ns > 0.0 && late_ns > LATE_MAX_NS.max(planned_ns / 20.0);
    missed.then(|| {
        format!(
            "rate-missed: the last connect was issued {:.0} ms later than planned",
            late_ns / 1e6
        )
    })
}

/// What was seen while the connections lasted.
struct Driven {
    tally: Tally,
    queue: Option<Queue>,
    counters: Counters,
    signal: Option<i32>,
}

/// Has a thread make the connections, and watches the accept queue meanwhile.
fn drive(session: &Session, plan: &Plan) -> Result<Driven, Failure> {
    let failed = |what: &'static str| {
        move |error: io::Error| Failure::new(exit::FAILURE, format!("{what}: {}", describe(&error)))
    };
    let mut watch = Watch::start(plan.target.addr);
    let before = NetCounters::read().map_err(failed("the kernel's counters"))?;
    let stop = AtomicBool::new(false);
    let clock = Clock::start();
    let (tally, signal) = thread::scope(|scope| {
        let (stop, clock) = (&stop, &clock);
        let wave = thread::Builder::new()
            .name("storm".to_owned())
            .spawn_scoped(scope, move || Wave::new(plan, clock, stop)?.run())
            .map_err(failed("cannot start a thread"))?;
        let mut signal = None;
        while !wave.is_finished() {
            watch.look(clock);
            if let Some(number) = session.signal_within(LOOK) {
                signal = Some(number);
                stop.store(true, Relaxed);
            }
        }
        let tally = wave.join().map_err(|_| Failure::new(exit::FAILURE, "the storm panicked"))?;
        Ok::<_, Failure>((tally.map_err(failed("cannot wait for events"))?, signal))
    })?;
    watch.look(&clock);
    let counters = NetCounters::read().map_err(failed("the kernel's counters"))?.since(&before);
    Ok(Driven { tally, queue: watch.queue, counters, signal })
}

fn latencies(tally: &Tally) -> Latencies {
    Latencies {
        connect: Latency::from_histogram(&tally.connect),
        first_exchange: Latency::from_histogram(&tally.first_exchange),
        exchange: Latency::from_histogram(&tally.exchange),
        ..Latencies::default()
    }
}

/// The depth of the server's accept queues over time, where the kernel shows it.
struct Watch {
    addr: SocketAddr,
    diag: Option<SockDiag>,
    queue: Option<Queue>,
}

impl Watch {
    fn start(addr: SocketAddr) -> Self {
        let mut diag = SockDiag::open().ok();
        let queues = diag.as_mut().and_then(|diag| diag.listeners(addr).ok()).unwrap_or_default();
        let limit = queues.iter().map(|queue| queue.limit).min();
        let listeners = queues.len() as u32;
        let queue = limit.map(|limit| Queue { listeners, limit, depth: Vec::new() });
        Self { addr, diag, queue }
    }

    fn look(&mut self, clock: &Clock) {
        let (Some(diag), Some(queue)) = (&mut self.diag, &mut self.queue) else { return };
        let at_s = clock.now() as f64 / 1e9;
        let Ok(queues) = diag.listeners(self.addr) else { return };
        let depth = queues.iter().map(|queue| queue.waiting).sum();
        let same = queue.depth.last().is_some_and(|last| last.depth == depth);
        if !same && queue.depth.len() < DEPTHS_MAX {
            queue.depth.push(Depth { at_s, depth });
        }
    }
}
