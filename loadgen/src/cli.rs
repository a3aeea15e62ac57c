//! The command line of `loadgen`: a run, or one of the commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::exit::{self, Failure};
use crate::experiments::backlog::{BacklogArgs, TrialArgs};
use crate::experiments::compare::CompareArgs;
use crate::experiments::floor::FloorArgs;
use crate::experiments::storm::StormArgs;
use crate::experiments::sweep::{SweepArgs, WorkerArgs};
use crate::options::{EMBEDDED, page};
use crate::ranks::args::RankArgs;
use crate::ranks::merge::MergeArgs;
use crate::run::args::{LiveArgs, RunArgs};
use crate::servers::embedded::{self, EmbeddedArgs};
use crate::servers::supervisor::ExecArgs;

const EXAMPLES: &str = "\
Examples:
  loadgen --conns 1000                         1,000 clients, the best backend
  loadgen --conns 1000 --backend blocking      the same load on another backend
  loadgen 127.0.0.1:8898 -n 1M                 a million exchanges
  loadgen --size 1KiB -d 30s -o runs/          longer requests, kept as a file
  loadgen --rate 50k --arrivals poisson        latency at a fixed rate
  loadgen --service hi --conns 100             a connection for each exchange
  loadgen --conns 64 --json | jq .throughput_per_s
  loadgen -d 1m --interval 1s --hlog run.hlog  a line per second, and a log
  loadgen --fail-if 'p99>5ms' --fail-if 'errors>0'
  loadgen compare mio io-uring                 with confidence intervals
  loadgen compare mio mine='./server --port {port}'
  loadgen sweep --rates 5k..50k/10             latency over the rate
  loadgen sweep --slo 'p99<1ms'                the highest rate that meets it
  loadgen sweep --conns 10,1k,50k              cost of many connections
  loadgen backlog --netns                      effect of listen(n)
  loadgen storm --conns 2000 --backlog 16      cost of a short listen queue
  loadgen floor                                an exchange without a server
  loadgen HOST:PORT --ranks auto -o runs/      one of the ranks of a launcher
  loadgen merge runs/                          the ranks of a run, added
  loadgen report A.json B.json                 two runs side by side

Exit codes: 0 ok, 1 run-time failure, 2 usage, 3 backend not available here,
4 cannot bind or connect, 5 some connections failed, 6 a reply differed from its
request, 7 a threshold was missed, 8 the result is INVALID (its reasons say
why), 128+n signal n.";

