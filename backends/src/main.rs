//! The `lockstep` command: see `lockstep --help`.

use std::process::ExitCode;

use clap::Parser;
use lockstep_backends::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
