//! A reference server on tokio's multi-thread scheduler, with a task for each connection, which any
//! worker may run.

mod common;
mod tokio_echo;

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Builder;

/// An echo server on tokio's multi-thread scheduler, to compare with.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    options: common::Options,

    #[command(flatten)]
    workers: common::Workers,
}

fn main() -> ExitCode {
    let args = Args::parse();
    common::run("tokio-multi-thread", &args.options, |listener| serve(listener, args.workers))
}

/// Spawns the accepting task, because `block_on` does not run its task on a worker.
fn serve(listener: TcpListener, workers: common::Workers) -> io::Result<()> {
    let runtime =
        Builder::new_multi_thread().worker_threads(workers.count()?).enable_io().build()?;
    runtime.block_on(runtime.spawn(tokio_echo::accept(listener)))?
}
