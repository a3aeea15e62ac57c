//! The options of `loadgen sweep`.

use std::time::Duration;

use clap::Args;

use super::levels::{self, Levels};
use super::needs::PROCESSES_MAX;
use crate::clients::connection::Service;
use crate::experiments::compare;
use crate::options::{
    EMBEDDED, GeneratorArgs, LOAD, OutputArgs, PlacementArgs, SERVER, ServerArgs, at_most, backlog,
    rate, rounds, size,
};
use crate::run::args::RunArgs;
use crate::run::condition::Condition;
use crate::run::warmup::Warmup;
use crate::servers::command;
use crate::servers::embedded::backend_parser;
use crate::servers::metrics::Url;
use lockstep_sys::units;

/// Shortest warm-up of a closed loop for each connection.
const WARMUP_PER_CONNECTION: Duration = Duration::from_micros(50);

/// Length of the measured window where a search needs no longer one.
const DURATION: Duration = Duration::from_secs(2);

/// Length of the longest window that a search takes by itself.
const DURATION_MAX: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  loadgen sweep --rates 5k..50k/10                 latency over the rate
  loadgen sweep --rates 1k..64k*2 -o curve.json    kept for loadgen report
  loadgen sweep --slo 'p99<1ms' --slo 'p99.9<5ms'  the highest rate for both
  loadgen sweep --conns 1..256*2 --backend mio     throughput over connections
  loadgen sweep --conns 10,1k,100k --backend mio,io-uring
                                                   cost of many connections
  loadgen sweep --rates 1k,2k,4k --command mine='./server --port {port}'";

/// Measure a server at several rates or numbers of connections, or search for the highest rate that
/// meets objectives
///
/// Levels are measured in random order, each with a new server. A closed loop over several numbers
/// of connections also reports their opening and the memory of idle connections. Where a process
/// may not have enough descriptors, several servers share a port, and several processes load them.
/// A level that needs more memory, threads or ports than this machine has left is left out, with
/// the reason, and the exit code is 3.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES, next_help_heading = LOAD)]
pub struct SweepArgs {
    /// Open loop at each of these rates: 5k,10k,20k; or 5k..100k/10 (ten, evenly spaced); or
    /// 1k..64k*2 (each twice the one before)
    #[arg(short, long, value_name = "LEVELS", value_parser = levels::rates)]
    pub rates: Option<Levels>,

    /// Numbers of connections: 10,1k,50k or a range as above; several are levels, of a closed loop
    /// or of the one rate of --rates [default with --rates or --slo: 64]
    #[arg(short, long, value_name = "LEVELS", value_parser = levels::conns)]
    pub conns: Option<Levels>,

    /// Search for the highest rate at which every run meets the condition, such as 'p99<1ms', and
    /// no exchange fails; repeatable. The metrics are those of loadgen --fail-if
    #[arg(long, value_name = "CONDITION", value_parser = objective, conflicts_with = "rates")]
    pub slo: Vec<Condition>,

    /// Lowest rate of the search [default: 1k]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate_min: Option<f64>,

    /// Highest rate of the search [default: 1M]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate_max: Option<f64>,

    /// Number of runs at each level
    #[arg(long, value_name = "N", default_value = "1", value_parser = rounds)]
    #[arg(conflicts_with = "slo")]
    pub rounds: u32,

    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// Length of the measured window of each run [default: 2s; with --slo up to 1m, for the samples
    /// that a percentile takes]
    #[arg(short, long, value_name = "TIME", value_parser = units::duration_positive)]
    pub duration: Option<Duration>,

    /// Length of the same load before each measured window; in a closed loop at least 50us for each
    /// connection
    #[arg(short, long, value_name = "TIME", default_value = "500ms")]
    #[arg(value_parser = units::duration)]
    pub warmup: Duration,

    /// Service of the server
    #[arg(long, value_name = "NAME", default_value = "echo")]
    pub service: Service,

    /// Options of the generator.
    #[command(flatten)]
    pub generator: GeneratorArgs,

    /// Skip the measurement of the machine's floor (some tenths of a second)
    #[arg(long)]
    pub no_floor: bool,

    /// Load a server that runs already
    #[arg(long, value_name = "HOST:PORT", help_heading = SERVER, conflicts_with_all = EMBEDDED)]
    pub target: Option<String>,

    /// Read the target's CPU time from its metrics page (lockstep serve --metrics), such as
    /// 10.0.0.2:9100 or http://10.0.0.2:9100/metrics; for a target on another machine
    #[arg(long, value_name = "ADDR", value_parser = Url::parse, help_heading = SERVER)]
    #[arg(conflicts_with_all = EMBEDDED)]
    pub server_metrics: Option<Url>,

    /// Start this server for each run: a command for `sh -c` in which {addr} stands for the address
    /// to listen at, or {port} for its port
    #[arg(long, value_name = "NAME='COMMAND'", value_parser = command, help_heading = SERVER)]
    #[arg(conflicts_with_all = ["target", "backend", "backlog", "shards", "server_spin", "place", "via"])]
    pub command: Option<command::Subject>,

    /// Backend of the embedded server; several with levels of --conns
    #[arg(short, long, value_name = "NAME,...", default_value = "auto", value_delimiter = ',')]
    #[arg(value_parser = backend_parser(), help_heading = SERVER)]
    pub backend: Vec<String>,

    /// Number of server processes, which share a port, and of generator processes, with levels of
    /// --conns [default: as many as the limit of descriptors requires]
    #[arg(long, value_name = "N", value_parser = at_most::<PROCESSES_MAX>, help_heading = SERVER)]
    #[arg(conflicts_with_all = ["target", "command", "via"])]
    pub processes: Option<u32>,

