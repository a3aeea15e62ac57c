//! The command line.

mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::backlog::{BacklogArgs, TrialArgs};
use crate::command::ExecArgs;
use crate::compare::CompareArgs;
use crate::condition::Condition;
use crate::connection::Service;
use crate::floor::FloorArgs;
use crate::pattern::SIZE_MAX_ONE_SHOT;
use crate::schedule::{Arrivals, OpenLoop};
use crate::storm::StormArgs;
use crate::subject::{self, EmbeddedArgs};
use crate::sweep::SweepArgs;
use crate::units;
use crate::warmup::Warmup;

pub use values::CpuList;
pub(crate) use values::{
    arrivals, backlog, conns, cpu_list, positive, rate, service, size, threads,
};
use values::{interval, page};

/// The most intervals: a record of so many can still be read.
const INTERVALS_MAX: u128 = 100_000;

const EXAMPLES: &str = "\
Examples:
  loadgen --conns 1000                            the best backend of this machine, 1,000 clients
  loadgen --conns 1000 --backend blocking         another backend, the same load
  loadgen --conns 64 --size 1KiB -d 30s -o runs/  longer messages and a longer run, kept as a file
  loadgen --target 127.0.0.1:8898 -n 1M           a million exchanges with a server of your own
  loadgen --rate 50k --arrivals poisson           latency at a load that does not wait for replies
  loadgen --service hi --conns 100                a connection for each exchange
  loadgen --conns 64 --json | jq .throughput_per_s
  loadgen compare mio io-uring --conns 64,1000    who is faster, by how much, and how surely
  loadgen compare mio mine='./server --port {port}'
  loadgen backlog --netns                         who gets in while nobody accepts
  loadgen storm --conns 2000 --backlog 16         what a short listen queue costs new clients
  loadgen -d 1m --interval 1s --hlog run.hlog     a line a second, and an HdrHistogram log
  loadgen sweep --rates 5k..50k/10                latency over load, and where it bends
  loadgen sweep --slo 'p99<1ms'                   the highest rate that holds it
  loadgen floor                                   what this machine can do at all
  loadgen --fail-if 'p99>5ms' --fail-if 'errors>0'
  loadgen report runs/A.json runs/B.json          two runs side by side

Exit codes: 0 ok, 1 run-time failure, 2 usage, 3 backend not available here, 4 cannot bind or
connect, 5 some connections failed, 6 a reply differed from its request, 7 a threshold was
missed, 8 the result is INVALID (its reasons say why), 128+n signal n.";

/// Opens connections to a lockstep server, sends a request on each as soon as the reply to the
/// last is here (or, with --rate, when it is due), checks every byte, and says how long it took,
/// what it cost, and who was the limit.
///
/// Without --target it starts a server of its own, as a child process on processors of its own
/// where there are two or more.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    max_term_width = 100,
    after_long_help = EXAMPLES,
    after_help = "--help shows more, and examples.",
    args_conflicts_with_subcommands = true,
    group(ArgGroup::new("files").args(["output", "hlog"]).multiple(true))
)]
pub struct Cli {
    /// Absent for a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of a run.
    #[command(flatten)]
    pub run: RunArgs,
    /// What it tells while it goes on.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print stored records; of two or more, the others in relation to the first
    Report(ReportArgs),
    /// Measure servers against each other, in rounds, until the difference is known
    Compare(CompareArgs),
    /// Show what listen(n) does to clients while nobody accepts, and predict it
    Backlog(BacklogArgs),
    /// Measure a server at a series of loads: the latency over the throughput, or with --slo the
    /// highest rate that meets objectives
    Sweep(SweepArgs),
    /// Measure what this machine can do at all: exchanges without any event loop
    Floor(FloorArgs),
    /// Open new connections by the thousand, and see what the accept queue makes of them
    Storm(StormArgs),
    /// The embedded server: `lockstep serve`.
    #[command(hide = true)]
    Serve(EmbeddedArgs),
    /// A command as a server that ends with the generator.
    #[command(hide = true)]
    Exec(ExecArgs),
    /// One trial of `loadgen backlog`.
    #[command(hide = true)]
    BacklogTrial(TrialArgs),
}

/// The options of `loadgen report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Files that `-o` wrote; as text, a comparison or a sweep alone
    #[arg(value_name = "RECORD", required = true)]
    pub records: Vec<PathBuf>,

    /// Instead of printing, draw any of them into one page for a browser, which needs no network
    #[arg(short, long, value_name = "FILE.html", value_parser = page)]
    pub output: Option<PathBuf>,

    /// Let --output overwrite a file
    #[arg(long, requires = "output")]
    pub force: bool,
}

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

    /// Watch the clock so long before a request is due, in place of sleeping: exact, but it takes a
    /// processor
    #[arg(long, value_name = "TIME", value_parser = units::duration, requires = "rate")]
    pub spin: Option<Duration>,

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
        value_parser = subject::backend_name, conflicts_with = "target"
    )]
    pub backend: String,

    /// The embedded server's listen queue, for each shard
    #[arg(long, value_name = "N", value_parser = backlog, conflicts_with = "target")]
    pub backlog: Option<u32>,

    /// The embedded server's shards [default: one for each of its processors; blocking: 1]
    #[arg(long, value_name = "N", value_parser = threads, conflicts_with = "target")]
    pub shards: Option<usize>,

    /// Processors of the generator, such as 1 or 0,2-3, one for each thread in turn
    #[arg(long, value_name = "CPULIST", value_parser = cpu_list)]
    pub pin: Option<CpuList>,

    /// Processors of the embedded server
    #[arg(long, value_name = "CPULIST", value_parser = cpu_list, conflicts_with = "target")]
    pub server_pin: Option<CpuList>,

    /// Determines the bytes that are sent, and when [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Print a line for each interval of that length while the run goes on; the record has them
    /// always [default: no line; 1s, or a thousandth of the duration if that is longer]
    #[arg(short, long, value_name = "TIME", value_parser = interval)]
    pub interval: Option<Duration>,

    /// Do not measure beforehand what this machine can do at all; it takes a few tenths of a second
    /// and as many connections again, which the kernel counts with the run's
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
        let cli = Cli::try_parse_from(line.split_ascii_whitespace());
        cli.map_err(|error| error.to_string())?.run.finish()
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
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
        let open = parse("loadgen --rate 50k").unwrap().open_loop(7).unwrap();
        assert_eq!((open.rate, open.arrivals, open.seed), (50_000, Arrivals::Constant, 7));
        assert_eq!(open.spin, Duration::ZERO);
        let open = parse("loadgen -r 5 --arrivals poisson --spin 100us").unwrap().open_loop(7);
        let open = open.unwrap();
        assert_eq!((open.arrivals, open.spin), (Arrivals::Poisson, Duration::from_micros(100)));
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
            ("loadgen --force", "--output"),
            ("loadgen --backend nonsense", "mio"),
            ("loadgen --rate 5 --warmup auto", "closed loop"),
            ("loadgen --connect-rate 0", "must be at least 1"),
            ("loadgen --rate 0", "must be at least 1"),
            ("loadgen --rate 2000M", "at most 1000M"),
            ("loadgen --rate 5 --arrivals regular", "constant and poisson"),
            ("loadgen --arrivals poisson", "--rate"),
            ("loadgen --spin 1ms", "--rate"),
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
