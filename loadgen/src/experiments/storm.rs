//! `loadgen storm`: many new connections to a server that accepts them, in a burst or at a rate.
//!
//! One thread makes the connections and their exchanges, and the main thread reads the depth of the
//! server's accept queue. A queue that overflows drops SYNs, and a dropped SYN delays its client by
//! a second.

mod args;
mod burst;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime};

use lockstep_results::backlog::Counters;
use lockstep_results::storm::{Queue, Storm, Storms};
use lockstep_results::{Environment, Header, Latencies, Latency};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::getpid;

pub use args::{Close, StormArgs};

use crate::clients::clock::Clock;
use crate::clients::failures::not_connected;
use crate::clients::pattern::Pattern;
use crate::clients::socket::Target;
use crate::exit::{self, Failure, Outcome};
use crate::experiments::Finished;
use crate::experiments::listening::{kernel_settings, record_depth};
use crate::machine::pauses;
use crate::machine::ports;
use crate::machine::quota::{QuotaMeter, QuotaUse};
use crate::options::SEED_END;
use crate::run::args::RunArgs;
use crate::run::{Job, Session};
use burst::{Burst, Counts, Load};
use lockstep_sys::counters::NetCounters;
use lockstep_sys::errno::describe;
use lockstep_sys::memory;
use lockstep_sys::sock_diag::SockDiag;

/// Interval between two readings of the accept queue's depth.
const WATCH_INTERVAL: Duration = Duration::from_millis(2);

/// Largest delay of the last connect without a note, nanoseconds.
const LATE_MAX_NS: f64 = 50e6;

/// Most changes of the depth that are kept; a burst of a minute has fewer.
const DEPTHS_MAX: usize = 50_000;

/// Runs a burst for each backend, listen queue and number of connections.
///
/// # Errors
///
/// A usage error for options that cannot be met, otherwise the failure of the first server, of a
/// system call or the signal before the first result. Connections that fail are a result.
pub fn storm(args: &StormArgs, argv: Vec<String>) -> Result<Finished<Storms>, Failure> {
    args.output.check()?;
    if args.server.via.is_some() {
        let error = "--via: storm starts its servers on this machine, or loads a --target";
        return Err(Failure::new(exit::USAGE, error));
    }
    let session = Session::start()?;
    let runs = args.runs();
    for run in &runs {
        // At a rate, the number of concurrent connections depends on the server.
        let conns = if args.rate.is_some() { 1 } else { run.conns };
        session.check(&RunArgs { conns, ..run.clone() })?;
    }
    let (mut storms, mut sum, mut failure) = (Vec::new(), None, None);
    for run in &runs {
        let (storm, outcome) = match one(&session, args, run, &argv) {
            Ok(result) => result,
            Err(failure) if storms.is_empty() => return Err(failure),
            Err(failure) => {
                let (document, code) = (Storms::of(storms), failure.code);
                return Ok(Finished { document, code, failure: Some(failure) });
            }
        };
        if !outcome.connected && outcome.signal.is_none() {
            let addr = &storm.subject.addr;
            failure = Some(not_connected(addr, &storm.errors, storm.sources.len()));
        }
        storms.push(storm);
        let sum = sum.get_or_insert(outcome);
        sum.signal = outcome.signal;
        sum.wrong_replies |= outcome.wrong_replies;
        sum.connected &= outcome.connected;
        sum.failures |= outcome.failures;
        sum.valid &= outcome.valid;
        // Without a server, further experiments would show no more.
        if sum.signal.is_some() || failure.is_some() {
            break;
        }
    }
    let code = sum.map_or(exit::FAILURE, |sum| sum.code());
    Ok(Finished { document: Storms::of(storms), code, failure })
}

/// Runs one burst, against a server of its own if there is no target.
fn one(
    session: &Session,
    args: &StormArgs,
    run: &RunArgs,
    argv: &[String],
) -> Result<(Storm, Outcome), Failure> {
    let mut environment = Environment::capture();
    let job = Job {
        args: run,
        command: None,
        argv: Vec::new(),
        label: String::new(),
        floor: None,
        member: None,
    };
    let (prepared, placement) = session.prepare(&job)?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..SEED_END));
    let load = Load {
        target: Target::from_sources(prepared.addr, &args.source)
            .map_err(|error| Failure::new(exit::USAGE, error))?,
        pattern: Pattern::new(args.size, seed),
        conns: run.conns,
        interval_ns: args.rate.map_or(0.0, |rate| 1e9 / rate),
        exchanges: args.exchanges,
        close: args.close,
        timeout: args.timeout,
    };
    if let Err(error) = ports::check(run.conns, load.target.source_count().max(1)) {
        let _ = writeln!(io::stderr(), "warning: {error}");
    }
    let placement_warnings = session.warnings(run, &placement, &prepared.cpus());
    let started = SystemTime::now();
    let mut quota = QuotaMeter::find(&[getpid()]);
    quota.begin();
    let begin = pauses::now();
    let Observed { counts, queue, counters, signal } = observe(session, &load)?;
    let pauses = pauses::between(begin, pauses::now()).sentences("during the burst");
    let throttled = quota.end().and_then(|quota| throttled(&quota, placement.client.len()));
    let (subject, ended) = prepared.stop(&job);
    let error = ended.and_then(|ended| ended.error);
    let failures = counts.failures.total() > 0 || error.is_some();
    let mut notes = pauses;
    notes.extend(throttled);
    let valid = notes.is_empty();
    notes.extend(placement_warnings);
    notes.extend(error.into_iter().chain(rate_missed(&load, &counts)));
    notes.extend(no_port(&load, &counts));
    environment.capture_after();
    let errors_total = counts.failures.total();
    let outcome = Outcome {
        signal,
        wrong_replies: counts.failures.wrong_replies() > 0,
        connected: !counts.connect.is_empty(),
        failures,
        valid,
        held: true,
    };
    let storm = Storm {
        header: Header::new("storm", started, argv.to_vec(), Some(seed)),
        interrupted: signal.is_some(),
        subject,
        placement: placement.name(args.server.place).map(str::to_owned),
        kernel: kernel_settings(),
        conns: run.conns.into(),
        rate_per_s: args.rate,
        exchanges_each: args.exchanges,
        sources: load.target.sources_of(counts.issued as u32),
        size: args.size,
        close: args.close.name().to_owned(),
        issued_s: counts.issued_ns as f64 / 1e9,
        length_s: counts.over_ns as f64 / 1e9,
        completed: counts.completed,
        unfinished: u64::from(run.conns) - counts.completed - errors_total,
        errors_total,
        latency: Latencies {
            connect: Latency::from_histogram(&counts.connect),
            first_exchange: Latency::from_histogram(&counts.first_exchange),
            exchange: Latency::from_histogram(&counts.exchange),
            ..Latencies::default()
        },
        by_syn: counts.by_syn(),
        resent: counts.resent,
        queue,
        counters,
        errors: counts.failures.into_counts(),
        notes,
        environment,
    };
    Ok((storm, outcome))
}