const REPORT_EXAMPLES: &str = "\
Examples:
  loadgen report mio.json io-uring.json               two runs side by side
  loadgen report compared.json -o compared.html       the charts of a comparison
  loadgen report results/runs/*.json -o all.html      one page for all of them";

/// Measures a TCP server that answers each request with a reply: throughput, latency, CPU time.
///
/// Each connection sends its next request when the reply has arrived (closed loop), or on a fixed
/// schedule (--rate). Every byte of every reply is verified. The report names the side that was the
/// limit, and marks a run INVALID if its numbers are not the server's.
///
/// Without HOST:PORT a server is started as a child process, on CPUs of its own where there are two
/// or more.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    max_term_width = 80,
    after_long_help = EXAMPLES,
    after_help = "--help shows more, and examples.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// The command; absent for a run.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Same as --target
    #[arg(value_name = "HOST:PORT", conflicts_with = "target", conflicts_with_all = EMBEDDED)]
    pub address: Option<String>,

    /// Options of a run.
    #[command(flatten)]
    pub run: RunArgs,

    /// Output during a run.
    #[command(flatten)]
    pub live: LiveArgs,

    /// Options of ranks.
    #[command(flatten)]
    pub ranks: RankArgs,
}

impl Cli {
    /// Parses a command line, program name first.
    ///
    /// # Errors
    ///
    /// A usage error; also the help and the version, which clap returns as errors.
    pub fn parse_line(line: &[OsString]) -> Result<Self, clap::Error> {
        if let Some(unknown) = unknown_command(line) {
            return Err(unknown);
        }
        let parsed = Self::try_parse_from(line);
        if let Some(misplaced) = misplaced_command(line, &parsed) {
            return Err(misplaced);
        }
        let mut cli = parsed?;
        cli.run.target = cli.run.target.or(cli.address.take());
        Ok(cli)
    }
}

/// The error for a first word that is neither an option, an address nor a command. Beside the
/// positional HOST:PORT clap would take it for an address, and not suggest the command meant.
fn unknown_command(line: &[OsString]) -> Option<clap::Error> {
    let word = line.get(1)?.to_str()?;
    if word.starts_with('-') || word.contains([':', '.']) {
        return None;
    }
    let commands = clap::Command::new("loadgen").subcommands(Cli::command().get_subcommands());
    let error = commands.try_get_matches_from(["loadgen", word]).err()?;
    (error.kind() == ErrorKind::InvalidSubcommand).then_some(error)
}

/// The error for a command behind the options of a run, which clap takes for HOST:PORT.
fn misplaced_command(line: &[OsString], parsed: &Result<Cli, clap::Error>) -> Option<clap::Error> {
    let command = Cli::command();
    let is_command = |word: &&str| command.find_subcommand(word).is_some();
    let behind = line.iter().skip(2).filter_map(|word| word.to_str());
    let word = match parsed {
        Ok(cli) => cli.address.as_deref().filter(is_command)?,
        Err(error) if error.use_stderr() && line.get(1)?.to_str()?.starts_with('-') => {
            behind.into_iter().find(is_command)?
        }
        Err(_) => return None,
    };
    let text = format!("the command stands before its options: loadgen {word} ...");
    Some(Cli::command().error(ErrorKind::ArgumentConflict, text))
}

/// The hint for a usage error: the help of the command that failed.
pub fn help_hint(line: &[OsString]) -> String {
    embedded::help_hint(&Cli::command(), line)
}

/// Converts an error of clap to one line and a hint.
pub fn usage_failure(error: &clap::Error, line: &[OsString]) -> Failure {
    if line.get(1).is_some_and(|word| word == "many") {
        let hint = "loadgen sweep --conns 10,1k,50k measures the cost of many connections";
        return Failure::new(exit::USAGE, "unrecognized subcommand 'many'").hint(hint);
    }
    let (message, mut hint) = embedded::usage_error(error, &Cli::command(), line);
    if error.kind() == ErrorKind::InvalidSubcommand && hint.starts_with("see ") {
        hint = "a server is HOST:PORT, such as localhost:8898; see loadgen --help".to_owned();
    }
    Failure::new(exit::USAGE, message).hint(hint)
}

/// The commands, each documented by its options.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "clap prints the documentation of the options instead")]
pub enum Command {
    Compare(CompareArgs),
    Sweep(SweepArgs),
    Floor(FloorArgs),
    Storm(StormArgs),
    Backlog(BacklogArgs),
    Merge(MergeArgs),
    Report(ReportArgs),
    #[command(hide = true)]
    Serve(EmbeddedArgs),
    #[command(hide = true)]
    Exec(ExecArgs),
    #[command(hide = true)]
    BacklogTrial(TrialArgs),
    #[command(hide = true)]
    SweepWorker(WorkerArgs),
}

/// Print stored results, or draw them as a page
///
/// Several runs are printed side by side, in relation to the first; other results one after the
/// other.
#[derive(Args, Debug)]
#[command(after_long_help = REPORT_EXAMPLES)]
pub struct ReportArgs {
    /// Files written by --output, of any kinds, or with the output of --json or --json-lines; -
    /// reads standard input
    #[arg(value_name = "RECORD", required = true)]
    pub records: Vec<PathBuf>,

    /// Draw the results as one page for a browser instead of printing them
    #[arg(short, long, value_name = "FILE.html", value_parser = page)]
    pub output: Option<PathBuf>,

    /// Overwrite the page if it exists
    #[arg(long, requires = "output")]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Cli, Failure> {
        let line: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Cli::parse_line(&line).map_err(|error| usage_failure(&error, &line))
    }

    #[test]
    fn options_have_the_same_help_in_every_command() {
        // These take one value or several, or another meaning, by command.
        let differ =
            ["backend", "backlog", "conns", "duration", "force", "output", "rate", "run-id"];
        let differ = [&differ[..], &["rounds", "seed", "size", "target", "warmup"]].concat();
        let cli = Cli::command();
        let mut helps = std::collections::BTreeMap::new();
        for command in cli.get_subcommands().filter(|it| !it.is_hide_set()).chain([&cli]) {
            for option in command.get_arguments().filter(|it| it.get_long().is_some()) {
                let (long, help) = (option.get_long().unwrap(), option.get_help());
                let help = (help.map(ToString::to_string), option.get_help_heading());
                let first = helps.entry(long.to_owned()).or_insert(help.clone());
                assert!(differ.contains(&long) || *first == help, "{long}: {first:?}, {help:?}");
            }
        }
        assert!(helps.len() > 40, "{helps:?}");
    }

    #[test]
    fn address_is_the_target_in_any_position() {
        for line in ["loadgen [::1]:7 --conns 5", "loadgen --conns 5 [::1]:7"] {
            assert_eq!(parse(line).unwrap().run.target.as_deref(), Some("[::1]:7"), "{line}");
        }
        for line in ["loadgen a:1 --target b:1", "loadgen a:1 --backend mio", "loadgen a:1 b:1"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn unknown_command_suggests_a_similar_one() {
        let failure = parse("loadgen comapre mio io-uring").unwrap_err();
        assert!(failure.error.contains("'comapre'"), "{failure:?}");
        assert!(failure.hint.unwrap().contains("'compare'"));
    }

    #[test]
    fn command_behind_options_is_named() {
        for line in ["loadgen --conns 5 compare mio blocking", "loadgen -d 1s sweep"] {
            let failure = parse(line).unwrap_err();
            assert!(failure.error.contains("the command stands before its options"), "{failure:?}");
        }
        assert_eq!(parse("loadgen -o report a:1").unwrap().address, None, "a file's name");
        let failure = parse("loadgen --conns 0 a:1").unwrap_err();
        assert!(failure.error.contains("at least 1"), "{failure:?}");
    }

    #[test]
    fn hint_names_the_help_of_the_command() {
        for (line, hint) in [
            ("loadgen --conns 0", "see loadgen --help"),
            ("loadgen a:1 --conns 0", "see loadgen --help"),
            ("loadgen sweep --conns 0", "see loadgen sweep --help"),
            ("loadgen compare --conns 0", "see loadgen compare --help"),
        ] {
            assert_eq!(parse(line).unwrap_err().hint.as_deref(), Some(hint), "{line}");
        }
    }
}
