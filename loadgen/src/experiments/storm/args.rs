//! The options of `loadgen storm`.

use std::time::Duration;

use clap::Args;

use super::Cell;
use crate::machine::placement::Place;
use crate::output::OutputArgs;
use crate::run::args::{RunArgs, backlog, conns, place, positive, size, threads};
use crate::servers::embedded;
use lockstep_sys::cpus::{CpuList, parse_list};
use lockstep_sys::units;

/// The most exchanges on a connection, which is there to be short-lived.
const EXCHANGES_MAX: u64 = 1_000_000;

const EXAMPLES: &str = "\
Examples:
  loadgen storm --conns 2000 --at-once --backlog 16     the cliff: a second for a lost SYN
  loadgen storm --conns 2000 --at-once --backlog 4096   the same with room for all
  loadgen storm --backend mio,io-uring --backlog 16,128,4096 --conns 500,2000
  loadgen storm --rate 2k --conns 10k --close rst       two thousand new connections a second
  loadgen storm --target 127.0.0.1:8898 --exchanges 3";

/// Opens new connections to a server that accepts, all at once or at a rate, makes a few exchanges
/// on each, and closes it; says how long connects took, and what the accept queue had to do
/// with it.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct StormArgs {
    /// Connections in all; of several numbers, each is a storm of its own
    #[arg(short, long, value_name = "N,...", default_value = "2000", value_delimiter = ',')]
    #[arg(value_parser = conns)]
    pub conns: Vec<u32>,

    /// All at once, as fast as one thread can connect [the default]
    #[arg(long, conflicts_with = "rate")]
    pub at_once: bool,

    /// So many new connections a second, at instants fixed before
    #[arg(short, long, value_name = "RATE", value_parser = positive)]
    pub rate: Option<u64>,

    /// Exchanges on each connection
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = exchanges)]
    pub exchanges: u32,

    /// How a connection is closed: fin (in order), rst (at once, without TIME_WAIT)
    #[arg(long, value_name = "NAME", default_value = "fin", value_parser = close)]
    pub close: Close,

    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// The longest that a connect or an exchange may take
    #[arg(long, value_name = "TIME", default_value = "30s")]
    #[arg(value_parser = units::duration_positive)]
    pub timeout: Duration,

    /// A server that runs already; a name is resolved
    #[arg(long, value_name = "HOST:PORT")]
    pub target: Option<String>,

    /// The embedded server's backend: blocking, mio, io-uring; auto takes the best there is; of
    /// several, each has storms of its own
    #[arg(
        short, long, value_name = "NAME,...", default_value = "auto", value_delimiter = ',',
        value_parser = embedded::backend_name, conflicts_with = "target"
    )]
    pub backend: Vec<String>,

    /// The embedded server's listen queue, for each shard; likewise
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    #[arg(value_parser = backlog, conflicts_with = "target")]
    pub backlog: Vec<u32>,

    /// The embedded server's shards [default: one for each of its processors; blocking: 1]
    #[arg(long, value_name = "N", value_parser = threads, conflicts_with = "target")]
    pub shards: Option<usize>,

    /// Processors of the generator
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub pin: Option<CpuList>,

    /// Processors of the embedded server
    #[arg(long, value_name = "CPULIST", value_parser = parse_list, conflicts_with = "target")]
    pub server_pin: Option<CpuList>,

    /// Where the embedded server runs: apart, on processors of its own; steered, on the generator's,
    /// each connection served on the processor of its client [default: apart]
    #[arg(long, value_name = "HOW", value_parser = place, conflicts_with = "target")]
    #[arg(default_value = "apart", hide_default_value = true)]
    pub place: Place,

    /// The embedded server polls for so long before it sleeps (mio, io-uring), at the price of
    /// processor time [default: it sleeps at once]
    #[arg(long, value_name = "TIME", value_parser = units::duration, conflicts_with = "target")]
    pub server_spin: Option<Duration>,

    /// Determines the bytes that are sent [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Close {
    /// In order.
    Fin,
    /// With a reset (socket(7), `SO_LINGER`).
    Rst,
}

impl Close {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

impl StormArgs {
    /// Every backend with every listen queue and number of connections, each once.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let backlogs: Vec<Option<u32>> = match self.backlog.as_slice() {
            [] => vec![None],
            backlogs => backlogs.iter().copied().map(Some).collect(),
        };
        let mut cells: Vec<Cell> = Vec::new();
        for backend in &self.backend {
            for &backlog in &backlogs {
                for &conns in &self.conns {
                    let cell = Cell { backend: backend.clone(), backlog, conns };
                    if !cells.contains(&cell) {
                        cells.push(cell);
                    }
                }
            }
        }
        cells
    }

    /// The options of a run that say which server it is, and where both sides run.
    pub(super) fn server(&self, cell: &Cell) -> RunArgs {
        RunArgs {
            conns: cell.conns,
            threads: Some(1),
            target: self.target.clone(),
            backend: cell.backend.clone(),
            backlog: cell.backlog,
            shards: self.shards,
            pin: self.pin.clone(),
            server_pin: self.server_pin.clone(),
            place: self.place,
            server_spin: self.server_spin,
            ..RunArgs::default()
        }
    }
}

fn exchanges(text: &str) -> Result<u32, String> {
    match positive(text)? {
        count @ ..=EXCHANGES_MAX => Ok(count as u32),
        _ => Err(format!("at most {EXCHANGES_MAX}")),
    }
}

fn close(text: &str) -> Result<Close, String> {
    [Close::Fin, Close::Rst]
        .into_iter()
        .find(|close| close.name() == text)
        .ok_or_else(|| "there are fin and rst".to_owned())
}
