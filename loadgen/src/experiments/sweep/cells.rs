//! The cells of a sweep: each server at each level, and those that this machine cannot measure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lockstep_results::{Axis, Omission, SweepPlan};

use super::SweepArgs;
use super::needs::{Limits, Needs};
use crate::clients::socket::Target;
use crate::machine::ports;
use crate::run::args::RunArgs;
use crate::servers::embedded;

/// Address of embedded servers, whose port the kernel chooses.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

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
    /// Needs of the connections; `None` if the run itself finds what it lacks.
    needs: Option<Needs>,
}

impl Cell {
    /// Checks that the machine has the memory for it now.
    ///
    /// # Errors
    ///
    /// The reason why not.
    pub(super) fn check_memory(&self, limits: &Limits) -> Result<(), Omission> {
        let fits = self.needs.map_or(Ok(()), |needs| needs.check_memory(self.processes, limits));
        let subject = self.args.backend.clone();
        fits.map_err(|reason| Omission { subject, level: self.level, reason })
    }
}

/// Returns the cells that can be measured, and the others with the reason.
///
/// # Errors
///
/// A source address that this machine does not have.
pub(super) fn cells(
    args: &SweepArgs,
    base: &RunArgs,
    plan: &SweepPlan,
    limits: &Limits,
) -> Result<(Vec<Cell>, Vec<Omission>), String> {
    let idle = args.measures_idle();
    let sources = match args.may_omit() {
        true => Target::from_sources(SERVER, &args.generator.source)?.source_count(),
        false => 0, // The run finds the lack of a port.
    };
    let (mut cells, mut omitted) = (Vec::new(), Vec::new());
    for backend in &args.backend {
        for &level in &plan.levels {
            let mut run = RunArgs { backend: backend.clone(), ..base.clone() };
            match plan.axis {
                Axis::Rate => run.rate = Some(level),
                Axis::Conns => run = run.with_conns(level as u32),
            }
            let needs = args.may_omit().then(|| Needs::of(&run, args.processes));
            let processes = needs.map_or(Ok(1), |needs| {
                possible(&run, sources).and_then(|()| needs.processes(limits))
            });
            let subject = run.backend.clone();
            let cell = processes
                .map(|processes| Cell { level, args: run, idle, processes, needs })
                .map_err(|reason| Omission { subject, level, reason })
                .and_then(|cell| cell.check_memory(limits).map(|()| cell));
            match cell {
                Ok(cell) => cells.push(cell),
                Err(omission) => omitted.push(omission),
            }
        }
    }
    Ok((cells, omitted))
}

/// Checks whether the machine can run the server, and has ports for connections from `sources`
/// addresses.
///
/// # Errors
///
/// The reason why not.
fn possible(args: &RunArgs, sources: usize) -> Result<(), String> {
    if let Some(refused) = embedded::refusal(&args.backend) {
        return Err(refused);
    }
    if args.server.spin_ns().is_some() && !embedded::can_busy_poll(&args.backend) {
        return Err("it cannot busy-poll, as --server-spin asks for".to_owned());
    }
    ports::check(args.conns, sources.max(1)).map_err(|error| format!("{error}; {}", ports::HINT))
}
