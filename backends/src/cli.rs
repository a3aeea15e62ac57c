//! The `lockstep` command. In the library, so that `loadgen` can start the very same server.

mod serve;
mod signals;
mod statistics;
mod stdin;
mod talk;

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, Parser, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use lockstep_sys::{address, errno};

use crate::output::print_line;
use crate::{BACKENDS, by_name};
pub use serve::{ServeArgs, serve};

/// Exit codes; `128 + n` stands for signal n.
pub mod exit {
    /// A call failed at run time.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The backend is not available here.
    pub const UNSUPPORTED: u8 = 3;
    /// The address cannot be bound or connected to.
    pub const ADDRESS: u8 = 4;
    /// Connections were closed at the drain timeout, or output was lost.
    pub const INCOMPLETE: u8 = 5;
}

macro_rules! exit_codes {
    () => {
        "
Exit codes: 0 ok, 1 run-time failure, 2 usage, 3 backend not available here,
4 cannot bind or connect, 5 connections closed at the drain timeout or
output lost, 128+n signal n."
    };
}

const EXAMPLES: &str = concat!(
    "\
Examples:
  lockstep serve                           echo on 127.0.0.1:8898
  lockstep serve --backend mio --shards 2  with a backend of your choice
  lockstep serve --service chat            answer by hand; `bye` hangs up
  lockstep talk 127.0.0.1:8898             the client of that conversation
  lockstep backends                        what this machine supports
",
    exit_codes!()
);

const SERVE_EXAMPLES: &str = concat!(
    "\
Examples:
  lockstep serve --listen 127.0.0.1:0            a free port, printed on stdout
  lockstep serve --backend blocking --threads 1  the tutorial's server
  lockstep serve --shards 2 --pin 0,1            a thread on each of two CPUs
  lockstep serve --reuse-port                    share the port with others
  lockstep serve --trace                         print every system call
  lockstep serve --metrics 127.0.0.1:9898        serve metrics for Prometheus
  lockstep serve --accept-pause --backlog 5      accept after kill -USR1 PID
  lockstep serve --service hi --json             statistics as JSON, on stderr
",
    exit_codes!()
);

const TALK_EXAMPLES: &str = concat!(
    "\
Examples:
  lockstep talk 127.0.0.1:8898           type requests; `bye` ends it
  echo hello | lockstep talk [::1]:8898  requests from a pipe
  lockstep talk localhost:8898 --trace   print every system call
",
    exit_codes!()
);

/// A TCP server whose I/O model is an option: every receive is matched by one send
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, max_term_width = 80, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT (Ctrl-C), then answer what was received and stop
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Send each line of standard input as a request, and print the replies
    #[command(after_help = TALK_EXAMPLES)]
    Talk {
        /// Address of the server, such as 127.0.0.1:8898 or localhost:8898
        #[arg(value_name = "ADDR")]
        addr: String,
        /// Print every system call with its result and duration, on standard error
        #[arg(long)]
        trace: bool,
    },
    /// List the backends that this machine supports, and why not the rest
    Backends,
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NoCommand;
    let line: Vec<OsString> = std::env::args_os().collect();
    match Cli::try_parse_from(&line).map(|cli| cli.command) {
        Ok(Command::Serve(args)) => serve(&args),
        Ok(Command::Talk { addr, trace }) => talk::talk(&addr, trace),
        Ok(Command::Backends) => list_backends(),
        Err(help) if !help.use_stderr() || help.kind() == NoCommand => help.exit(),
        Err(error) => {
            let (error, hint) = usage_error(&error, &Cli::command(), &line);
            print_error(&error, Some(&hint));
            ExitCode::from(exit::USAGE)
        }
    }
}

/// Converts an error of clap to one line, and a hint: clap's tip or [`help_hint`].
pub fn usage_error(
    error: &clap::Error,
    program: &clap::Command,
    line: &[OsString],
) -> (String, String) {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // A message may span several lines, up to the first empty one.
    let message: Vec<&str> = lines.iter().copied().take_while(|line| !line.is_empty()).collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let tip = lines.iter().find_map(|line| line.strip_prefix("tip: "));
    // Clap suggests `-- --option`, but no value here begins with `--`.
    let tip = tip.filter(|tip| !tip.starts_with("to pass "));
    (message.to_owned(), tip.map_or_else(|| help_hint(program, line), str::to_owned))
}

/// The hint for a usage error without a better one: the help of the command that failed.
pub fn help_hint(program: &clap::Command, line: &[OsString]) -> String {
    let command = line.get(1).and_then(|word| program.find_subcommand(word));
    let command = command.map(|command| format!("{} ", command.get_name()));
    format!("see {} {}--help", program.get_name(), command.unwrap_or_default())
}

/// Parses `auto`, or the name or an alias of a backend into its name. Help and errors list the
/// names.
pub fn backend_parser() -> impl TypedValueParser<Value = String> {
    let backends = BACKENDS.iter().map(|it| PossibleValue::new(it.name()).aliases(it.aliases()));
    let auto = PossibleValue::new("auto").help("the first of these that this machine supports");
    PossibleValuesParser::new([auto].into_iter().chain(backends))
        .map(|name| by_name(&name).map_or(name, |backend| backend.name().to_owned()))
}

fn list_backends() -> ExitCode {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(80);
    table.set_header(["backend", "supported", "how, or why not"]);
    for backend in BACKENDS {
        match backend.probe(1) {
            Ok(how) => table.add_row([backend.name(), "yes", &how]),
            Err(refused) => {
                let why = format!("{}\nhint: {}", refused.cause, refused.hint);
                table.add_row([backend.name(), "no", &why])
            }
        };
    }
    match writeln!(io::stdout(), "{table}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let cause = errno::describe(&error);
            print_error(&format!("cannot write to standard output: {cause}"), None);
            ExitCode::from(exit::FAILURE)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Returns the addresses, at least one, that `text` stands for: numbers or a name, and a port.
/// Otherwise prints an error that begins with `failed_to`, and returns the exit code:
/// [`exit::USAGE`] for malformed text, [`exit::ADDRESS`] for a name that cannot be resolved.
fn resolve(failed_to: &str, text: &str) -> Result<Vec<SocketAddr>, u8> {
    address::resolve(text).map_err(|error| {
        let (code, hint) = match error.kind() {
            ErrorKind::InvalidInput => (exit::USAGE, WITH_A_PORT),
            _ => (exit::ADDRESS, ANOTHER_NAME),
        };
        print_error(&format!("{failed_to} {text}: {}", errno::text(&error)), Some(hint));
        code
    })
}

const WITH_A_PORT: &str = "write it as 127.0.0.1:8898 or [::1]:8898";

const ANOTHER_NAME: &str = "check the name, or write the address in numbers";

/// Prints an error and a hint on standard error.
fn print_error(error: &str, hint: Option<&str>) {
    print_line(&format!("error: {error}"));
    if let Some(hint) = hint {
        print_line(&format!("hint: {hint}"));
    }
}
