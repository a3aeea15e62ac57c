//! `lockstep talk`: the tutorial's client, at a terminal or in a pipe.
//!
//! Every line is sent as one request (a longer one than a server receives at once, as several),
//! and what the server answers is printed. `bye` from either side ends the conversation, as does
//! the end of the input.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lockstep_core::RECV_MAX;

use super::address::{self, Unresolved};
use super::exit;
use crate::chat::BYE;
use crate::listener::open;
use crate::terminal::{prefix, printable, trim_line_ending};
use crate::terminal::{print_error, print_line, prompt};
use crate::trace::{Trace, Traced, Tracer};
use lockstep_sys::errno;

/// How long to wait for the server's end after ours.
const LINGER: Duration = Duration::from_secs(1);

/// The conversation's socket, and who is told of its calls, if anybody.
type Socket<'a> = Traced<TcpStream, Option<&'a Tracer>>;

/// How a conversation ended.
enum Ended {
    /// We said `bye`, or had nothing more to say, or nobody to show the answers to.
    Us,
    /// The server said `bye`.
    Bye,
    /// The server closed the connection; were we waiting for an answer?
    Closed,
}

/// Talks with the server at `addr` until either side has had enough. With `trace`, every system
/// call is told.
pub(super) fn talk(addr: &str, trace: bool) -> ExitCode {
    let tracer = trace.then(|| Tracer::new("client"));
    let found = match address::resolve(addr) {
        Ok(found) => found,
        Err(Unresolved { cause, hint }) => return not_connected(addr, &cause, hint),
    };
    let mut socket = match connect(&found, tracer.as_ref()) {
        Ok(socket) => socket,
        Err(error) => {
            let cause = errno::describe(&error);
            let hint = "is a server there? `lockstep serve --service chat` starts one";
            return not_connected(addr, &cause, hint);
        }
    };
    let _slower = socket.call("setsockopt", "TCP_NODELAY, 1", |stream| stream.set_nodelay(true));
    let ended = converse(&mut socket);
    socket.trace.close(socket.socket);
    match ended {
        Ok(Ended::Us | Ended::Bye) => ExitCode::SUCCESS,
        Ok(Ended::Closed) => {
            print_line("the server has closed the connection");
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(
                &format!("the conversation broke off: {} ({})", error, errno::name_of(&error)),
                None,
            );
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn not_connected(addr: &str, cause: &str, hint: &str) -> ExitCode {
    print_error(&format!("cannot connect to {addr}: {cause}"), Some(hint));
    ExitCode::from(exit::ADDRESS)
}

/// Connects to the first of the addresses where somebody listens.
fn connect<'a>(addrs: &[SocketAddr], tracer: Option<&'a Tracer>) -> io::Result<Socket<'a>> {
    let mut refused = io::ErrorKind::AddrNotAvailable.into(); // there is none to try
    for &addr in addrs {
        let socket = open(addr, tracer)?;
        match socket.call("connect", addr, |socket| socket.connect(&addr.into())) {
            Ok(()) => return Ok(Traced { socket: socket.socket.into(), trace: tracer }),
            Err(error) => refused = error,
        }
        tracer.close(socket.socket);
    }
    Err(refused)
}

fn converse(socket: &mut Socket<'_>) -> io::Result<Ended> {
    let mut lines = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        prompt();
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            finish(socket)?;
            return Ok(Ended::Us);
        }
        let text = String::from_utf8_lossy(trim_line_ending(&line)).into_owned();
        let mut rest = text.as_str(); // TCP cannot carry an empty request, and none is sent
        while !rest.is_empty() {
            print_what_came_late(socket)?;
            let request = prefix(rest, RECV_MAX);
            socket.write_all(request.as_bytes())?;
            if text.as_bytes() == BYE {
                return Ok(Ended::Us);
            }
            rest = &rest[request.len()..];
            match receive(socket)? {
                answer if answer.is_empty() => return Ok(Ended::Closed),
                answer => {
                    if show(&answer).is_err() {
                        return Ok(Ended::Us);
                    }
                    if answer == BYE {
                        return Ok(Ended::Bye);
                    }
                }
            }
        }
    }
}

fn receive(socket: &mut Socket<'_>) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; RECV_MAX];
    loop {
        match socket.read(&mut answer) {
            Ok(count) => {
                answer.truncate(count);
                return Ok(answer);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The server sees our end, and we wait for its, showing what comes until then. Not for long: a
/// server may have others to attend to, and every request has had its answer.
fn finish(socket: &mut Socket<'_>) -> io::Result<()> {
    match socket.call("shutdown", "SHUT_WR", |stream| stream.shutdown(Shutdown::Write)) {
        Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()), // it has gone
        result => result?,
    }
    let deadline = Instant::now() + LINGER;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let args = format_args!("SO_RCVTIMEO, {left:.1?}");
        socket.call("setsockopt", args, |stream| stream.set_read_timeout(Some(left)))?;
        match receive(socket) {
            Ok(answer) if answer.is_empty() => return Ok(()),
            Ok(answer) => drop(show(&answer)),
            // SO_RCVTIMEO has passed (socket(7)).
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// An answer may come in pieces. What came after the first is shown before the next request, lest
/// it be taken for the next answer.
fn print_what_came_late(socket: &mut Socket<'_>) -> io::Result<()> {
    socket.call("ioctl", "FIONBIO, 1", |stream| stream.set_nonblocking(true))?;
    let late = loop {
        match receive(socket) {
            Ok(answer) if answer.is_empty() => break Ok(()), // the next receive will say so
            Ok(answer) => drop(show(&answer)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    socket.call("ioctl", "FIONBIO, 0", |stream| stream.set_nonblocking(false))?;
    late
}

fn show(answer: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", printable(answer))?;
    stdout.flush()
}
