//! A reference server: monoio, on io_uring or epoll. A runtime for each processor, and a task for
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

    /// What monoio waits with
    #[arg(long, value_enum, default_value_t = Driver::IoUring)]
    driver: Driver,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    IoUring,
    /// Called legacy by monoio
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

/// A runtime on the best ring the kernel has, as our own backend: completions are worked on when
/// they are asked for (Linux 6.1), or at least do not interrupt (Linux 5.19).
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

/// Accepts for ever, with a task for each connection.
async fn accept(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => drop(monoio::spawn(echo(stream))),
            Err(error) if common::is_one_connections_own(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Every receive is matched by one send, with one buffer that goes back and forth. A connection's
/// trouble ends the connection.
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
