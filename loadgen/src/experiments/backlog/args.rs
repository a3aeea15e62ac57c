//! Options of `loadgen backlog`.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::experiments::listening::unique;
use crate::options::{LOAD, OutputArgs, SERVER, backlog};
use lockstep_sys::units;

/// Heading of the options of the private network namespace in `--help`.
const NAMESPACE: &str = "Network namespace";

/// Most trials, each of which is a process.
const TRIALS_MAX: usize = 16;

/// Most connects beyond the capacity of the queue.
const EXTRA_MAX: u64 = 10_000;

/// Longest hold, and longest observation after it. The kernel gives up a SYN after about two
/// minutes.
const TIME_MAX: Duration = Duration::from_secs(300);

const EXAMPLES: &str = "\
Examples:
  loadgen backlog --netns                         listen(0) to (128), undisturbed
  loadgen backlog --netns --n 5 --syncookies 0    no SYN cookies: no ghosts
  loadgen backlog --n 5 --hold 500ms              without privileges
  loadgen backlog --netns --n 128 --somaxconn 10  where the maximum is 10
  lockstep serve --accept-pause --backlog 8 &
  loadgen backlog --target 127.0.0.1:8898 --release";

/// Show the effect of listen(n) on clients while no connection is accepted
///
/// Fills accept queues, then accepts, and shows the fate of every client: connected, waiting, or
/// connected only on its own side.
///
/// The result stands beside the prediction from the kernel's rules. The exit code is 8 if they
/// differ, or if the kernel's counters contradict each other or the clients.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES, next_help_heading = LOAD)]
pub struct BacklogArgs {
    /// Arguments of listen(2), each a trial with a listener of its own
    #[arg(long, value_name = "N,...", default_value = "0,1,3,5,128", value_delimiter = ',')]
    #[arg(value_parser = backlog)]
    pub n: Vec<u32>,

    /// Server on this machine that does not accept yet, in place of a listener of its own
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["n", "netns"])]
    #[arg(help_heading = SERVER)]
    pub target: Option<String>,

    /// Send the target SIGUSR1 after the hold: `lockstep serve --accept-pause` then accepts
    #[arg(long, requires = "target", help_heading = SERVER)]
    pub release: bool,

    /// Connects beyond the capacity of the accept queue
    #[arg(long, value_name = "N", default_value = "8", value_parser = extra)]
    pub extra: u32,

    /// Order of the connects
    #[arg(long, value_name = "NAME", default_value = "storm")]
    pub mode: Mode,

    /// Source addresses of the connections, in turn [default: the route's; to a loopback address,
    /// one of 127.0.0.0/8 for each third of the ports]
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    pub source: Vec<IpAddr>,

    /// Time without accepting, from the last connect
    #[arg(long, value_name = "TIME", default_value = "1500ms", value_parser = time)]
    pub hold: Duration,

    /// Longest time to follow the clients after that
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = time)]
    pub observe: Duration,

    /// Give each trial a private network namespace, whose counters no other program moves
    #[arg(long, help_heading = NAMESPACE)]
    pub netns: bool,

    /// net.core.somaxconn in the private namespace
    #[arg(long, value_name = "N", value_parser = backlog)]
    #[arg(help_heading = NAMESPACE)]
    pub somaxconn: Option<u32>,

    /// net.ipv4.tcp_syncookies in the private namespace: 0, 1, or 2 for always
    #[arg(long, value_name = "N", help_heading = NAMESPACE)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=2))]
    pub syncookies: Option<u32>,

    /// Set net.ipv4.tcp_abort_on_overflow in the private namespace
    #[arg(long, help_heading = NAMESPACE)]
    pub abort_on_overflow: bool,

    /// Output options.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Order of the connects.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Mode {
    /// One after another: each once the previous one is connected, or waits
    Seq,
    /// All in a burst
    Storm,
}

impl Mode {
    /// Name in options and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Storm => "storm",
        }
    }
}

impl BacklogArgs {
    /// Checks that settings of the private namespace come with `--netns`. The message of clap's
    /// `requires` does not name the setting.
    pub(super) fn check(&self) -> Result<(), String> {
        let given = [
            ("--somaxconn", self.somaxconn.is_some()),
            ("--syncookies", self.syncookies.is_some()),
            ("--abort-on-overflow", self.abort_on_overflow),
        ];
        match given.iter().find(|(_, given)| *given && !self.netns) {
            Some((option, _)) => Err(format!("{option} needs --netns")),
            None => Ok(()),
        }
    }

    /// Settings to make in the private namespace.
    pub(super) fn settings(&self) -> Vec<(String, u32)> {
        let abort = self.abort_on_overflow.then_some(1);
        [
            ("net/core/somaxconn", self.somaxconn),
            ("net/ipv4/tcp_syncookies", self.syncookies),
            ("net/ipv4/tcp_abort_on_overflow", abort),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }

    /// The values of `--n` without duplicates.
    pub(super) fn numbers(&self) -> Result<Vec<u32>, String> {
        let numbers = unique(&self.n);
        match numbers.len() {
            ..=TRIALS_MAX => Ok(numbers),
            _ => Err(format!("--n: at most {TRIALS_MAX} numbers")),
        }
    }
}

fn extra(text: &str) -> Result<u32, String> {
    match units::count(text)? {
        count @ ..=EXTRA_MAX => Ok(count as u32),
        _ => Err(format!("at most {EXTRA_MAX}")),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    match units::duration_positive(text)? {
        time if time > TIME_MAX => Err(format!("at most {} s", TIME_MAX.as_secs())),
        time => Ok(time),
    }
}
