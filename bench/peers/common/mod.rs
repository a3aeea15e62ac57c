//! What every reference server has in common, so that they differ in their runtime alone: the
//! command line, the listening socket, the readiness line and the end. All are those of
//! `lockstep serve`.

mod cli;

use std::io::{self, Write};
use std::net::TcpListener;
use std::process::{self, ExitCode};
use std::thread;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use socket2::{Domain, Protocol, Socket, Type};

use cli::Args;

/// The buffer of each connection, and so the longest request.
pub(crate) const BUFFER_SIZE: usize = lockstep_core::RECV_MAX;

/// Runs a reference server, on a listening socket in non-blocking mode; its accepted connections
/// inherit TCP_NODELAY. It ends with exit code 0 on SIGTERM or SIGINT, whatever its connections
/// do, and with 1 if `serve` returns.
pub(crate) fn run(name: &str, serve: impl FnOnce(TcpListener) -> io::Result<()>) -> ExitCode {
    let args = Args::parse();
    let listener = match listen(&args) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("error: cannot listen on {}: {error}", args.listen);
            return ExitCode::from(4);
        }
    };
    let served = prepare(&args)
        .and_then(|()| announce(name, &listener, args.backlog))
        .and_then(|()| serve(listener));
    if let Err(error) = served {
        eprintln!("error: the server failed: {error}");
    }
    ExitCode::FAILURE
}

fn listen(args: &Args) -> io::Result<TcpListener> {
    let domain = Domain::for_address(args.listen);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&args.listen.into())?;
    socket.listen(i32::try_from(args.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Pins the process, raises the limit of open descriptors as far as it goes, and sees to its end.
fn prepare(args: &Args) -> io::Result<()> {
    if let Some(cpus) = &args.pin {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|&cpu| set.set(cpu));
        sched_setaffinity(None, &set)?;
    }
    let limit = getrlimit(Resource::Nofile);
    let _stays_as_it_is = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            process::exit(0);
        }
    })?;
    Ok(())
}

fn announce(name: &str, listener: &TcpListener, backlog: u32) -> io::Result<()> {
    let (addr, pid) = (listener.local_addr()?, process::id());
    let mut stdout = io::stdout();
    let line = format!("listening addr={addr} backend={name} shards=1 backlog={backlog} pid={pid}");
    writeln!(stdout, "{line}").and_then(|()| stdout.flush())
}
