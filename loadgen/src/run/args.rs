//! The options of a run.

mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser};

use crate::clients::connection::Service;
use crate::clients::engine::Engine;
use crate::clients::pattern::SIZE_MAX_ONE_SHOT;
use crate::clients::schedule::{Arrivals, OpenLoop};
use crate::machine::placement::Place;
use crate::run::condition::Condition;
use crate::run::warmup::Warmup;
use crate::servers::embedded;
use lockstep_sys::cpus::{CpuList, parse_list};
use lockstep_sys::units;

use values::interval;
pub(crate) use values::{
    arrivals, backlog, conns, engine, page, place, positive, rate, service, size, threads,
};

/// The most intervals: a record of so many can still be read.
const INTERVALS_MAX: u128 = 100_000;

/// What a run tells while it goes on.
#[derive(Args, Clone, Debug, Default)]
pub struct LiveArgs {
    /// Print each interval as one JSON object a line while the run goes on, and then the record
    #[arg(long, conflicts_with = "json")]
    pub json_lines: bool,

    /// Also write each interval's histograms to an HdrHistogram log, while the run goes on
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
}

/// The options of a run.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Connections, all open during the whole run
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = conns)]
    pub conns: u32,

    /// Length of the measured window; with --requests, whichever ends first [default: 10s]
    #[arg(short, long, value_name = "TIME", value_parser = units::duration_positive)]
    pub duration: Option<Duration>,

    /// Exactly so many measured exchanges, over all connections
    #[arg(short = 'n', long, value_name = "N", value_parser = positive)]
    pub requests: Option<u64>,

    /// Open loop: so many requests a second in all, due at instants fixed before the run, however
    /// fast the replies come [default: closed loop, as fast as they come]
    #[arg(short, long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<u64>,

    /// How the instants lie: constant (at equal distances), poisson (at random, as from many users)
    /// [default: constant]
    #[arg(long, value_name = "NAME", value_parser = arrivals, requires = "rate")]
    pub arrivals: Option<Arrivals>,

    /// Watch so long in place of sleeping, at the price of processor time: the clock, before a request
    /// is due; in a closed loop for replies, unless that was in vain lately
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub spin: Option<Duration>,

    /// The generator's system calls: epoll, io-uring [default: io-uring in a closed loop, if the
    /// kernel has it; else epoll]
    #[arg(long, value_name = "NAME", value_parser = engine)]
    pub engine: Option<Engine>,

    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// Load-generating threads [default: one for each processor of the generator]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// The same load before the measured window; in a closed loop also auto: until it is steady, up
    /// to 3s
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = Warmup::parse)]
    pub warmup: Warmup,

    /// The longest that a connect or an exchange may take
    #[arg(
        long, value_name = "TIME", default_value = "5s", value_parser = units::duration_positive
    )]
    pub timeout: Duration,

    /// New connections a second while connections are opened [default: as fast as they come]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub connect_rate: Option<u64>,

    /// What the server says: echo (the same bytes), hi (`hi`, then it closes)
    #[arg(long, value_name = "NAME", default_value = "echo", value_parser = service)]
    pub service: Service,

    /// A server that runs already; a name is resolved
    #[arg(long, value_name = "HOST:PORT")]
    pub target: Option<String>,

    /// The embedded server's backend: blocking, mio, io-uring; auto takes the best there is
    #[arg(
        short, long, value_name = "NAME", default_value = "auto",
        value_parser = embedded::backend_name, conflicts_with = "target"
    )]
    pub backend: String,

    /// The embedded server's listen queue, for each shard
    #[arg(long, value_name = "N", value_parser = backlog, conflicts_with = "target")]
    pub backlog: Option<u32>,

    /// The embedded server's shards [default: one for each of its processors; blocking: 1]
    #[arg(long, value_name = "N", value_parser = threads, conflicts_with = "target")]
    pub shards: Option<usize>,

    /// Processors of the generator, such as 1 or 0,2-3, one for each thread in turn
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

    /// Determines the bytes that are sent, and when [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Print a line for each interval of that length while the run goes on; the record has them
    /// always [default: no line; 1s, or a thousandth of the duration if that is longer]
    #[arg(short, long, value_name = "TIME", value_parser = interval)]
    pub interval: Option<Duration>,

    /// Do not measure beforehand what this machine can do at all; it takes a few tenths of a second
    /// and, in a network namespace of its own if that may be had, as many connections again
    #[arg(long)]
    pub no_floor: bool,
    /// A threshold, such as 'p99>5ms', 'service.max>1s', 'throughput<50k', 'errors>0',
    /// 'error_rate>0.1%' or 'server_cpu>12us' (an exchange); with code 7 if it is so. Repeatable
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Vec<Condition>,

    /// Print the record as one JSON object and nothing else
    #[arg(long)]
    pub json: bool,

    /// Also write the record to a file, or under a name of its own into a directory
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: Option<PathBuf>,

    /// Let --output and --hlog overwrite a file
    #[arg(long, requires = "files")]
    pub force: bool,
}