    /// Length of each shard's listen queue [default: 1024]
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
            conns: self.conns()[0] as u32,
            rate: self.rate(),
            duration: Some(self.duration()),
            warmup: Warmup::Fixed(self.warmup()),
            size: self.size,
            service: self.service,
            generator: self.generator.clone(),
            no_floor: self.no_floor,
            target: self.target.clone(),
            server_metrics: self.server_metrics.clone(),
            backend: self.backend[0].clone(),
            backlog: self.backlog,
            server: self.server.clone(),
            placement: self.placement.clone(),
            ..RunArgs::default()
        }
    }

    /// Length of the measured window of a level.
    pub(super) fn duration(&self) -> Duration {
        self.duration.unwrap_or(DURATION)
    }

    /// Length of the measured window of a search at this rate. By default it has twice the fewest
    /// samples that bound the percentiles, since the fewest do only if none is beyond.
    pub(super) fn duration_at(&self, rate: f64) -> Duration {
        let samples = self.slo.iter().map(Condition::samples_needed).max().unwrap_or(0);
        let enough = Duration::from_secs_f64(2.0 * samples as f64 / rate);
        self.duration.unwrap_or(enough.clamp(DURATION, DURATION_MAX))
    }

    /// The lowest rate; `None` in a closed loop.
    fn rate(&self) -> Option<f64> {
        match &self.rates {
            Some(rates) => Some(rates.0[0]),
            None => (!self.slo.is_empty()).then(|| self.rate_range().0),
        }
    }

    /// True if a cell that this machine cannot run is omitted, and one that needs several processes
    /// has them.
    pub(super) fn may_omit(&self) -> bool {
        let starts = self.target.is_none() && self.command.is_none() && self.server.via.is_none();
        self.measures_idle() && starts
    }

    /// The warm-up, in which each of the most connections is to have an exchange.
    pub(super) fn warmup(&self) -> Duration {
        let most = self.conns_max();
        let shortest =
            if self.measures_idle() { WARMUP_PER_CONNECTION * most } else { Duration::ZERO };
        self.warmup.max(shortest)
    }

    /// The largest number of connections.
    pub(super) fn conns_max(&self) -> u32 {
        self.conns().iter().fold(1.0, |most: f64, &conns| most.max(conns)) as u32
    }

    /// The numbers of connections.
    pub(super) fn conns(&self) -> &[f64] {
        self.conns.as_ref().map_or(&[64.0], |conns| &conns.0)
    }

    /// True if opening and idle memory are measured: of a closed loop over open connections.
    pub(super) fn measures_idle(&self) -> bool {
        self.rates.is_none() && self.slo.is_empty() && self.service == Service::Echo
    }

    /// Checks combinations of options.
    ///
    /// # Errors
    ///
    /// The combination that is not possible.
    pub(super) fn check(&self) -> Result<(), String> {
        let rates = self.rates.as_ref().map_or(&[][..], |rates| &rates.0);
        if self.slo.is_empty() && (self.rate_min.is_some() || self.rate_max.is_some()) {
            return Err("--rate-min and --rate-max are for --slo".to_owned());
        }
        if !self.measures_idle() && (self.backend.len() > 1 || self.processes.is_some()) {
            let option = if self.backend.len() > 1 { "several --backend" } else { "--processes" };
            return Err(format!("{option} need a closed loop, and --service echo"));
        }
        let most = self.conns().iter().copied().fold(0.0, f64::max);
        if let Some(processes) = self.processes.filter(|&processes| f64::from(processes) > most) {
            return Err(format!("--processes {processes} is more than --conns {most}"));
        }
        match (self.slo.is_empty(), rates.len(), self.conns().len()) {
            (false, _, 2..) => return Err("--slo searches with one number of --conns".to_owned()),
            (true, 2.., 2..) => {
                return Err("either --rates or --conns has several levels, not both".to_owned());
            }
            (true, 1, 1) | (true, 0, _) if self.conns.is_none() || rates.len() == 1 => {
                return Err("give it several levels: --rates 5k,10k,20k or --conns 1,2,4, or an \
                            objective: --slo 'p99<1ms'"
                    .to_owned());
            }
            (true, 0, _) if self.generator.arrivals.is_some() => {
                return Err("--arrivals is for an open loop: give --rates".to_owned());
            }
            _ => {}
        }
        let (low, high) = self.rate_range();
        if low > high {
            return Err(format!("--rate-min {low} is more than --rate-max {high}"));
        }
        Ok(())
    }

    /// The lowest and the highest rate of a search.
    pub(super) fn rate_range(&self) -> (f64, f64) {
        (self.rate_min.unwrap_or(1000.0), self.rate_max.unwrap_or(1e6))
    }
}

/// Parses a condition that more load makes harder to meet.
fn objective(text: &str) -> Result<Condition, String> {
    let condition: Condition = text.parse()?;
    if !condition.is_objective() {
        let turn = |sign| match sign {
            '<' => '>',
            '>' => '<',
            other => other,
        };
        let turned: String = text.chars().map(turn).collect();
        return Err(format!("an objective is what is wanted: did you mean '{turned}'?"));
    }
    Ok(condition)
}

fn command(text: &str) -> Result<command::Subject, String> {
    match compare::parse_subject(text)? {
        compare::Subject::Command(command) => Ok(command),
        compare::Subject::Backend(name) => Err(format!("{name} is a --backend")),
    }
}
