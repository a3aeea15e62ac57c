//! The `lockstep` command. A library, so that a load generator can start the very same server.

mod address;
mod serve;
mod signals;
mod statistics;
mod table;
mod talk;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use serve::{ServeArgs, serve};

/// How the commands end; `128 + n` stands for signal n.
pub mod exit {
    /// Something failed at run time.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The backend is not available here.
    pub const UNSUPPORTED: u8 = 3;
    /// The address cannot be bound or connected to.
    pub const ADDRESS: u8 = 4;
    /// The drain timeout cut conversations off.
    pub const INCOMPLETE: u8 = 5;
}

macro_rules! exit_codes {
    () => {
        "
Exit codes: 0 ok, 1 run-time failure, 2 usage, 3 backend not available here,
4 cannot bind or connect, 5 the drain timeout cut conversations, 128+n signal n."
    };
}

const EXAMPLES: &str = concat!(
    "\
Examples:
  lockstep serve                            echo on 127.0.0.1:8898, with the best backend there is
  lockstep serve --backend mio --shards 2   with a backend of your choice
  lockstep serve --service chat             answer by hand, as in the tutorial; `bye` hangs up
  lockstep talk 127.0.0.1:8898              the other side of that conversation
  lockstep backends                         what this kernel can run, and why not the rest
",
    exit_codes!()
);

const SERVE_EXAMPLES: &str = concat!(
    "\
Examples:
  lockstep serve --listen 127.0.0.1:0               a free port; the line on stdout names it
  lockstep serve --backend blocking --threads 1     the tutorial's server: one client at a time
  lockstep serve --backend mio --shards 2 --pin 0,1 a thread for each of two processors
  lockstep serve --reuse-port                       a second one may serve the same port
  lockstep serve --trace                            every system call, as it is made
  lockstep serve --accept-pause --backlog 5         let clients wait; kill -USR1 PID lets them in
  lockstep serve --service hi --json                statistics for programs, on stderr
",
    exit_codes!()
);

/// Every receive is matched by one send: a TCP server whose I/O model is a flag.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT (Ctrl-C), then end every conversation in order.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Talk to a server: every line you type is a request, and its answer is printed.
    Talk {
        /// The server's address, such as 127.0.0.1:8898 or localhost:8898.
        #[arg(value_name = "ADDR")]
        addr: String,
        /// Tell every system call on the way, with its result and its time, on standard error
        #[arg(long)]
        trace: bool,
    },
    /// Show which backends this machine can run, and why not the rest.
    Backends,
}

impl Cli {
    /// Runs the command.
    pub fn run(&self) -> ExitCode {
        match &self.command {
            Command::Serve(args) => serve(args),
            Command::Talk { addr, trace } => talk::talk(addr, *trace),
            Command::Backends => table::backends(),
        }
    }
}
