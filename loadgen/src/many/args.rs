//! The options of `loadgen many`.

use std::time::Duration;

use clap::Args;

use crate::clients::engine::Engine;
use crate::machine::placement::Place;
use crate::output::OutputArgs;
use crate::run::args::{RunArgs, backlog, conns, engine, place, positive, size, threads};
use crate::servers::embedded;
use lockstep_sys::cpus::{CpuList, parse_list};
use lockstep_sys::units;

/// More processes on either side than anybody starts.
pub(super) const PROCESSES_MAX: u64 = 64;

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
    #[arg(value_parser = embedded::backend_name)]
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

    /// The longest that a connect or an exchange may take
    #[arg(long, value_name = "TIME", default_value = "30s")]
    #[arg(value_parser = units::duration_positive)]
    pub timeout: Duration,

    /// The generator's system calls: epoll, io-uring [default: io-uring if the kernel has it]
    #[arg(long, value_name = "NAME", value_parser = engine)]
    pub engine: Option<Engine>,

    /// Processes of each side [default: as many as the limit of descriptors makes necessary]
    #[arg(long, value_name = "N", value_parser = processes)]
    pub processes: Option<u32>,

    /// The servers' listen queue, for each shard
    #[arg(long, value_name = "N", value_parser = backlog)]
    pub backlog: Option<u32>,

    /// The shards of each server process [default: one for each of its processors; blocking: 1]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub shards: Option<usize>,

    /// Processors of the generator
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub pin: Option<CpuList>,

    /// Processors of the servers
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub server_pin: Option<CpuList>,

    /// Where the servers run: apart, on processors of their own; steered, on the generator's, each
    /// connection served on the processor of its client [default: apart]
    #[arg(long, value_name = "HOW", value_parser = place)]
    #[arg(default_value = "apart", hide_default_value = true)]
    pub place: Place,

    /// The servers poll for so long before they sleep (mio, io-uring) [default: they sleep at once]
    #[arg(long, value_name = "TIME", value_parser = units::duration_positive)]
    pub server_spin: Option<Duration>,

    /// Determines the bytes that are sent [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

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
        self.engine.unwrap_or_else(|| Engine::best(false))
    }

    /// The options of a run that say which server it is, and where both sides run.
    pub(super) fn server(&self, cell: &Cell) -> RunArgs {
        RunArgs {
            conns: cell.conns,
            backend: cell.backend.clone(),
            engine: self.engine,
            backlog: self.backlog,
            shards: self.shards,
            pin: self.pin.clone(),
            server_pin: self.server_pin.clone(),
            place: self.place,
            server_spin: self.server_spin,
            ..RunArgs::default()
        }
    }

    /// How long the loop lasts before it is measured.
    pub(super) fn warmup(&self, conns: u32) -> Duration {
        self.warmup.max(Duration::from_micros(50) * conns)
    }
}

fn processes(text: &str) -> Result<u32, String> {
    match positive(text)? {
        count @ ..=PROCESSES_MAX => Ok(count as u32),
        _ => Err(format!("at most {PROCESSES_MAX}")),
    }
}
