//! The options of `loadgen compare`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::subjects::{self, Subject};
use crate::machine::limits;
use crate::options::{
    GeneratorArgs, LOAD, OUTPUT, OutputArgs, PlacementArgs, SERVER, ServerArgs, backlog, conns,
    file, rate, rounds, size,
};
use crate::run::args::RunArgs;
use crate::run::warmup::Warmup;
use lockstep_sys::units;

/// Warm-up of an open loop, whose rate cannot become steady: it is planned.
const WARMUP_OPEN: Duration = Duration::from_millis(500);

/// Number of intervals of the window, enough to see a trend.
const INTERVALS: u32 = 10;

/// Shortest interval.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Slice for at most [`SLICE_CONNS`] connections: short in relation to disturbances of the machine,
/// long in relation to the exchanges with cold caches that follow the slices of others.
const SLICE: Duration = Duration::from_millis(20);

/// See [`SLICE`]. N times the connections have N times the latency.
const SLICE_CONNS: u32 = 64;

/// Largest requests, bytes, whose exchanges are short in relation to a slice.
const SLICE_SIZE_MAX: u32 = 16 << 10;

/// Shortest slice.
const SLICE_MIN: Duration = Duration::from_millis(1);

/// Smallest number of slices in a window.
const SLICES_MIN: u32 = 2;

const EXAMPLES: &str = "\
Examples:
  loadgen compare mio io-uring                       a minute or two
  loadgen compare mio io-uring blocking --conns 64,1000 -o compared.json
  loadgen report compared.json -o compared.html      its charts
  loadgen compare mio mine='./server --port {port}'  a server of your own
  loadgen compare mio --peers                        other runtimes
  loadgen compare mio io-uring --rate 20k            latency at the same rate
  loadgen compare mio io-uring --rounds 6 -d 300ms   a first impression
  loadgen compare mio --aa                           the noise of this machine
  loadgen compare mio io-uring --host 10.0.0.2 --via 'ssh 10.0.0.2'
                                                     servers on another host";

/// Compare servers in rounds, until the differences are known
///
/// Reports server CPU per exchange, throughput and latency of each subject in relation to the
/// first, with confidence intervals. Each run has a new server, on the same CPUs. Before the
/// warm-up, a server gets no connection but those of the load, and on each of them one exchange.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES, next_help_heading = LOAD)]
pub struct CompareArgs {
    /// Servers to compare, the baseline first: backends by name, or NAME='COMMAND' for any echo
    /// server, a command for `sh -c` in which {addr} stands for the address to listen at, or {port}
    /// for its port
    #[arg(value_name = "SUBJECT", value_parser = subjects::parse, help_heading = None)]
    pub subjects: Vec<Subject>,

    /// Numbers of concurrent connections; each is a comparison of its own
    #[arg(short, long, value_name = "N,...", default_value = "64", value_delimiter = ',')]
    #[arg(value_parser = conns)]
    pub conns: Vec<u32>,

    /// Bytes in a request, at most 1MiB; each size is a comparison of its own
    #[arg(short, long, value_name = "BYTES,...", default_value = "64", value_delimiter = ',')]
    #[arg(value_parser = size)]
    pub size: Vec<u32>,

    /// Largest number of rounds; fewer are enough when their results agree
    #[arg(short, long, value_name = "N", default_value = "30", value_parser = rounds)]
    pub rounds: u32,

