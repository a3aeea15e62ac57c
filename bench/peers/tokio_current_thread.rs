//! A reference server on tokio's current-thread scheduler, with a task for each connection.

mod common;
mod tokio_echo;

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Builder;

/// An echo server on tokio's current-thread scheduler, to compare with.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run("tokio-current-thread", &Args::parse().options, serve)
}

fn serve(listener: TcpListener) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(tokio_echo::accept(listener))
}
