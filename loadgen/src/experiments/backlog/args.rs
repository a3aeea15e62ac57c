//! The options of `loadgen backlog`.

use std::time::Duration;

use clap::Args;

use crate::output::OutputArgs;
use crate::run::args::backlog;
use lockstep_sys::units;

/// More listeners at a time, each in a process of its own, than anybody compares.
const TRIALS_MAX: usize = 16;

/// Connects beyond what fits, at most.
const EXTRA_MAX: u64 = 10_000;

/// The longest hold, and the longest that is waited after it. A SYN is given up after about two
/// minutes.
const TIME_MAX: Duration = Duration::from_secs(300);

const EXAMPLES: &str = "\
Examples:
  loadgen backlog --netns                         listen(0), (1), (3), (5), (128), undisturbed
  loadgen backlog --netns --n 5 --syncookies 0    the same without SYN cookies: no ghosts
  loadgen backlog --n 5 --hold 500ms              without privileges, among everybody's connections
  loadgen backlog --netns --n 128 --somaxconn 10  what listen(128) is worth where 10 is the most
  lockstep serve --accept-pause --backlog 8 &
  loadgen backlog --target 127.0.0.1:8898 --release";

/// Fills accept queues that nobody empties, and shows who gets in, who waits, and who only
/// believes that he got in; then has everybody accepted, and follows them to the end.
///
/// What was measured stands beside what the kernel's rules predict. Where they differ, or the
/// kernel's counters contradict each other or the clients, the exit code is 8.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct BacklogArgs {
    /// What is given to listen(2); each number is a trial with a listener of its own
    #[arg(long, value_name = "N,...", default_value = "0,1,3,5,128", value_delimiter = ',')]
    #[arg(value_parser = backlog)]
    pub n: Vec<u32>,

    /// A server of this machine that accepts nothing for now, in place of an own listener
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["n", "netns"])]
    pub target: Option<String>,

    /// Send the target SIGUSR1 after the hold: `lockstep serve --accept-pause` then accepts
    #[arg(long, requires = "target")]
    pub release: bool,

    /// Connects beyond what the accept queue holds
    #[arg(long, value_name = "N", default_value = "8", value_parser = extra)]
    pub extra: u32,

    /// How they come: storm (all at once), seq (each when the one before is through, or waits)
    #[arg(long, value_name = "NAME", default_value = "storm", value_parser = mode)]
    pub mode: Mode,

    /// How long nobody accepts, from the last connect
    #[arg(long, value_name = "TIME", default_value = "1500ms", value_parser = time)]
    pub hold: Duration,

    /// The longest that everybody is followed after that
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = time)]
    pub observe: Duration,

    /// Give each trial a network namespace of its own, with counters that nobody else moves
    #[arg(long)]
    pub netns: bool,

    /// net.core.somaxconn in the private namespace
    #[arg(long, value_name = "N", requires = "netns", value_parser = backlog)]
    pub somaxconn: Option<u32>,

    /// net.ipv4.tcp_syncookies in the private namespace: 0, 1, or 2 for always
    #[arg(long, value_name = "N", requires = "netns", value_parser = clap::value_parser!(u32).range(0..=2))]
    pub syncookies: Option<u32>,

    /// Set net.ipv4.tcp_abort_on_overflow in the private namespace
    #[arg(long, requires = "netns")]
    pub abort_on_overflow: bool,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How connects follow each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Each when the one before is through, or waits.
    Seq,
    /// All at once.
    Storm,
}

impl Mode {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Storm => "storm",
        }
    }
}

impl BacklogArgs {
    /// The settings to make in the private namespace.
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

    /// The numbers, each once.
    pub(super) fn numbers(&self) -> Result<Vec<u32>, String> {
        let mut numbers: Vec<u32> = Vec::new();
        for &n in &self.n {
            if !numbers.contains(&n) {
                numbers.push(n);
            }
        }
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

fn mode(text: &str) -> Result<Mode, String> {
    [Mode::Seq, Mode::Storm]
        .into_iter()
        .find(|mode| mode.name() == text)
        .ok_or_else(|| "there are seq and storm".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    match units::duration_positive(text)? {
        time if time > TIME_MAX => Err(format!("at most {} s", TIME_MAX.as_secs())),
        time => Ok(time),
    }
}