    /// Half the width of the confidence interval at which the rounds of a ratio agree
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_parser = precision)]
    pub precision: f64,

    /// Length of the measured window of each run; many short runs are better than a few long ones
    #[arg(short, long, value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = units::duration_positive)]
    pub duration: Duration,

    /// Time slice for which one subject of a round is under load while the others wait; 0: one run
    /// after the other [default: 20ms for every 64 connections; 0 with --rate, with requests of
    /// more than 16KiB, or if a window has fewer than two slices]
    #[arg(long, alias = "turn", value_name = "TIME", value_parser = slice)]
    #[arg(conflicts_with = "rate")]
    pub slice: Option<Duration>,

    /// Length of the same load before each measured window; auto: until the rate is steady, at most
    /// 3s [default: auto; with --rate 500ms]
    #[arg(short, long, value_name = "TIME", value_parser = Warmup::parse)]
    pub warmup: Option<Warmup>,

    /// Open loop: total requests per second (50k, 0.5 or 30/m), sent on a fixed schedule
    /// regardless of replies
    /// [default: closed loop]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<f64>,

    /// Options of the generator.
    #[command(flatten)]
    pub generator: GeneratorArgs,

    /// Add the reference servers on other runtimes: programs called peer-*, beside this one or in
    /// DIR
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    #[arg(help_heading = SERVER, conflicts_with = "via")]
    pub peers: Option<PathBuf>,

    /// Compare one subject with itself, which shows the noise
    #[arg(long, help_heading = SERVER)]
    pub aa: bool,

    /// Length of each shard's listen queue [default: 1024]
    #[arg(long, value_name = "N", value_parser = backlog, help_heading = SERVER)]
    pub backlog: Option<u32>,

    /// Options of the servers that are backends.
    #[command(flatten)]
    pub server: ServerArgs,

    /// CPUs of both sides.
    #[command(flatten)]
    pub placement: PlacementArgs,

    /// Destination of the result.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Also write the record of every run into a directory
    #[arg(long, value_name = "DIR", help_heading = OUTPUT, value_parser = file())]
    pub keep_runs: Option<PathBuf>,
}

impl CompareArgs {
    /// Options common to all runs.
    pub(super) fn base(&self) -> RunArgs {
        RunArgs {
            duration: Some(self.duration),
            warmup: self.warmup.unwrap_or(match self.rate {
                Some(_) => Warmup::Fixed(WARMUP_OPEN),
                None => Warmup::Auto,
            }),
            rate: self.rate,
            interval: Some((self.duration / INTERVALS).max(INTERVAL_MIN)),
            generator: self.generator.clone(),
            backlog: self.backlog,
            server: self.server.clone(),
            placement: self.placement.clone(),
            ..RunArgs::default()
        }
    }

    /// Time slice with `conns` connections; `None` if the subjects run one after the other.
    pub(super) fn slice(&self, conns: u32, subjects: usize) -> Option<Duration> {
        let slice = self.slice.unwrap_or(SLICE * conns.div_ceil(SLICE_CONNS));
        let short = self.size.iter().all(|&size| size <= SLICE_SIZE_MAX);
        let useful = self.slice.is_some() || (short && slice * SLICES_MIN <= self.duration);
        // The connections of all subjects are open at the same time.
        let possible = || limits::raise_descriptors(conns * subjects as u32, subjects).is_ok();
        (self.rate.is_none() && !slice.is_zero() && useful && possible()).then_some(slice)
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

/// Parses a time slice. A shorter one is over before an exchange is.
fn slice(text: &str) -> Result<Duration, String> {
    match units::duration(text)? {
        slice if slice.is_zero() || slice >= SLICE_MIN => Ok(slice),
        _ => Err("must be 0, or at least 1ms".to_owned()),
    }
}

/// Parses `3%` into 0.03.
fn precision(text: &str) -> Result<f64, String> {
    match units::share(text)? {
        share @ 0.001..=1.0 => Ok(share),
        _ => Err("must be between 0.1% and 100%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        compare: CompareArgs,
    }

    fn parse(line: &str) -> CompareArgs {
        Line::try_parse_from(line.split_whitespace()).unwrap().compare
    }

    #[test]
    fn slice_grows_with_the_connections_until_a_window_has_less_than_two() {
        let slice = |line, conns| parse(line).slice(conns, 2).map(|slice| slice.as_millis());
        assert_eq!((slice("compare", 1), slice("compare", 64)), (Some(20), Some(20)));
        assert_eq!(slice("compare", 1000), Some(320));
        assert_eq!(slice("compare", 2000), None);
        assert_eq!(slice("compare --size 64KiB", 64), None);
        assert_eq!(slice("compare --rate 5k", 64), None);
        assert_eq!(slice("compare --slice 0", 64), None);
        assert_eq!(slice("compare --slice 700ms", 64), Some(700));
    }

    #[test]
    fn turn_is_an_alias_of_slice() {
        assert_eq!(parse("compare --turn 5ms").slice, Some(Duration::from_millis(5)));
    }
}
