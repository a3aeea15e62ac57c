//! The cells of a sweep: each server at each level, and those that this machine cannot measure.

use lockstep_results::{Axis, Omission, SweepPlan};

use super::SweepArgs;
use crate::machine::limits;
use crate::run::args::RunArgs;
use crate::servers::embedded;
use lockstep_sys::limits::{raise_open_files, threads_of_machine, threads_of_process};

/// Largest number of processes on either side.
pub(super) const PROCESSES_MAX: u32 = 64;

/// Share of its descriptors for which a process is given connections. The kernel spreads them over
/// several servers at random: some thousand are a few per cent off an even share.
const FILLED: f64 = 0.9;

/// Share of the threads that may exist on this machine that a server may start.
const THREADS_SHARE: f64 = 0.75;

/// A server at a level.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// The rate or the number of connections.
    pub(super) level: f64,
    pub(super) args: RunArgs,
    /// True if opening and idle memory are measured.
    pub(super) idle: bool,
    /// Processes on either side.
    pub(super) processes: u32,
}

/// Returns the cells that can be measured, and the others with the reason.
pub(super) fn cells(
    args: &SweepArgs,
    base: &RunArgs,
    plan: &SweepPlan,
) -> (Vec<Cell>, Vec<Omission>) {
    let idle = args.measures_idle();
    let (mut cells, mut omitted) = (Vec::new(), Vec::new());
    for backend in &args.backend {
        for &level in &plan.levels {
            let mut run = RunArgs { backend: backend.clone(), ..base.clone() };
            match plan.axis {
                Axis::Rate => run.rate = Some(level),
                Axis::Conns => run = run.with_conns(level as u32),
            }
            let processes = match args.may_omit() {
                true => possible(&run).and_then(|()| processes(&run, args.processes)),
                false => Ok(1),
            };
            match processes {
                Ok(processes) => cells.push(Cell { level, args: run, idle, processes }),
                Err(reason) => omitted.push(Omission { subject: run.backend, level, reason }),
            }
        }
    }
    (cells, omitted)
}

/// Checks whether the machine can run the server.
///
/// # Errors
///
/// The reason why not.
fn possible(args: &RunArgs) -> Result<(), String> {
    if let Some(refused) = embedded::refusal(&args.backend) {
        return Err(refused);
    }
    if args.server.spin_ns().is_some() && !embedded::can_busy_poll(&args.backend) {
        return Err("it cannot busy-poll, as --server-spin asks for".to_owned());
    }
    match threads_of_machine() {
        Some(threads)
            if embedded::thread_per_connection(&args.backend)
                && f64::from(args.conns) > threads as f64 * THREADS_SHARE =>
        {
            Err(format!(
                "it needs a thread for each connection, and this machine allows {threads} in all"
            ))
        }
        _ => Ok(()),
    }
}

/// Number of processes on either side.
///
/// # Errors
///
/// If descriptors, or threads, do not suffice for all connections with so many processes.
fn processes(args: &RunArgs, asked: Option<u32>) -> Result<u32, String> {
    let mut room = limits::room(raise_open_files());
    if embedded::thread_per_connection(&args.backend) {
        room = room.min(threads_of_process() as u64);
    }
    let filled = (room as f64 * FILLED).max(1.0) as u64;
    let needed = u64::from(args.conns).div_ceil(filled);
    let processes = asked.map_or(needed, u64::from);
    if processes > args.conns.into() {
        return Err("there are more processes than connections".to_owned());
    }
    if processes < needed || processes > PROCESSES_MAX.into() {
        return Err(format!(
            "it takes {needed} processes, which may have {room} connections each; raise that with \
             `ulimit -n`"
        ));
    }
    Ok(processes as u32)
}
