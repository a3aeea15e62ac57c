//! `lockstep talk`: the tutorial's client, at a terminal or in a pipe.
//!
//! Each line is sent as one request (as several, if it is longer than one receive of the server),
//! and the replies are printed. `bye` from either side ends the conversation, as does the end of
//! the input.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lockstep_core::RECV_MAX;

use super::{exit, print_error, resolve};
use crate::chat::BYE;
use crate::listener::open;
use crate::output::{Stream, print, print_line};
use crate::terminal::{Pieces, prefix, prompt, trim_line_ending};
use crate::trace::{Trace, Traced, Tracer};
use lockstep_sys::address::most_telling;
use lockstep_sys::errno;

/// Longest wait for the server's FIN after ours.
const LINGER: Duration = Duration::from_secs(1);

/// The conversation's socket, traced if a tracer is given.
type Socket<'a> = Traced<TcpStream, Option<&'a Tracer>>;

/// End of a conversation.
enum Ended {
    /// The client sent `bye`, or its input or output ended.
    Client,
    /// The server sent `bye`.
    Bye,
    /// The server closed the connection instead of a reply.
    Closed,
}

/// Talks with the server at `addr` until either side ends it.
pub(super) fn talk(addr: &str, trace: bool) -> ExitCode {
    let tracer = trace.then(|| Tracer::new("client"));
    let found = match resolve("cannot connect to", addr) {
        Ok(found) => found,
        Err(code) => return ExitCode::from(code),
    };
    let mut socket = match connect(&found, tracer.as_ref()) {
        Ok(socket) => socket,
        Err(error) => {
            let error = format!("cannot connect to {addr}: {}", errno::describe(&error));
            print_error(&error, Some("`lockstep serve --service chat` starts a server"));
            return ExitCode::from(exit::ADDRESS);
        }
    };
    let _slower = socket.call("setsockopt", "TCP_NODELAY, 1", |stream| stream.set_nodelay(true));
    let mut replies = Pieces::default();
    let ended = converse(&mut socket, &mut replies);
    if let Some(rest) = replies.rest() {
        let _closed_pipe = print(Stream::Out, || rest + "\n");
    }
    socket.trace.close(socket.socket);
    match ended {
        Ok(Ended::Client | Ended::Bye) => ExitCode::SUCCESS,
        Ok(Ended::Closed) => {
            print_line("the server closed the connection");
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&format!("connection lost: {}", errno::describe(&error)), None);
            ExitCode::from(exit::FAILURE)
        }
    }
}

/// Connects to the first address that accepts.
fn connect<'a>(addrs: &[SocketAddr], tracer: Option<&'a Tracer>) -> io::Result<Socket<'a>> {
    let mut errors = Vec::new();
    for &addr in addrs {
        match connect_to(addr, tracer) {
            Ok(socket) => return Ok(socket),
            Err(error) => errors.push(error),
        }
    }
    Err(most_telling(errors).unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn connect_to(addr: SocketAddr, tracer: Option<&Tracer>) -> io::Result<Socket<'_>> {
    let socket = open(addr, tracer)?;
    match socket.call("connect", addr, |socket| socket.connect(&addr.into())) {
        Ok(()) => Ok(Traced { socket: socket.socket.into(), trace: tracer }),
        Err(error) => {
            tracer.close(socket.socket);
            Err(error)
        }
    }
}

fn converse(socket: &mut Socket<'_>, replies: &mut Pieces) -> io::Result<Ended> {
    let mut lines = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        prompt();
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            finish(socket, replies)?;
            return Ok(Ended::Client);
        }
        let text = String::from_utf8_lossy(trim_line_ending(&line)).into_owned();
        let mut rest = text.as_str(); // TCP cannot carry an empty request, and none is sent
        while !rest.is_empty() {
            if print_late_replies(socket, replies)? {
                return Ok(Ended::Bye);
            }
            let request = prefix(rest, RECV_MAX);
            socket.write_all(request.as_bytes())?;
            if text.as_bytes() == BYE {
                return Ok(Ended::Client);
            }
            rest = &rest[request.len()..];
            match receive(socket)? {
                reply if reply.is_empty() => return Ok(Ended::Closed),
                reply => {
                    if show(replies, &reply).is_err() {
                        return Ok(Ended::Client);
                    }
                    if is_bye(&reply) {
                        return Ok(Ended::Bye);
                    }
                }
            }
        }
    }
}

fn receive(socket: &mut Socket<'_>) -> io::Result<Vec<u8>> {
    let mut reply = vec![0; RECV_MAX];
    loop {
        match socket.read(&mut reply) {
            Ok(count) => {
                reply.truncate(count);
                return Ok(reply);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends a FIN and waits for the server's, for at most [`LINGER`], printing what arrives until
/// then: every request has had its reply.
fn finish(socket: &mut Socket<'_>, replies: &mut Pieces) -> io::Result<()> {
    match socket.call("shutdown", "SHUT_WR", |stream| stream.shutdown(Shutdown::Write)) {
        Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()), // the server has closed
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
            Ok(reply) if reply.is_empty() => return Ok(()),
            Ok(reply) => drop(show(replies, &reply)),
            // SO_RCVTIMEO has passed (socket(7)).
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Prints the rest of a reply that arrived in pieces, which would otherwise be taken for the reply
/// to the next request. Returns true if the server has sent `bye`.
fn print_late_replies(socket: &mut Socket<'_>, replies: &mut Pieces) -> io::Result<bool> {
    socket.call("ioctl", "FIONBIO, 1", |stream| stream.set_nonblocking(true))?;
    let late = loop {
        match receive(socket) {
            Ok(reply) if reply.is_empty() => break Ok(false), // the next receive reports it
            Ok(reply) => {
                let _closed_pipe = show(replies, &reply);
                if is_bye(&reply) {
                    break Ok(true);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(false),
            Err(error) => break Err(error),
        }
    };
    socket.call("ioctl", "FIONBIO, 0", |stream| stream.set_nonblocking(false))?;
    late
}

fn show(replies: &mut Pieces, reply: &[u8]) -> io::Result<()> {
    replies.next(reply).map_or(Ok(()), |line| print(Stream::Out, || line + "\n"))
}

/// True for `bye`, with or without a line ending, as for the server.
fn is_bye(reply: &[u8]) -> bool {
    trim_line_ending(reply) == BYE
}
