//! A reference server on monoio, with io_uring or epoll: a runtime for each CPU, and a task for
//! each connection.

mod common;

use std::io;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use io_uring_of_monoio::{Builder, IoUring};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder};

/// An echo server on monoio, to compare with.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    options: common::Options,

    #[command(flatten)]
    workers: common::Workers,

    /// Kernel interface that monoio waits with
    #[arg(long, value_enum, default_value_t = Driver::IoUring)]
    driver: Driver,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    IoUring,
    /// monoio's legacy driver
    Epoll,
}

fn main() -> ExitCode {
    let Args { options, workers, driver } = Args::parse();
    match driver {
        Driver::IoUring => {
            let available = || io_uring().map(drop);
            common::run_sharded("monoio", &options, workers, available, |listener| {
                io_uring()?.block_on(accept(listener))
            })
        }
        Driver::Epoll => {
            let available = || epoll().map(drop);
            common::run_sharded("monoio-epoll", &options, workers, available, |listener| {
                listener.set_nonblocking(true)?;
                epoll()?.block_on(accept(listener))
            })
        }
    }
}

/// Makes a runtime on the best ring of this kernel: task work runs when the thread waits for
/// completions (Linux 6.1), or at least without interrupts (Linux 5.19).
fn io_uring() -> io::Result<Runtime<IoUringDriver>> {
    runtime_on(|ring| ring.setup_single_issuer().setup_defer_taskrun())
        .or_else(|_older| runtime_on(Builder::setup_coop_taskrun))
}

fn runtime_on(set: fn(&mut Builder) -> &mut Builder) -> io::Result<Runtime<IoUringDriver>> {
    let mut ring = IoUring::builder();
    ring.setup_cqsize(common::COMPLETIONS);
    set(&mut ring);
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(common::SUBMISSIONS)
        .uring_builder(ring)
        .build()
}

fn epoll() -> io::Result<Runtime<LegacyDriver>> {
    RuntimeBuilder::<LegacyDriver>::new().build()
}

/// Accepts connections, and runs a task for each.
async fn accept(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => drop(monoio::spawn(echo(stream))),
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
        let (received, request) = stream.read(buffer).await;
        if received? == 0 {
            return Ok(());
        }
        let (sent, reply) = stream.write_all(request).await;
        sent?;
        buffer = reply;
    }
}
