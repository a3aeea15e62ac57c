//! One process of several of the generator: opens its connections, leaves them idle, and has them
//! make exchanges when it is told to.
//!
//! It prints a line of JSON when they are open, takes a line that says when to measure, and prints
//! what it has counted. Instants are of the monotonic clock, which all processes share.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use clap::{Args, ValueEnum};
use lockstep_results::{ErrorCount, Latencies, Latency};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::clients::clock::Clock;
use crate::clients::connection::Service;
use crate::clients::control::Control;
use crate::clients::counters::Totals;
use crate::clients::engine::Engine;
use crate::clients::intervals::{IntervalCounts, Intervals};
use crate::clients::pattern::Pattern;
use crate::clients::plan::{Plan, ThreadLoad};
use crate::clients::socket::Target;
use crate::clients::worker;
use crate::exit::{self, Failure};
use crate::machine::limits;
use crate::machine::placement::pin;
use crate::machine::signals;
use lockstep_sys::errno::describe;

/// The options of the hidden `loadgen many-part`.
#[derive(Args, Debug)]
pub struct PartArgs {
    /// The process that has started it, and that it ends with.
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// What to do, in JSON.
    order: String,
}

/// What a process is to do.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Order {
    /// The engine's name.
    pub(super) engine: String,
    pub(super) addr: SocketAddr,
    pub(super) conns: u32,
    /// Which of the source addresses is its first.
    pub(super) source: u32,
    pub(super) size: u32,
    pub(super) seed: u64,
    /// Processors, with a thread on each.
    pub(super) cpus: Vec<usize>,
    pub(super) timeout: Duration,
    pub(super) duration: Duration,
}

/// Every connection is open and has had an exchange, or has failed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Opened {
    /// Before the first connect.
    pub(super) from_ns: u64,
    /// After the last first reply.
    pub(super) until_ns: u64,
}

/// When to measure; the loop begins at once.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Window {
    pub(super) start_ns: u64,
}

/// What a process has counted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Counted {
    /// In the window.
    pub(super) exchanges: u64,
    /// All in all.
    pub(super) total: u64,
    pub(super) connected: u64,
    pub(super) unserved: u64,
    pub(super) wrong_replies: u64,
    pub(super) latency: Latencies,
    pub(super) errors: Vec<ErrorCount>,
}

/// The monotonic clock, nanoseconds.
pub(super) fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Carries out a part.
pub fn part(args: &PartArgs) -> ExitCode {
    if !signals::end_with(args.parent) {
        return ExitCode::FAILURE;
    }
    match obey(&args.order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

fn obey(order: &str) -> Result<(), Failure> {
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    let order: Order =
        serde_json::from_str(order).map_err(|error| failed(format!("the order: {error}")))?;
    let threads = order.cpus.len().min(order.conns as usize);
    limits::raise_descriptors(order.conns, threads).map_err(failed)?;
    let from_ns = monotonic_ns();
    let clock = Clock::start();
    let control = Control::new(clock.clone(), threads, false)
        .map_err(|error| failed(format!("cannot wake threads: {}", describe(&error))))?;
    let plan = Plan {
        engine: Engine::from_str(&order.engine, false).map_err(failed)?,
        target: Target::new(order.addr).from_source(order.source),
        service: Service::Echo,
        pattern: Pattern::new(order.size, order.seed),
        timeout: order.timeout,
        connect_rate: None,
        threads,
        open: None,
        spin: Duration::ZERO,
        slices: None,
        interval_ns: order.duration.as_nanos() as u64,
    };
    let counted = thread::scope(|scope| {
        // Whatever happens, nobody waits for threads that wait for the window.
        let _end = CutOnDrop(&control);
        let (sender, opened) = channel();
        let mut threads = Vec::new();
        for load in ThreadLoad::divide(order.conns, None, plan.threads) {
            let (sender, cpu) = (sender.clone(), order.cpus[load.thread]);
            let opened = move || {
                let _nobody_waits = sender.send(monotonic_ns());
            };
            threads.push(start(scope, &plan, &control, load, cpu, opened)?);
        }
        drop(sender);
        let opened: Vec<u64> = opened.iter().collect();
        if let (Some(&until_ns), true) = (opened.iter().max(), opened.len() == threads.len()) {
            say(&Opened { from_ns, until_ns })?;
            let Some(window) = hear()? else { return Ok(Counted::default()) };
            let start_ns = clock.now() + window.start_ns.saturating_sub(monotonic_ns());
            control.set_window(start_ns, start_ns + plan.interval_ns);
            control.begin_loop(clock.now());
        } else {
            control.cut(0, 0);
        }
        let mut totals = Totals::new();
        for thread in threads {
            match thread.join() {
                Ok(counts) => totals.merge(counts.map_err(failed)?),
                Err(_panic) => return Err(failed("a client thread panicked".to_owned())),
            }
        }
        Ok(count(totals, &control, plan.interval_ns))
    })?;
    say(&counted)
}

/// Ends what the threads still do.
struct CutOnDrop<'a>(&'a Control);

impl Drop for CutOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cut(0, 0);
    }
}

fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    plan: &'scope Plan,
    control: &'scope Control,
    load: ThreadLoad,
    cpu: usize,
    opened: impl FnOnce() + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<Totals, String>>, Failure> {
    let work = move || {
        pin(&[cpu])?;
        worker::run(plan, control, load, opened, || ())
            .map_err(|error| format!("cannot wait for events: {}", describe(&error)))
    };
    let thread = thread::Builder::new().name(format!("clients-{}", load.thread));
    thread.spawn_scoped(scope, work).map_err(|error| {
        let error = format!("cannot start a thread: {}", describe(&error));
        Failure::new(exit::FAILURE, error)
    })
}

fn count(totals: Totals, control: &Control, window_ns: u64) -> Counted {
    let mut intervals = Intervals::new(window_ns, false);
    intervals.collect(control.queues());
    intervals.finish(window_ns, control.queues(), |_, _| ());
    let IntervalCounts { exchange, exchanges, .. } = &intervals.total;
    Counted {
        exchanges: *exchanges,
        total: totals.exchanges,
        connected: totals.connected,
        unserved: totals.unserved,
        wrong_replies: totals.failures.wrong_replies(),
        latency: Latencies {
            connect: Latency::from_histogram(&totals.connect),
            first_exchange: Latency::from_histogram(&totals.first_exchange),
            exchange: Latency::from_histogram(exchange),
            ..Latencies::default()
        },
        errors: totals.failures.into_counts(),
    }
}

fn say(what: &impl Serialize) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, what)
        .map_err(io::Error::from)
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::new(exit::FAILURE, describe(&error)))
}

/// The next line; none when nobody is there any more.
fn hear() -> Result<Option<Window>, Failure> {
    let mut line = String::new();
    let failed = |error: io::Error| Failure::new(exit::FAILURE, describe(&error));
    match io::stdin().read_line(&mut line).map_err(failed)? {
        0 => Ok(None),
        _ => serde_json::from_str(&line).map(Some).map_err(|error| failed(error.into())),
    }
}
