//! Options of `loadgen storm`.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};

use crate::clients::engine::Engine;
use crate::experiments::listening::unique;
use crate::options::{
    EMBEDDED, LOAD, OutputArgs, PlacementArgs, SEED_END, SERVER, ServerArgs, at_most, backlog,
    conns, rate, size,
};
use crate::run::args::RunArgs;
use crate::servers::embedded::backend_parser;
use lockstep_sys::units;

/// Largest number of exchanges on a connection, which is meant to be short-lived.
const EXCHANGES_MAX: u32 = 1_000_000;

const EXAMPLES: &str = "\
Examples:
  loadgen storm --conns 2000 --at-once --backlog 16    a second for a lost SYN
  loadgen storm --conns 2000 --at-once --backlog 4096  the same with room
  loadgen storm --backend mio,io-uring --backlog 16,128,4096 --conns 500,2000
  loadgen storm --rate 2k --conns 10k --close rst      2,000 per second
  loadgen storm --target 127.0.0.1:8898 --exchanges 3";

/// Open many new connections to a server, in a burst or at a rate
///
/// Makes a few exchanges on each connection, and closes it. Reports the duration of connects and
/// the depth of the server's accept queue.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES, next_help_heading = LOAD)]
pub struct StormArgs {
    /// Numbers of connections; each is an experiment of its own
    #[arg(short, long, value_name = "N,...", default_value = "2000", value_delimiter = ',')]
    #[arg(value_parser = conns)]
    pub conns: Vec<u32>,

    /// Connect as fast as one thread can [the default]
    #[arg(long, conflicts_with = "rate")]
    pub at_once: bool,

    /// Number of connections opened per second, on a fixed schedule
    #[arg(short, long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<f64>,

    /// Number of exchanges on each connection
    #[arg(short, long, value_name = "N", default_value = "1")]
    #[arg(value_parser = at_most::<EXCHANGES_MAX>)]
    pub exchanges: u32,

    /// Closing of a connection
    #[arg(long, value_name = "NAME", default_value = "fin")]
    pub close: Close,

    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// Timeout for a connect or an exchange
    #[arg(long, value_name = "TIME", default_value = "30s")]
    #[arg(value_parser = units::duration_positive)]
    pub timeout: Duration,

    /// Source addresses of the connections, in turn [default: the route's; to a loopback address,
    /// one of 127.0.0.0/8 for each third of the ports]
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    pub source: Vec<IpAddr>,

    /// Seed of the bytes sent [default: random]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(..SEED_END))]
    pub seed: Option<u64>,

    /// Load a server that runs already
    #[arg(long, value_name = "HOST:PORT", help_heading = SERVER, conflicts_with_all = EMBEDDED)]
    pub target: Option<String>,

    /// Backends of the embedded server; each is an experiment of its own
    #[arg(short, long, value_name = "NAME,...", default_value = "auto", value_delimiter = ',')]
    #[arg(value_parser = backend_parser(), help_heading = SERVER)]
    pub backend: Vec<String>,

    /// Lengths of each shard's listen queue; each is an experiment of its own [default: 1024]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = backlog)]
    #[arg(help_heading = SERVER)]
    pub backlog: Vec<u32>,

    /// Options of the embedded server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// CPUs of both sides.
    #[command(flatten)]
    pub placement: PlacementArgs,

    /// Destination of the result.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Closing of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Close {
    /// In order
    Fin,
    /// With a reset (socket(7), `SO_LINGER`), without TIME_WAIT
    Rst,
}

impl Close {
    /// Name in options and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

impl StormArgs {
    /// The options of a run with each backend, listen queue and number of connections: server,
    /// number of connections and placement.
    pub(super) fn runs(&self) -> Vec<RunArgs> {
        let backlogs: Vec<Option<u32>> = match self.backlog.as_slice() {
            [] => vec![None],
            backlogs => unique(backlogs).into_iter().map(Some).collect(),
        };
        let mut runs = Vec::new();
        for backend in unique(&self.backend) {
            for &backlog in &backlogs {
                for conns in unique(&self.conns) {
                    let mut run = RunArgs {
                        conns,
                        target: self.target.clone(),
                        backend: backend.clone(),
                        backlog,
                        server: self.server.clone(),
                        placement: self.placement.clone(),
                        ..RunArgs::default()
                    };
                    run.generator.threads = Some(1);
                    run.generator.source.clone_from(&self.source);
                    // A burst has no other, and the default would try io_uring.
                    run.generator.engine = Some(Engine::Epoll);
                    runs.push(run);
                }
            }
        }
        runs
    }
}
