//! The options of a run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use lockstep_results::Statistic;

use crate::clients::connection::Service;
use crate::clients::engine::Engine;
use crate::clients::intervals::INTERVALS_MAX;
use crate::clients::pattern::SIZE_MAX_ONE_SHOT;
use crate::clients::schedule::OpenLoop;
use crate::options::{
    EMBEDDED, GeneratorArgs, LOAD, OUTPUT, OutputArgs, PlacementArgs, SERVER, ServerArgs, backlog,
    conns, file, positive, rate, size,
};
use crate::run::condition::Condition;
use crate::run::warmup::Warmup;
use crate::servers::embedded::backend_parser;
use crate::servers::metrics::Url;
use lockstep_sys::units;

/// Shortest interval: to sum one up takes about a millisecond.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Output during a run.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = OUTPUT)]
pub struct LiveArgs {
    /// Print each interval as one JSON object on a line during the run, then the record
    #[arg(long, conflicts_with = "json")]
    pub json_lines: bool,

    /// Write each interval's histograms to an HdrHistogram log during the run
    #[arg(long, value_name = "FILE", group = "files", value_parser = file())]
    pub hlog: Option<PathBuf>,
}

/// The options of a run.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = LOAD)]
pub struct RunArgs {
    /// Number of concurrent connections
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = conns)]
    pub conns: u32,

    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// Length of the measured window; with --requests, whichever ends first [default: 10s]
    #[arg(short, long, value_name = "TIME", value_parser = units::duration_positive)]
    pub duration: Option<Duration>,

    /// Measure exactly N exchanges, over all connections
    #[arg(short = 'n', long, value_name = "N", value_parser = positive)]
    pub requests: Option<u64>,

    /// Open loop: total requests per second (50k, 0.5 or 30/m), sent on a fixed schedule
    /// regardless of replies
    /// [default: closed loop]
    #[arg(short, long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<f64>,

    /// Length of the same load before the measured window; auto (closed loop only): until the rate
    /// is steady, at most 3s
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = Warmup::parse)]
    pub warmup: Warmup,

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

    /// Backend of the embedded server
    #[arg(short, long, value_name = "NAME", default_value = "auto", help_heading = SERVER)]
    #[arg(value_parser = backend_parser())]
    pub backend: String,

    /// Length of each shard's listen queue [default: 1024]
    #[arg(long, value_name = "N", value_parser = backlog, help_heading = SERVER)]
    pub backlog: Option<u32>,

    /// Options of the embedded server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// CPUs of both sides.
    #[command(flatten)]
    pub placement: PlacementArgs,

    /// Print a line for each interval of length TIME during the run; at most 100,000, of which the
    /// last one lasts to the end [default: none; the record has intervals of 1s, or of a thousandth
    /// of the duration if that is longer]
    #[arg(short, long, value_name = "TIME", value_parser = interval, help_heading = OUTPUT)]
    pub interval: Option<Duration>,

    /// Exit with code 7 if the condition is true, such as 'p99>5ms', 'service.max>1s',
    /// 'throughput<50k' or 'error_rate>0.1%'; repeatable. A percentile that the samples do not
    /// bound makes the run INVALID. Metrics: min, mean, max and percentiles such as p50, p99.95
    /// (also of connect, first_exchange, exchange, response, service, lateness), throughput,
    /// errors, error_rate, server_cpu, client_cpu
    #[arg(long, value_name = "CONDITION", help_heading = OUTPUT)]
    pub fail_if: Vec<Condition>,

    /// Also report these statistics of each latency, such as p75,p95,p99.95,mean
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = OUTPUT)]
    pub percentiles: Vec<Statistic>,

    /// Destination of the record.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The options without any argument.
impl Default for RunArgs {
    fn default() -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            run: RunArgs,
        }
        Alone::try_parse_from(["loadgen"]).expect("a run needs no option").run
    }
}