/// As if none was given.
impl Default for RunArgs {
    fn default() -> Self {
        #[derive(Parser)]
        #[command(group(ArgGroup::new("files").args(["output"])))] // what --force requires
        struct Alone {
            #[command(flatten)]
            run: RunArgs,
        }
        Alone::try_parse_from(["loadgen"]).expect("a run needs no option").run
    }
}

impl RunArgs {
    /// Checks what no option can check alone, and fills in the duration.
    ///
    /// # Errors
    ///
    /// One line.
    pub fn finish(mut self) -> Result<Self, String> {
        if self.duration.is_none() && self.requests.is_none() {
            self.duration = Some(Duration::from_secs(10));
        }
        if self.service == Service::Hi && self.size > SIZE_MAX_ONE_SHOT {
            return Err(format!(
                "--service hi answers what one receive takes, so --size is at most {}",
                SIZE_MAX_ONE_SHOT
            ));
        }
        if self.rate.is_some() && self.warmup == Warmup::Auto {
            return Err("--warmup auto is for a closed loop; with --rate give it a time".to_owned());
        }
        if let Some(threads) = self.threads
            && threads > self.conns as usize
        {
            return Err(format!(
                "--threads {threads} is more than --conns {}: some would have nothing to do",
                self.conns
            ));
        }
        if let (Some(duration), Some(interval)) = (self.duration, self.interval)
            && duration.as_nanos() / interval.as_nanos() > INTERVALS_MAX
        {
            return Err(format!(
                "--interval: more than {INTERVALS_MAX} of them; take a longer one"
            ));
        }
        Ok(self)
    }

    /// How long the intervals of the measured window are: unless asked for, there are a thousand of
    /// them at most, and none is shorter than a second.
    pub fn interval(&self) -> Duration {
        let seconds = self.duration.map_or(0, |duration| duration.as_secs().div_ceil(1000));
        self.interval.unwrap_or(Duration::from_secs(seconds.max(1)))
    }

    /// With which system calls.
    pub fn engine(&self) -> Engine {
        self.engine.unwrap_or_else(|| Engine::best(self.rate.is_some()))
    }

    /// How long a closed loop looks for replies before it sleeps.
    pub fn spin_closed(&self) -> Duration {
        self.spin.filter(|_| self.rate.is_none()).unwrap_or_default()
    }

