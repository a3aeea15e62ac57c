//! The `lockstep` command: see `lockstep --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_backends::cli::main()
}
