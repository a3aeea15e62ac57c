//! `loadgen floor`: the cost of an exchange on this machine without a server or an event loop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, SystemTime};

use clap::Args;
use lockstep_results::{Environment, FloorReport, Header};

use crate::event::{Event, FinishGuard};
use crate::exit::{self, Failure};
use crate::experiments::Finished;
use crate::machine::placement::Cpus;
use crate::machine::{limits, signals};
use crate::options::{LOAD, OutputArgs, PlacementArgs, size};
use crate::run::floor::{CONNS_MAX, Parameters, Two, measure};
use lockstep_sys::errno::describe;
use lockstep_sys::memory;
use lockstep_sys::units;

/// Numbers of connections: one, some that fit the CPU's caches, and some that do not.
const CONNS: [u32; 3] = [1, 64, CONNS_MAX];

/// Rounds: an odd number, so that the median is a measured value.
const ROUNDS: u32 = 7;

/// Shortest measurement: each of its parts takes some milliseconds.
const DURATION_MIN: Duration = Duration::from_millis(100);

/// Measure the cost of an exchange on this machine without a server
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = LOAD)]
#[command(after_help = "Of --pin and --server-pin, the first CPU is used.")]
pub struct FloorArgs {
    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// Duration of the whole measurement
    #[arg(short, long, value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = duration)]
    pub duration: Duration,

    /// CPUs of both sides, of which the first are used.
    #[command(flatten)]
    pub placement: PlacementArgs,

    /// Output options.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Parses the duration of the measurement.
fn duration(text: &str) -> Result<Duration, String> {
    match units::duration(text)? {
        duration if duration < DURATION_MIN => Err("must be at least 100ms".to_owned()),
        duration => Ok(duration),
    }
}

/// Measures the floor in all forms, until a signal arrives at the latest.
///
/// # Errors
///
/// A usage error if the process lacks a CPU or the descriptors, or the file of the result cannot
/// be written; the signal, if nothing was measured before; otherwise the error of a socket call.
pub fn floor(args: &FloorArgs, argv: Vec<String>) -> Result<Finished<FloorReport>, Failure> {
    args.output.check()?;
    let failed = |error: io::Error| {
        Failure::new(exit::FAILURE, format!("cannot measure: {}", describe(&error)))
    };
    let cpus = Cpus::read().map_err(failed)?;
    args.placement.check(&cpus)?;
    // A descriptor for each end of every connection.
    limits::raise_descriptors(2 * CONNS_MAX, 2).map_err(|error| {
        let hint = "raise it with `ulimit -n`";
        Failure::new(exit::USAGE, error.replace("--conns 2000", "it")).hint(hint)
    })?;
    let mut environment = Environment::capture();
    let started = SystemTime::now();
    let (sender, events) = channel();
    signals::watch(sender.clone()).map_err(failed)?;
    let stop = AtomicBool::new(false);
    let parameters = Parameters {
        size: args.size,
        conns: &CONNS,
        cpus: Two::choose(&cpus, &args.placement),
        duration: args.duration,
        rounds: ROUNDS,
        all: true,
        stop: &stop,
    };
    let (floor, signal) = thread::scope(|scope| {
        let finish = FinishGuard(sender);
        let work = || {
            let _finish = finish;
            measure(&parameters)
        };
        let measuring = memory::thread("floor").and_then(|thread| thread.spawn_scoped(scope, work));
        let signal = match events.recv() {
            Ok(Event::Signal(signal)) => Some(signal),
            _ => None,
        };
        stop.store(true, Relaxed);
        let panicked = |_| Err(io::Error::other("it panicked"));
        let floor = measuring.and_then(|thread| thread.join().unwrap_or_else(panicked));
        (floor, signal)
    });
    let floor = floor.map_err(failed)?;
    environment.capture_after();
    let document = FloorReport {
        header: Header::new("floor", started, argv, None),
        interrupted: signal.is_some(),
        floor,
        environment,
    };
    match signal {
        Some(signal) if document.floor.rounds == 0 => Err(Failure::signal(signal)),
        signal => Ok(Finished { document, code: signal.map_or(0, exit::of_signal), failure: None }),
    }
}