impl RunArgs {
    /// Checks combinations of options, and fills in the duration.
    ///
    /// # Errors
    ///
    /// The combination that is not possible.
    pub fn finish(mut self) -> Result<Self, String> {
        if self.duration.is_none() && self.requests.is_none() {
            self.duration = Some(Duration::from_secs(10));
        }
        if self.server_metrics.is_some() && self.target.is_none() {
            return Err(
                "--server-metrics is for a server that runs already: give its HOST:PORT".to_owned()
            );
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
        if self.rate.is_none() && self.generator.arrivals.is_some() {
            return Err("--arrivals is for an open loop: give --rate too".to_owned());
        }
        if let Some(threads) = self.generator.threads
            && threads > self.conns as usize
        {
            return Err(format!(
                "--threads {threads} is more than --conns {}: some would have nothing to do",
                self.conns
            ));
        }
        if let (Some(duration), Some(interval)) = (self.duration, self.interval)
            && duration.as_nanos() / interval.as_nanos() > INTERVALS_MAX.into()
        {
            return Err(format!(
                "--interval: more than {INTERVALS_MAX} of them; take a longer one"
            ));
        }
        Ok(self)
    }

    /// The options with another number of connections, and no more threads than connections.
    pub(crate) fn with_conns(&self, conns: u32) -> Self {
        let mut args = Self { conns, ..self.clone() };
        args.generator.threads = args.generator.threads.map(|threads| threads.min(conns as usize));
        args
    }

    /// Length of the intervals of the measured window. By default at least a second, and at most a
    /// thousand intervals.
    pub fn interval(&self) -> Duration {
        let seconds = self.duration.map_or(0, |duration| duration.as_secs().div_ceil(1000));
        self.interval.unwrap_or(Duration::from_secs(seconds.max(1)))
    }

    /// The engine asked for, or the cheapest for this kind of loop.
    pub fn engine(&self) -> Engine {
        self.generator.engine.unwrap_or_else(|| Engine::best(self.rate.is_some()))
    }

    /// Busy-poll time of a closed loop.
    pub fn spin_closed(&self) -> Duration {
        self.generator.spin.filter(|_| self.rate.is_none()).unwrap_or_default()
    }

    /// Schedule of an open loop; `None` for a closed loop.
    pub fn open_loop(&self, seed: u64) -> Option<OpenLoop> {
        let arrivals = self.generator.arrivals.unwrap_or_default();
        let spin = self.generator.spin.unwrap_or_default();
        self.rate.map(|rate| OpenLoop { rate, arrivals, spin, seed })
    }
}

/// Parses the length of an interval.
fn interval(text: &str) -> Result<Duration, String> {
    match units::duration(text)? {
        interval if interval < INTERVAL_MIN => Err("must be at least 10ms".to_owned()),
        interval => Ok(interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::schedule::Arrivals;

    fn parse(line: &str) -> Result<RunArgs, String> {
        let cli = crate::cli::Cli::try_parse_from(line.split_ascii_whitespace());
        cli.map_err(|error| error.to_string())?.run.finish()
    }

    #[test]
    fn defaults_and_units_of_a_run() {
        let args = parse("loadgen").unwrap();
        assert_eq!((args.conns, args.size), (64, 64));
        assert_eq!(args.duration, Some(Duration::from_secs(10)));
        assert_eq!(parse("loadgen -n 5").unwrap().duration, None);
        let both = parse("loadgen -n 5k -d 2s --size 1KiB --pin 0,2-3").unwrap();
        assert_eq!((both.requests, both.duration), (Some(5000), Some(Duration::from_secs(2))));
        assert_eq!((both.size, both.placement.pin), (1024, Some(vec![0, 2, 3])));
    }

    #[test]
    fn rate_makes_an_open_loop() {
        assert!(parse("loadgen").unwrap().open_loop(1).is_none());
        let spinning = parse("loadgen --spin 50us").unwrap();
        assert!(spinning.open_loop(1).is_none());
        assert_eq!(spinning.spin_closed(), Duration::from_micros(50));
        let open = parse("loadgen --rate 50k").unwrap().open_loop(7).unwrap();
        assert_eq!(parse("loadgen --rate 30/m").unwrap().rate, Some(0.5));
        assert_eq!((open.rate, open.arrivals, open.seed), (50_000.0, Arrivals::Constant, 7));
        assert_eq!(open.spin, Duration::ZERO);
        let open = parse("loadgen -r 5 --arrivals poisson --spin 100us").unwrap().open_loop(7);
        let open = open.unwrap();
        assert_eq!((open.arrivals, open.spin), (Arrivals::Poisson, Duration::from_micros(100)));
        assert_eq!(parse("loadgen -r 5 --spin 100us").unwrap().spin_closed(), Duration::ZERO);
    }

    #[test]
    fn default_intervals_are_at_least_a_second_and_at_most_a_thousand() {
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
    fn usage_errors() {
        for (line, words) in [
            ("loadgen --conns 0", "must be at least 1"),
            ("loadgen --conns 2M", "at most 1000000"),
            ("loadgen --size 0", "must be at least 1"),
            ("loadgen --size 2MiB", "at most 1MiB"),
            ("loadgen -d 10", "write 10s"),
            ("loadgen -d 0s", "must be longer than zero"),
            ("loadgen --requests 0", "must be at least 1"),
            ("loadgen --service chat", "possible values: echo, hi"),
            ("loadgen --service hi --size 1025", "at most 1024"),
            ("loadgen --threads 3 --conns 2", "nothing to do"),
            ("loadgen --target a:1 --backend mio", "cannot be used with"),
            ("loadgen --place here", "possible values: apart, steered"),
            ("loadgen --server-spin 50", "write 50s"),
            ("loadgen --target a:1 --place steered", "cannot be used with"),
            ("loadgen --force", "not provided"),
            ("loadgen --backend nonsense", "possible values: auto, "),
            ("loadgen --rate 5 --warmup auto", "closed loop"),
            ("loadgen --connect-rate 0", "must be more than 0"),
            ("loadgen --rate 0", "must be more than 0"),
            ("loadgen --rate 0.01/h", "at least one a day"),
            ("loadgen --rate 1e-300", "not a rate: write 50k, 0.5 or 30/m"),
            ("loadgen --rate nan", "not a rate"),
            ("loadgen --rate inf", "not a rate"),
            ("loadgen --rate=-1", "not a rate"),
            ("loadgen --rate 2000M", "at most 1000M"),
            ("loadgen --rate 5 --arrivals regular", "possible values: constant, poisson"),
            ("loadgen --arrivals poisson", "--rate"),
            ("loadgen --engine aio", "possible values: epoll, io-uring"),
            ("loadgen --rate 5 --spin 1", "write 1s"),
            ("loadgen --fail-if q98>1ms", "unknown metric \"q98\""),
            ("loadgen --percentiles p95,p100", "p1 to p99.9999"),
            ("loadgen --interval 9ms", "at least 10ms"),
            ("loadgen --interval 10ms -d 1h", "more than 100000"),
            ("loadgen --json --json-lines", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
