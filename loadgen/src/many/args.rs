//! The options of `loadgen many`.

use std::time::Duration;

use clap::Args;

use crate::clients::engine::Engine;
use crate::options::{
    GeneratorArgs, OutputArgs, PlacementArgs, ServerArgs, at_most, backlog, conns, size,
};
use crate::run::args::RunArgs;
use crate::servers::embedded;
use crate::servers::embedded::backend_parser;
use lockstep_sys::units;

/// More processes on either side than anybody starts.
pub(super) const PROCESSES_MAX: u32 = 64;

const EXAMPLES: &str = "\
Examples:
  loadgen many                                    every backend, with 10 to 50,000 connections
  loadgen many --backend mio --conns 1k,10k       one backend, two numbers
  loadgen many --conns 50k --place steered        both sides on all processors
  loadgen many --conns 2k --processes 3           several processes where one would do
  loadgen many -o runs/                           also as a file, for loadgen report";

/// Opens connections to a server as fast as it takes them, leaves them idle for a moment, and has
/// them all make exchanges in a closed loop: what it costs to open, to keep and to use few and many.
///
/// Where a process may not have descriptors enough, several processes of the server share a port,
/// and several of the generator connect to it, each from a source address of its own.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ManyArgs {
    /// Connections; each number has a server of its own
    #[arg(short, long, value_name = "N,...", default_value = "10,100,1k,10k,50k")]
    #[arg(value_delimiter = ',', value_parser = conns)]
    pub conns: Vec<u32>,

    /// The servers' backends [default: all that there are]
    #[arg(short, long, value_name = "NAME,...", value_delimiter = ',')]
    #[arg(value_parser = backend_parser())]
    pub backend: Vec<String>,

    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// Length of each measured window
    #[arg(short, long, value_name = "TIME", default_value = "2s")]
    #[arg(value_parser = units::duration_positive)]
    pub duration: Duration,

    /// The same load before each, at least 50 us a connection: all are to have had a turn
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub warmup: Duration,

    /// Options of the generator.
    #[command(flatten)]
    pub generator: GeneratorArgs,

    /// Processes of each side [default: as many as the limit of descriptors makes necessary]
    #[arg(long, value_name = "N", value_parser = at_most::<PROCESSES_MAX>)]
    pub processes: Option<u32>,

    /// The servers' listen queue, for each shard
    #[arg(long, value_name = "N", value_parser = backlog)]
    pub backlog: Option<u32>,

    /// Options of the servers.
    #[command(flatten)]
    pub server: ServerArgs,

    /// CPUs of both sides.
    #[command(flatten)]
    pub placement: PlacementArgs,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A backend with a number of connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Cell {
    pub(super) backend: String,
    pub(super) conns: u32,
}

impl ManyArgs {
    /// Every backend with every number of connections, each once.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let backends = match self.backend.as_slice() {
            [] => embedded::backend_names().into_iter().map(str::to_owned).collect(),
            named => named.to_vec(),
        };
        let mut cells = Vec::new();
        for &conns in &self.conns {
            for backend in &backends {
                let cell = Cell { backend: backend.clone(), conns };
                if !cells.contains(&cell) {
                    cells.push(cell);
                }
            }
        }
        cells
    }

    /// With which system calls.
    pub(super) fn engine(&self) -> Engine {
        self.generator.engine.unwrap_or_else(|| Engine::best(false))
    }

    /// The options of a run that say which server it is, and where both sides run.
    pub(super) fn server(&self, cell: &Cell) -> RunArgs {
        RunArgs {
            conns: cell.conns,
            backend: cell.backend.clone(),
            backlog: self.backlog,
            generator: self.generator.clone(),
            server: self.server.clone(),
            placement: self.placement.clone(),
            ..RunArgs::default()
        }
    }

    /// How long the loop lasts before it is measured.
    pub(super) fn warmup(&self, conns: u32) -> Duration {
        self.warmup.max(Duration::from_micros(50) * conns)
    }
}
