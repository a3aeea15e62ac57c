//! The options of `loadgen compare`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use lockstep_results::store;

use super::subjects::{self, Subject};
use crate::clients::engine::Engine;
use crate::clients::schedule::Arrivals;
use crate::exit::{self, Failure};
use crate::machine::limits;
use crate::machine::placement::Place;
use crate::run::args::{
    RunArgs, arrivals, backlog, conns, engine, place, positive, rate, size, threads,
};
use crate::run::warmup::Warmup;
use lockstep_sys::cpus::{CpuList, parse_list};
use lockstep_sys::units;

/// The warm-up of an open loop, which cannot be watched: its rate is what was planned.
const WARMUP_OPEN: Duration = Duration::from_millis(500);

/// Where this repository keeps its records.
const RUNS: &str = "results/runs";

/// The window's intervals: enough to see a trend.
const INTERVALS: u32 = 10;

/// The shortest of them.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// A turn of at most [`TURN_CONNS`] connections: short against what disturbs a machine, and long
/// against the exchanges that are cold after the turns of others.
const TURN: Duration = Duration::from_millis(20);

/// See [`TURN`]. More have so many times the latency.
const TURN_CONNS: u32 = 64;

/// The largest requests, bytes, whose exchanges are short against a turn.
const TURN_SIZE_MAX: u32 = 16 << 10;

/// With fewer turns in a window they are of no use.
const TURNS_MIN: u32 = 2;

/// More rounds than anybody waits for.
const ROUNDS_MAX: u64 = 1000;

/// The options of a comparison.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// What to compare, the baseline first: backends by name, or NAME='COMMAND' for any echo server,
    /// a command for `sh -c` with {addr} in it for the address to listen at, or {port} for its port
    #[arg(value_name = "SUBJECT", value_parser = subjects::parse)]
    pub subjects: Vec<Subject>,

    /// Also the reference servers on other runtimes: programs called peer-*, beside this one or in
    /// DIR
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub peers: Option<PathBuf>,

    /// One subject, against itself: what differs then is noise
    #[arg(long)]
    pub aa: bool,

    /// Connections; of several numbers, each is a comparison of its own
    #[arg(short, long, value_name = "N,...", default_value = "64", value_delimiter = ',')]
    #[arg(value_parser = conns)]
    pub conns: Vec<u32>,

    /// Bytes in a request; likewise
    #[arg(short, long, value_name = "BYTES,...", default_value = "64", value_delimiter = ',')]
    #[arg(value_parser = size)]
    pub size: Vec<u32>,

    /// The most rounds; there are fewer when they agree
    #[arg(short, long, value_name = "N", default_value = "30", value_parser = rounds)]
    pub rounds: u32,

    /// They agree when the interval of every ratio is so narrow on either side
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_parser = precision)]
    pub precision: f64,

    /// Length of the measured window of each run: many short ones tell more than a few long ones
    #[arg(short, long, value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = units::duration_positive)]
    pub duration: Duration,

    /// Within a round the subjects are under load in turn, each so long at a time, with their
    /// servers and connections ready; 0: one after the other, with nobody else there
    /// [default: 20ms for every 64 connections; 0 with --rate, with more than 16KiB a request, or
    /// where that is too long]
    #[arg(long, value_name = "TIME", value_parser = units::duration, conflicts_with = "rate")]
    pub turn: Option<Duration>,

    /// The same load before each measured window; auto: until it is steady, up to 3s
    /// [default: auto; with --rate 500ms]
    #[arg(short, long, value_name = "TIME", value_parser = Warmup::parse)]
    pub warmup: Option<Warmup>,

    /// Open loop: so many requests a second in all, due at instants fixed before the run, the same
    /// for all subjects of a round
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<u64>,

    /// How the instants lie: constant (at equal distances), poisson (at random, as from many users)
    /// [default: constant]
    #[arg(long, value_name = "NAME", value_parser = arrivals, requires = "rate")]
    pub arrivals: Option<Arrivals>,

    /// Watch so long in place of sleeping: the clock, before a request is due; in a closed loop for
    /// replies
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub spin: Option<Duration>,

    /// New connections a second while connections are opened [default: as fast as they come]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub connect_rate: Option<u64>,

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

    /// Processors of the generator, such as 1 or 0,2-3, one for each thread in turn
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub pin: Option<CpuList>,

    /// Processors of every server
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub server_pin: Option<CpuList>,

    /// Where the servers run: apart, on processors of their own; steered, on the generator's, where
    /// backends serve each connection on the processor of its client [default: apart]
    #[arg(long, value_name = "HOW", value_parser = place)]
    #[arg(default_value = "apart", hide_default_value = true)]
    pub place: Place,

    /// Servers that are backends poll for so long before they sleep (mio, io-uring; blocking cannot),
    /// at the price of processor time [default: they sleep at once]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub server_spin: Option<Duration>,

    /// The listen queue of servers that are backends, for each shard
    #[arg(long, value_name = "N", value_parser = backlog)]
    pub backlog: Option<u32>,

    /// The shards of servers that are backends [default: one for each of their processors;
    /// blocking: 1]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub shards: Option<usize>,

    /// Determines the order of the runs and the bytes that are sent [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Print the comparison as one JSON object and nothing else
    #[arg(long)]
    pub json: bool,

    /// Write the comparison to a file, or under a name of its own into a directory, and beside it
    /// its picture, as .html [default: results/runs, if that is there, else here; with --json, none]
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: Option<PathBuf>,

    /// Also write the record of every run into a directory, for the comparison to name
    #[arg(long, value_name = "DIR")]
    pub keep_runs: Option<PathBuf>,

    /// Write no file
    #[arg(long, conflicts_with = "output")]
    pub no_output: bool,

    /// Let --output overwrite a file
    #[arg(long, requires = "output")]
    pub force: bool,
}

