//! The options of `loadgen sweep`.

use std::time::Duration;

use clap::Args;

use super::levels::{self, Levels};
use crate::clients::connection::Service;
use crate::clients::engine::Engine;
use crate::clients::schedule::{Arrivals, SECOND};
use crate::experiments::compare;
use crate::machine::placement::Place;
use crate::output::OutputArgs;
use crate::run::args::{
    RunArgs, arrivals, backlog, engine, place, positive, rate, service, size, threads,
};
use crate::run::condition::Condition;
use crate::run::warmup::Warmup;
use crate::servers::command;
use crate::servers::embedded;
use lockstep_sys::cpus::{CpuList, parse_list};
use lockstep_sys::units;

/// More rounds than anybody waits for.
const ROUNDS_MAX: u64 = 1000;

/// The most connections, as of a run.
const CONNS_MAX: u64 = 1_000_000;

/// The options of a sweep.
#[derive(Args, Clone, Debug)]
pub struct SweepArgs {
    /// Open loop at each of these rates: 5k,10k,20k; or 5k..100k/10, ten at equal distances; or
    /// 1k..64k*2, each twice the one before
    #[arg(short, long, value_name = "LEVELS", value_parser = levels::parse)]
    pub rates: Option<Levels>,

    /// Connections; of several, each is a level: a closed loop, or all at the one rate of --rates
    #[arg(short, long, value_name = "LEVELS", default_value = "64", value_parser = levels::parse)]
    pub conns: Levels,

    /// Search the highest rate at which every run meets this, such as 'p99<1ms', and no exchange
    /// fails; may be repeated
    #[arg(long, value_name = "CONDITION", conflicts_with = "rates")]
    pub slo: Vec<Condition>,

    /// The lowest rate of the search [default: 1k]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate_min: Option<u64>,

    /// The highest rate of the search [default: 1M]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate_max: Option<u64>,

    /// How often each level is measured
    #[arg(long, value_name = "N", default_value = "1", value_parser = rounds)]
    #[arg(conflicts_with = "slo")]
    pub rounds: u32,

    /// The embedded server's backend, a new one for each run: blocking, mio, io-uring; auto takes
    /// the best there is
    #[arg(short, long, value_name = "NAME", default_value = "auto")]
    #[arg(value_parser = embedded::backend_name, conflicts_with_all = ["target", "command"])]
    pub backend: String,

    /// A server that runs already; a name is resolved
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "command")]
    pub target: Option<String>,

    /// A server to start for each run: NAME='COMMAND', a command for `sh -c` with {addr} in it for
    /// the address to listen at, or {port} for its port
    #[arg(long, value_name = "NAME=COMMAND", value_parser = command)]
    pub command: Option<command::Subject>,

    /// Length of the measured window of each run
    #[arg(short, long, value_name = "TIME", default_value = "2s")]
    #[arg(value_parser = units::duration_positive)]
    pub duration: Duration,

    /// The same load before each measured window
    #[arg(short, long, value_name = "TIME", default_value = "500ms")]
    #[arg(value_parser = units::duration)]
    pub warmup: Duration,

    /// How the instants of a rate lie: constant, poisson [default: constant]
    #[arg(long, value_name = "NAME", value_parser = arrivals)]
    pub arrivals: Option<Arrivals>,

    /// Watch so long in place of sleeping: the clock, before a request is due; in a closed loop for
    /// replies
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub spin: Option<Duration>,

    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// The generator's system calls: epoll, io-uring [default: io-uring in a closed loop, if the
    /// kernel has it; else epoll]
    #[arg(long, value_name = "NAME", value_parser = engine)]
    pub engine: Option<Engine>,

    /// Load-generating threads [default: one for each processor of the generator]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// The longest that a connect or an exchange may take
    #[arg(long, value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = units::duration_positive)]
    pub timeout: Duration,

    /// What the server says: echo (the same bytes), hi (`hi`, then it closes)
    #[arg(long, value_name = "NAME", default_value = "echo", value_parser = service)]
    pub service: Service,

    /// The embedded server's listen queue, for each shard
    #[arg(long, value_name = "N", value_parser = backlog)]
    #[arg(conflicts_with_all = ["target", "command"])]
    pub backlog: Option<u32>,

    /// The embedded server's shards [default: one for each of its processors; blocking: 1]
    #[arg(long, value_name = "N", value_parser = threads)]
    #[arg(conflicts_with_all = ["target", "command"])]
    pub shards: Option<usize>,

    /// Processors of the generator, such as 1 or 0,2-3, one for each thread in turn
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub pin: Option<CpuList>,

    /// Processors of the server
    #[arg(long, value_name = "CPULIST", value_parser = parse_list, conflicts_with = "target")]
    pub server_pin: Option<CpuList>,

    /// Where the embedded server runs: apart, on processors of its own; steered, on the generator's,
    /// each connection served on the processor of its client [default: apart]
    #[arg(long, value_name = "HOW", value_parser = place)]
    #[arg(conflicts_with_all = ["target", "command"])]
    #[arg(default_value = "apart", hide_default_value = true)]
    pub place: Place,

    /// The embedded server polls for so long before it sleeps (mio, io-uring), at the price of
    /// processor time [default: it sleeps at once]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    #[arg(conflicts_with_all = ["target", "command"])]
    pub server_spin: Option<Duration>,

    /// Determines the order of the levels and the bytes that are sent [default: another one each
    /// time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Do not measure beforehand what this machine can do at all
    #[arg(long)]
    pub no_floor: bool,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl SweepArgs {
    /// The options that all runs have in common; of levels, the first.
    pub(super) fn base(&self) -> RunArgs {
        RunArgs {
            conns: self.conns.0[0] as u32,
            rate: self.rates.as_ref().map(|rates| rates.0[0]),
            duration: Some(self.duration),
            warmup: Warmup::Fixed(self.warmup),
            arrivals: self.arrivals,
            spin: self.spin,
            engine: self.engine,
            size: self.size,
            threads: self.threads,
            timeout: self.timeout,
            service: self.service,
            target: self.target.clone(),
            backend: self.backend.clone(),
            backlog: self.backlog,
            shards: self.shards,
            pin: self.pin.clone(),
            server_pin: self.server_pin.clone(),
            place: self.place,
            server_spin: self.server_spin,
            no_floor: self.no_floor,
            ..RunArgs::default()
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
        if conns.iter().any(|&conns| conns > CONNS_MAX) {
            return Err("--conns: at most a million".to_owned());
        }
        if rates.iter().any(|&rate| rate > SECOND) {
            return Err("--rates: at most 1000M, one a nanosecond".to_owned());
        }
        if self.slo.is_empty() && (self.rate_min.is_some() || self.rate_max.is_some()) {
            return Err("--rate-min and --rate-max are for --slo".to_owned());
        }
        let timed = self.arrivals.is_some();
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

fn rounds(text: &str) -> Result<u32, String> {
    match positive(text)? {
        count @ ..=ROUNDS_MAX => Ok(count as u32),
        _ => Err(format!("at most {ROUNDS_MAX}")),
    }
}

fn command(text: &str) -> Result<command::Subject, String> {
    match compare::parse_subject(text)? {
        compare::Subject::Command(command) => Ok(command),
        compare::Subject::Backend(name) => Err(format!("{name} is a --backend")),
    }
}