/// A sentence if the generator, which runs on `cpus` CPUs, had used up its quota.
fn throttled(quota: &QuotaUse, cpus: usize) -> Option<String> {
    let quota = quota.record(cpus, false);
    quota.is_used_up().then(|| {
        format!(
            "throttled: the generator had used up its {} for {:.0} % of the time",
            quota.words(),
            quota.throttled * 100.0
        )
    })
}

/// A note if the connects were much later than planned, because of the generator.
fn rate_missed(load: &Load, counts: &Counts) -> Option<String> {
    let planned_ns = counts.issued.saturating_sub(1) as f64 * load.interval_ns;
    let late_ns = counts.issued_ns as f64 - planned_ns;
    let missed = load.interval_ns > 0.0 && late_ns > LATE_MAX_NS.max(planned_ns / 20.0);
    missed.then(|| {
        format!(
            "rate-missed: the last connect was issued {:.0} ms later than planned",
            late_ns / 1e6
        )
    })
}

/// A note if the burst ended early because no port was free.
fn no_port(load: &Load, counts: &Counts) -> Option<String> {
    let untried = u64::from(load.conns) - counts.issued;
    counts.ran_out.then(|| {
        let ports = ports::shown(load.target.source_count());
        format!("no-port: {untried} connections were not tried, since no port is free: {ports}")
    })
}

/// Observations of a burst.
struct Observed {
    counts: Counts,
    queue: Option<Queue>,
    counters: Counters,
    signal: Option<i32>,
}

/// Runs the burst in a thread, and reads the depth of the accept queue meanwhile.
fn observe(session: &Session, load: &Load) -> Result<Observed, Failure> {
    let failed = |what: &'static str| {
        move |error: io::Error| Failure::new(exit::FAILURE, format!("{what}: {}", describe(&error)))
    };
    let mut watch = QueueWatch::start(load.target.addr);
    let before = NetCounters::read().map_err(failed("the kernel's counters"))?;
    let stop = AtomicBool::new(false);
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| failed("eventfd")(error.into()))?;
    let clock = Clock::start();
    let (counts, signal) = thread::scope(|scope| {
        let (stop, clock, wake) = (&stop, &clock, &wake);
        let work = move || Burst::new(load, clock, stop, wake.as_fd())?.run();
        let burst = memory::thread("burst")
            .and_then(|thread| thread.spawn_scoped(scope, work))
            .map_err(failed("cannot start a thread"))?;
        let mut signal = None;
        while !burst.is_finished() {
            watch.iter_mut().for_each(|watch| watch.read(clock));
            if let Some(number) = session.signal_within(WATCH_INTERVAL) {
                signal = Some(number);
                stop.store(true, Relaxed);
                // It fails only if it is readable already.
                let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
            }
        }
        let counts =
            burst.join().map_err(|_| Failure::new(exit::FAILURE, "the burst's thread panicked"))?;
        Ok::<_, Failure>((counts.map_err(failed("cannot wait for events"))?, signal))
    })?;
    watch.iter_mut().for_each(|watch| watch.read(&clock));
    let counters = NetCounters::read().map_err(failed("the kernel's counters"))?.since(&before);
    Ok(Observed { counts, queue: watch.map(|watch| watch.queue), counters, signal })
}

/// Recorder of the depth of the server's accept queues.
struct QueueWatch {
    addr: SocketAddr,
    diag: SockDiag,
    queue: Queue,
}

impl QueueWatch {
    /// Starts recording; `None` if the kernel does not report the queues.
    fn start(addr: SocketAddr) -> Option<Self> {
        let mut diag = SockDiag::open().ok()?;
        let queues = diag.listeners(addr).ok()?;
        let limit = queues.iter().map(|queue| queue.limit).min()?;
        let queue = Queue { listeners: queues.len() as u32, limit, depth: Vec::new() };
        Some(Self { addr, diag, queue })
    }

    fn read(&mut self, clock: &Clock) {
        let at = Duration::from_nanos(clock.now());
        let Ok(queues) = self.diag.listeners(self.addr) else { return };
        if self.queue.depth.len() < DEPTHS_MAX {
            let depth = queues.iter().map(|queue| queue.waiting).sum();
            record_depth(&mut self.queue.depth, at, depth);
        }
    }
}
