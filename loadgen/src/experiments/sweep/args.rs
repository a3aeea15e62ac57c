//! The options of `loadgen sweep`.

use std::time::Duration;

use clap::Args;

use super::levels::{self, Levels};
use crate::clients::connection::Service;
use crate::clients::schedule::SECOND;
use crate::experiments::compare;
use crate::options::{
    CONNS_MAX, EMBEDDED, GeneratorArgs, LOAD, OutputArgs, PlacementArgs, SERVER, ServerArgs,
    backlog, rate, rounds, size,
};
use crate::run::args::RunArgs;
use crate::run::condition::Condition;
use crate::run::warmup::Warmup;
use crate::servers::command;
use crate::servers::embedded::backend_parser;
use lockstep_sys::units;

/// The options of a sweep.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = LOAD)]
pub struct SweepArgs {
    /// Open loop at each of these rates: 5k,10k,20k; or 5k..100k/10 (ten, evenly spaced); or
    /// 1k..64k*2 (each twice the one before)
    #[arg(short, long, value_name = "LEVELS", value_parser = levels::parse)]
    pub rates: Option<Levels>,

    /// Numbers of connections; several are the levels of a closed loop, or of one rate of --rates
    #[arg(short, long, value_name = "LEVELS", default_value = "64", value_parser = levels::parse)]
    pub conns: Levels,

    /// Search for the highest rate at which every run meets the condition, such as 'p99<1ms', and no
    /// exchange fails; repeatable
    #[arg(long, value_name = "CONDITION", conflicts_with = "rates")]
    pub slo: Vec<Condition>,

    /// Lowest rate of the search [default: 1k]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate_min: Option<u64>,

    /// Highest rate of the search [default: 1M]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate_max: Option<u64>,

    /// Number of runs at each level
    #[arg(long, value_name = "N", default_value = "1", value_parser = rounds)]
    #[arg(conflicts_with = "slo")]
    pub rounds: u32,

    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// Length of the measured window of each run
    #[arg(short, long, value_name = "TIME", default_value = "2s")]
    #[arg(value_parser = units::duration_positive)]
    pub duration: Duration,

    /// Length of the same load before each measured window
    #[arg(short, long, value_name = "TIME", default_value = "500ms")]
    #[arg(value_parser = units::duration)]
    pub warmup: Duration,

    /// Service of the server
    #[arg(long, value_name = "NAME", default_value = "echo")]
    pub service: Service,

    /// Options of the generator.
    #[command(flatten)]
    pub generator: GeneratorArgs,

    /// Skip the measurement of the machine's floor (some tenths of a second) before the runs
    #[arg(long)]
    pub no_floor: bool,

    /// Load a server that runs already
    #[arg(long, value_name = "HOST:PORT", help_heading = SERVER, conflicts_with_all = EMBEDDED)]
    pub target: Option<String>,

    /// Start this server for each run: a command for `sh -c` in which {addr} stands for the address
    /// to listen at, or {port} for its port
    #[arg(long, value_name = "NAME='COMMAND'", value_parser = command, help_heading = SERVER)]
    #[arg(conflicts_with_all = ["target", "backend", "backlog", "shards", "server_spin", "place"])]
    pub command: Option<command::Subject>,

    /// Backend of the embedded server; each run starts a new server
    #[arg(short, long, value_name = "NAME", default_value = "auto", value_parser = backend_parser())]
    #[arg(help_heading = SERVER)]
    pub backend: String,

    /// Length of each shard's listen queue
    #[arg(long, value_name = "N", value_parser = backlog, help_heading = SERVER)]
    pub backlog: Option<u32>,

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

impl SweepArgs {
    /// The options that all runs have in common; of levels, the first.
    pub(super) fn base(&self) -> RunArgs {
        RunArgs {
            conns: self.conns.0[0] as u32,
            rate: self.rate(),
            duration: Some(self.duration),
            warmup: Warmup::Fixed(self.warmup),
            size: self.size,
            service: self.service,
            generator: self.generator.clone(),
            no_floor: self.no_floor,
            target: self.target.clone(),
            backend: self.backend.clone(),
            backlog: self.backlog,
            server: self.server.clone(),
            placement: self.placement.clone(),
            ..RunArgs::default()
        }
    }

    /// The lowest rate; `None` in a closed loop.
    fn rate(&self) -> Option<u64> {
        match &self.rates {
            Some(rates) => Some(rates.0[0]),
            None => (!self.slo.is_empty()).then(|| self.rate_range().0),
        }
    }

    /// Checks what no option can check alone.
    ///
    /// # Errors
    ///
    /// One line.
    pub(super) fn check(&self) -> Result<(), String> {
        let rates = self.rates.as_ref().map_or(&[][..], |rates| &rates.0);
        let conns = &self.conns.0;
        if conns.iter().any(|&conns| conns > CONNS_MAX.into()) {
            return Err("--conns: at most a million".to_owned());
        }
        if rates.iter().any(|&rate| rate > SECOND) {
            return Err("--rates: at most 1000M, one a nanosecond".to_owned());
        }
        if self.slo.is_empty() && (self.rate_min.is_some() || self.rate_max.is_some()) {
            return Err("--rate-min and --rate-max are for --slo".to_owned());
        }
        let timed = self.generator.arrivals.is_some();
        match (self.slo.is_empty(), rates.len(), conns.len()) {
            (false, _, 1) => {}
            (false, ..) => return Err("--slo searches with one number of --conns".to_owned()),
            (true, 2.., 2..) => {
                return Err("either --rates or --conns has several levels, not both".to_owned());
            }
            (true, 0 | 1, 1) => {
                return Err(
                    "give it levels: --rates 5k,10k,20k, --conns 1,2,4, or --slo".to_owned()
                );
            }
            (true, 0, _) if timed => {
                return Err("--arrivals is for an open loop: give --rates".to_owned());
            }
            (true, ..) => {}
        }
        let (low, high) = self.rate_range();
        if low > high {
            return Err(format!("--rate-min {low} is more than --rate-max {high}"));
        }
        Ok(())
    }

    /// The lowest and the highest rate of a search.
    pub(super) fn rate_range(&self) -> (u64, u64) {
        (self.rate_min.unwrap_or(1000), self.rate_max.unwrap_or(1_000_000))
    }
}

fn command(text: &str) -> Result<command::Subject, String> {
    match compare::parse_subject(text)? {
        compare::Subject::Command(command) => Ok(command),
        compare::Subject::Backend(name) => Err(format!("{name} is a --backend")),
    }
}
