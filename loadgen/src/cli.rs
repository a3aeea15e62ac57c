//! The command line of `loadgen`: a run, and what else there is to do.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::experiments::backlog::{BacklogArgs, TrialArgs};
use crate::experiments::compare::CompareArgs;
use crate::experiments::floor::FloorArgs;
use crate::experiments::storm::StormArgs;
use crate::experiments::sweep::SweepArgs;
use crate::many::{ManyArgs, PartArgs};
use crate::run::args::{LiveArgs, RunArgs, page};
use crate::servers::embedded::EmbeddedArgs;
use crate::servers::supervisor::ExecArgs;

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
  loadgen many --conns 1k,50k                     what many connections cost, idle and busy
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
    /// Measure what a server costs with few connections and with many: to open, to keep and to use
    Many(ManyArgs),
    /// The embedded server: `lockstep serve`.
    #[command(hide = true)]
    Serve(EmbeddedArgs),
    /// A command as a server that ends with the generator.
    #[command(hide = true)]
    Exec(ExecArgs),
    /// One trial of `loadgen backlog`.
    #[command(hide = true)]
    BacklogTrial(TrialArgs),
    /// One process of several of `loadgen many`.
    #[command(hide = true)]
    ManyPart(PartArgs),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
