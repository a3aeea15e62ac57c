//! Command line, listening sockets, ready line and end of every reference server. They are those of
//! `lockstep serve`, so that the servers differ in their runtime alone.
//!
//! A server either gets one listening socket ([`run`]), or runs once on each of several threads
//! that each have a listening socket, between which the kernel distributes connections
//! ([`run_sharded`]).

// Each server is a program of its own, and none uses all of this.
#![allow(dead_code, unused_imports)]

mod cli;
mod listen;

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{self, ExitCode};
use std::sync::mpsc;
use std::thread;

use lockstep_sys::cpus;
use lockstep_sys::limits::raise_open_files;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub(crate) use cli::{Options, Workers};

/// Bytes of a connection's buffer, and so of the longest request.
pub(crate) const BUFFER_SIZE: usize = lockstep_core::RECV_MAX;

/// Slots of a ring's submission queue: enough not to limit a comparison. The numbers are those of
/// the backend io-uring.
pub(crate) const SUBMISSIONS: u32 = 4096;

/// Slots of a ring's completion queue.
pub(crate) const COMPLETIONS: u32 = 4 * SUBMISSIONS;

/// The reason for which a reference server has ended.
enum Failure {
    Failed(io::Error),
    Unavailable(io::Error),
    CannotListen(SocketAddr, io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs a reference server on a blocking listening socket, whose accepted connections inherit
/// TCP_NODELAY. SIGTERM and SIGINT end it immediately with exit code 0. Other exit codes are those
/// of `lockstep serve`: 4 if it cannot listen, and 1 if `serve` returns.
pub(crate) fn run(
    name: &str,
    options: &Options,
    serve: impl FnOnce(TcpListener) -> io::Result<()>,
) -> ExitCode {
    let served = || {
        prepare(options)?;
        let mut listeners = listen::listen(options, 1)?;
        announce(name, &listeners, options.backlog)?;
        Ok(serve(listeners.remove(0))?)
    };
    end(name, served())
}

/// Like [`run`], with `serve` on one thread for each worker. Each has a listening socket, and a CPU
/// of its own if there are enough. The exit code is 3 if `available` returns that the runtime
/// cannot run on this machine.
pub(crate) fn run_sharded(
    name: &str,
    options: &Options,
    workers: Workers,
    available: impl FnOnce() -> io::Result<()>,
    serve: impl Fn(TcpListener) -> io::Result<()> + Copy + Send + 'static,
) -> ExitCode {
    let served = || {
        prepare(options)?;
        let (cpus, count) = (cpus::allowed()?, workers.count()?);
        available().map_err(Failure::Unavailable)?;
        let listeners = listen::listen(options, count)?;
        announce(name, &listeners, options.backlog)?;
        let (results, returned) = mpsc::channel();
        for (shard, listener) in listeners.into_iter().enumerate() {
            let own = (count >= cpus.len()).then(|| cpus[shard % cpus.len()]);
            let results = results.clone();
            thread::Builder::new().name(format!("shard-{shard}")).spawn(move || {
                let pinned = own.map_or(Ok(()), |cpu| cpus::pin(&[cpu]));
                results.send(pinned.and_then(|()| serve(listener)))
            })?;
        }
        drop(results);
        Ok(returned.recv().unwrap_or(Ok(()))?)
    };
    end(name, served())
}

/// True if accept(2) failed because of that connection alone. Any other error, such as a lack of
/// descriptors, ends the server: a run in which it happened must not be compared.
pub(crate) fn is_connection_error(error: &io::Error) -> bool {
    error.kind() == ErrorKind::ConnectionAborted
}

/// Pins the process, raises the limit of open files, and ends the process on a signal.
fn prepare(options: &Options) -> io::Result<()> {
    if let Some(cpus) = &options.pin {
        cpus::pin(cpus)?;
    }
    raise_open_files();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            process::exit(0);
        }
    })?;
    Ok(())
}

fn announce(name: &str, listeners: &[TcpListener], backlog: u32) -> io::Result<()> {
    let (addr, shards, pid) = (listeners[0].local_addr()?, listeners.len(), process::id());
    let mut stdout = io::stdout();
    writeln!(
        stdout,
        "listening addr={addr} backend={name} shards={shards} backlog={backlog} pid={pid}"
    )?;
    stdout.flush()
}

fn end(name: &str, served: Result<(), Failure>) -> ExitCode {
    match served {
        Ok(()) => ExitCode::FAILURE,
        Err(Failure::Failed(error)) => {
            eprintln!("error: the server failed: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::Unavailable(error)) => {
            eprintln!("error: {name} cannot run here: {error}");
            ExitCode::from(3)
        }
        Err(Failure::CannotListen(addr, error)) => {
            eprintln!("error: cannot listen on {addr}: {error}");
            ExitCode::from(4)
        }
    }
}
