//! What a server costs with few connections and with many: to open them, to keep them idle, and to
//! use them.
//!
//! A process may have only so many descriptors, so the server is several processes on one port
//! where it takes several, and so is the generator; this process only tells them when, and reads
//! what they use.

mod args;
mod crowd;
mod part;
mod parts;

use std::time::SystemTime;

use lockstep_results::{Environment, Header, Many, Omitted};

pub use args::ManyArgs;
pub use part::{PartArgs, part};

use crate::exit::{self, Failure, Outcome};
use crate::machine::limits;
use crate::run::Session;
use crate::run::args::RunArgs;
use crate::servers::embedded;
use args::{Cell, PROCESSES_MAX};

/// The part of its descriptors that a process is given connections for: the kernel spreads them
/// over several servers by chance, and some thousand are a few per cent off an even share.
const FILLED: f64 = 0.9;

/// The part of the threads that may exist on this machine that are for a server to start.
const THREADS_SHARE: f64 = 0.75;

/// A table that has been made.
#[derive(Debug)]
pub struct Finished {
    /// The table.
    pub many: Many,
    /// The exit code.
    pub code: u8,
}

/// Measures every backend with every number of connections.
///
/// # Errors
///
/// When there is no result at all. Connections that fail are a result.
pub fn many(args: &ManyArgs, argv: Vec<String>) -> Result<Finished, Failure> {
    args.output.check()?;
    let session = Session::start()?;
    let cells = args.cells();
    let mut first = RunArgs { conns: 1, ..args.server(&cells[0]) };
    first.generator.threads = Some(1);
    first.server.server_spin = None;
    session.check(&first)?;
    let seed = args.generator.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut many = Many {
        header: Header::new("many", SystemTime::now(), argv, Some(seed)),
        interrupted: false,
        size: args.size,
        engine: args.engine().name().to_owned(),
        placement: args.server.place.name().to_owned(),
        server_spin_ns: args.server.server_spin.map(|spin| spin.as_nanos() as u64),
        crowds: Vec::new(),
        omitted: Vec::new(),
        environment: Environment::capture(),
    };
    let mut outcome = Outcome {
        signal: None,
        wrong_replies: false,
        connected: true,
        failures: false,
        valid: true,
        held: true,
    };
    for cell in &cells {
        let processes = match possible(cell, args).and_then(|()| processes(cell.conns, args)) {
            Ok(processes) => processes,
            Err(reason) => {
                let Cell { backend, conns } = cell.clone();
                many.omitted.push(Omitted { backend, conns, reason });
                continue;
            }
        };
        let measured = match crowd::measure(&session, args, cell, processes, seed) {
            Ok(measured) => measured,
            Err(failure) if failure.code < 128 || many.crowds.is_empty() => return Err(failure),
            Err(signal) => {
                outcome.signal = Some(i32::from(signal.code) - 128);
                many.interrupted = true;
                break;
            }
        };
        outcome.wrong_replies |= measured.wrong_replies;
        outcome.connected &= measured.connected;
        outcome.failures |= measured.crowd.errors_total > 0;
        outcome.valid &= measured.crowd.invalid_reasons.is_empty();
        many.crowds.push(measured.crowd);
    }
    if many.crowds.is_empty() && !many.interrupted {
        let reason = many.omitted.first().map_or("", |omitted| &omitted.reason);
        return Err(Failure::new(exit::UNAVAILABLE, format!("nothing can be measured: {reason}")));
    }
    many.environment.capture_after();
    Ok(Finished { many, code: outcome.code() })
}

/// Says in words if a crowd has to be left out.
fn possible(cell: &Cell, args: &ManyArgs) -> Result<(), String> {
    let Cell { backend, conns } = cell;
    if let Some(refused) = embedded::refusal(backend) {
        return Err(refused);
    }
    if args.server.server_spin.is_some() && !embedded::can_busy_poll(backend) {
        return Err("it has nothing to poll, as --server-spin would have it".to_owned());
    }
    match lockstep_sys::limits::threads_of_machine() {
        Some(threads)
            if embedded::thread_per_connection(backend)
                && f64::from(*conns) > threads as f64 * THREADS_SHARE =>
        {
            Err(format!(
                "it has a thread for each, and there may be {threads} on this machine in all"
            ))
        }
        _ => Ok(()),
    }
}

/// How many processes it takes, on either side, for all to have a descriptor; or why it cannot be.
fn processes(conns: u32, args: &ManyArgs) -> Result<u32, String> {
    let room = limits::room(lockstep_sys::limits::raise_open_files());
    let filled = (room as f64 * FILLED).max(1.0) as u64;
    let needed = u64::from(conns).div_ceil(filled);
    let processes = args.processes.map_or(needed, u64::from);
    if processes > u64::from(conns) {
        return Err("there are more processes than connections".to_owned());
    }
    if processes < needed || processes > PROCESSES_MAX.into() {
        return Err(format!(
            "it takes {needed} processes that may each have {room} connections; raise it with \
             `ulimit -n`"
        ));
    }
    Ok(processes as u32)
}
