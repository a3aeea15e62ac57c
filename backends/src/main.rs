//! The `lockstep` command: see `lockstep --help`.

use std::process::ExitCode;

use lockstep_sys::memory::OrExit;

#[global_allocator]
static ALLOCATOR: OrExit = OrExit;

fn main() -> ExitCode {
    lockstep_backends::cli::main()
}