impl CompareArgs {
    /// Where the comparison is to be written, with its picture beside it.
    ///
    /// # Errors
    ///
    /// When the picture could not be beside it: that should be known before the first round.
    pub fn place(&self) -> Result<Option<PathBuf>, Failure> {
        let usage = |error: String| Failure::new(exit::USAGE, error);
        match &self.output {
            None if self.json || self.no_output => Ok(None),
            None if Path::new(RUNS).is_dir() => Ok(Some(RUNS.into())),
            None => Ok(Some(".".into())),
            Some(path) if path.extension().is_some_and(|extension| extension == "html") => {
                let error = format!("{}: the picture's name, not the record's", path.display());
                Err(usage(error).hint("the picture is written beside the record"))
            }
            Some(path) => {
                if !path.is_dir() {
                    let picture = path.with_extension("html");
                    store::check(&picture, self.force).map_err(|error| usage(error.to_string()))?;
                }
                Ok(Some(path.clone()))
            }
        }
    }

    /// The options that all runs have in common.
    pub(super) fn base(&self) -> RunArgs {
        RunArgs {
            duration: Some(self.duration),
            warmup: self.warmup.unwrap_or(match self.rate {
                Some(_) => Warmup::Fixed(WARMUP_OPEN),
                None => Warmup::Auto,
            }),
            rate: self.rate,
            arrivals: self.arrivals,
            spin: self.spin,
            engine: self.engine,
            connect_rate: self.connect_rate,
            backlog: self.backlog,
            shards: self.shards,
            interval: Some((self.duration / INTERVALS).max(INTERVAL_MIN)),
            threads: self.threads,
            timeout: self.timeout,
            pin: self.pin.clone(),
            server_pin: self.server_pin.clone(),
            place: self.place,
            server_spin: self.server_spin,
            seed: self.seed,
            ..RunArgs::default()
        }
    }

    /// How long a turn is of so many connections, with that many subjects; `None` where the
    /// subjects run one after the other.
    pub(super) fn turn(&self, conns: u32, subjects: usize) -> Option<Duration> {
        let turn = self.turn.unwrap_or(TURN * conns.div_ceil(TURN_CONNS));
        let short = self.size.iter().all(|&size| size <= TURN_SIZE_MAX);
        let of_use = self.turn.is_some() || (short && turn * TURNS_MIN <= self.duration);
        // The connections of all of them are open at the same time.
        let possible = || limits::raise_descriptors(conns * subjects as u32, subjects).is_ok();
        (self.rate.is_none() && !turn.is_zero() && of_use && possible()).then_some(turn)
    }

    /// Every number of connections with every size, each once.
    pub(super) fn cells(&self) -> Vec<(u32, u32)> {
        let mut cells = Vec::new();
        for &conns in &self.conns {
            for &size in &self.size {
                if !cells.contains(&(conns, size)) {
                    cells.push((conns, size));
                }
            }
        }
        cells
    }
}

/// Parses `3%` into 0.03.
fn precision(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("write it as a share, such as 3%")?;
    match number.parse::<f64>() {
        Ok(percent) if (0.1..=100.0).contains(&percent) => Ok(percent / 100.0),
        Ok(_) => Err("between 0.1% and 100%".to_owned()),
        Err(_) => Err("write it as a share, such as 3%".to_owned()),
    }
}

fn rounds(text: &str) -> Result<u32, String> {
    match positive(text)? {
        count @ ..=ROUNDS_MAX => Ok(count as u32),
        _ => Err(format!("at most {ROUNDS_MAX}")),
    }
}
