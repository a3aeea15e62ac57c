//! A reference server on compio, whose operations own their buffer until they complete: a runtime
//! and its ring for each CPU, and a task for each connection.

mod common;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use compio::BufResult;
use compio::driver::ProactorBuilder;
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream};
use compio::runtime::{Runtime, RuntimeBuilder};

/// An echo server on compio, to compare with.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    options: common::Options,

    #[command(flatten)]
    workers: common::Workers,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let available = || runtime().map(drop);
    common::run_sharded("compio", &args.options, args.workers, available, |listener| {
        runtime()?.block_on(accept(listener))
    })
}

/// Makes a runtime on the best ring of this kernel: task work runs when the thread waits for
/// completions (Linux 6.1), or at least without interrupts (Linux 5.19).
fn runtime() -> io::Result<Runtime> {
    runtime_on(|ring| ring.single_issuer(true).defer_taskrun(true))
        .or_else(|_older| runtime_on(|ring| ring.coop_taskrun(true)))
}

fn runtime_on(set: fn(&mut ProactorBuilder) -> &mut ProactorBuilder) -> io::Result<Runtime> {
    let mut ring = ProactorBuilder::new();
    ring.capacity(common::SUBMISSIONS).cqsize(common::COMPLETIONS).taskrun_flag(true);
    set(&mut ring);
    RuntimeBuilder::new().with_proactor(ring).build()
}

/// Accepts connections, and runs a task for each.
async fn accept(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => compio::runtime::spawn(echo(stream)).detach(),
            Err(error) if common::is_connection_error(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Replies to each receive with one send, from the same buffer. An error
/// ends the connection.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(common::BUFFER_SIZE);
    loop {
        buffer.clear();
        let BufResult(received, request) = stream.read(buffer).await;
        if received? == 0 {
            return Ok(());
        }
        let BufResult(sent, reply) = stream.write_all(request).await;
        sent?;
        buffer = reply;
    }
}