    /// When requests are due; none in a closed loop.
    pub fn open_loop(&self, seed: u64) -> Option<OpenLoop> {
        let arrivals = self.arrivals.unwrap_or_default();
        let spin = self.spin.unwrap_or_default();
        self.rate.map(|rate| OpenLoop { rate, arrivals, spin, seed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<RunArgs, String> {
        let cli = crate::cli::Cli::try_parse_from(line.split_ascii_whitespace());
        cli.map_err(|error| error.to_string())?.run.finish()
    }

    #[test]
    fn a_run_needs_no_options() {
        let args = parse("loadgen").unwrap();
        assert_eq!((args.conns, args.size), (64, 64));
        assert_eq!(args.duration, Some(Duration::from_secs(10)));
        assert_eq!(parse("loadgen -n 5").unwrap().duration, None);
        let both = parse("loadgen -n 5k -d 2s --size 1KiB --pin 0,2-3").unwrap();
        assert_eq!((both.requests, both.duration), (Some(5000), Some(Duration::from_secs(2))));
        assert_eq!((both.size, both.pin), (1024, Some(vec![0, 2, 3])));
    }

    #[test]
    fn a_rate_makes_an_open_loop() {
        assert!(parse("loadgen").unwrap().open_loop(1).is_none());
        let spinning = parse("loadgen --spin 50us").unwrap();
        assert!(spinning.open_loop(1).is_none());
        assert_eq!(spinning.spin_closed(), Duration::from_micros(50));
        let open = parse("loadgen --rate 50k").unwrap().open_loop(7).unwrap();
        assert_eq!((open.rate, open.arrivals, open.seed), (50_000, Arrivals::Constant, 7));
        assert_eq!(open.spin, Duration::ZERO);
        let open = parse("loadgen -r 5 --arrivals poisson --spin 100us").unwrap().open_loop(7);
        let open = open.unwrap();
        assert_eq!((open.arrivals, open.spin), (Arrivals::Poisson, Duration::from_micros(100)));
        assert_eq!(parse("loadgen -r 5 --spin 100us").unwrap().spin_closed(), Duration::ZERO);
    }

    #[test]
    fn intervals_are_seconds_but_not_too_many() {
        for (line, seconds) in [
            ("loadgen", 1),
            ("loadgen -n 5", 1),
            ("loadgen -d 1000s", 1),
            ("loadgen -d 1h", 4),
            ("loadgen -d 1h --interval 1s", 1),
        ] {
            assert_eq!(parse(line).unwrap().interval(), Duration::from_secs(seconds), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        for (line, words) in [
            ("loadgen --conns 0", "must be at least 1"),
            ("loadgen --conns 2M", "at most a million"),
            ("loadgen --size 0", "must be at least 1"),
            ("loadgen --size 2MiB", "at most 1MiB"),
            ("loadgen -d 10", "write 10s"),
            ("loadgen -d 0s", "must be longer than zero"),
            ("loadgen --requests 0", "must be at least 1"),
            ("loadgen --service chat", "people are not measured"),
            ("loadgen --service hi --size 1025", "at most 1024"),
            ("loadgen --threads 3 --conns 2", "nothing to do"),
            ("loadgen --target a:1 --backend mio", "cannot be used with"),
            ("loadgen --place here", "apart and steered"),
            ("loadgen --server-spin 50", "write 50s"),
            ("loadgen --target a:1 --place steered", "cannot be used with"),
            ("loadgen --force", "--output"),
            ("loadgen --backend nonsense", "mio"),
            ("loadgen --rate 5 --warmup auto", "closed loop"),
            ("loadgen --connect-rate 0", "must be at least 1"),
            ("loadgen --rate 0", "must be at least 1"),
            ("loadgen --rate 2000M", "at most 1000M"),
            ("loadgen --rate 5 --arrivals regular", "constant and poisson"),
            ("loadgen --arrivals poisson", "--rate"),
            ("loadgen --engine aio", "epoll and io-uring"),
            ("loadgen --rate 5 --spin 1", "write 1s"),
            ("loadgen --fail-if p98>1ms", "there is no \"p98\", but p50"),
            ("loadgen --interval 9ms", "at least 10ms"),
            ("loadgen --interval 10ms -d 1h", "more than 100000"),
            ("loadgen --json --json-lines", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
