//! `lockstep talk`: the tutorial's client, at a terminal or in a pipe.
//!
//! Every line is sent as one request (a longer one than a server receives at once, as several),
//! and what the server answers is printed. `bye` from either side ends the conversation, as does
//! the end of the input.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lockstep_core::RECV_MAX;

use super::exit;
use crate::chat::BYE;
use crate::errno::name_of;
use crate::terminal::{complain, prompt, say};
use crate::text::{prefix, printable, trim_line_ending};

/// How long to wait for the server's end after ours.
const LINGER: Duration = Duration::from_secs(1);

/// How a conversation ended.
enum Ended {
    /// We said `bye`, or had nothing more to say, or nobody to show the answers to.
    Us,
    /// The server said `bye`.
    Bye,
    /// The server closed the connection; were we waiting for an answer?
    Closed,
}

/// Talks with the server at `addr` until either side has had enough.
pub(super) fn talk(addr: &str) -> ExitCode {
    let stream = match TcpStream::connect(addr) {
        Ok(stream) => stream,
        Err(error) => {
            complain(
                &format!("cannot connect to {addr}: {} ({})", error.kind(), name_of(&error)),
                Some("is a server there? `lockstep serve --service chat` starts one"),
            );
            return ExitCode::from(exit::ADDRESS);
        }
    };
    let _slower = stream.set_nodelay(true);
    match converse(&stream) {
        Ok(Ended::Us | Ended::Bye) => ExitCode::SUCCESS,
        Ok(Ended::Closed) => {
            say("the server has closed the connection");
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("the conversation broke off: {} ({})", error, name_of(&error)), None);
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn converse(mut stream: &TcpStream) -> io::Result<Ended> {
    let mut lines = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        prompt();
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            finish(stream)?;
            return Ok(Ended::Us);
        }
        let text = String::from_utf8_lossy(trim_line_ending(&line)).into_owned();
        let mut rest = text.as_str(); // TCP cannot carry an empty request, and none is sent
        while !rest.is_empty() {
            print_what_came_late(stream)?;
            let request = prefix(rest, RECV_MAX);
            stream.write_all(request.as_bytes())?;
            if text.as_bytes() == BYE {
                return Ok(Ended::Us);
            }
            rest = &rest[request.len()..];
            match receive(stream)? {
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

fn receive(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; RECV_MAX];
    loop {
        match stream.read(&mut answer) {
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
fn finish(stream: &TcpStream) -> io::Result<()> {
    match stream.shutdown(Shutdown::Write) {
        Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()), // it has gone
        result => result?,
    }
    let deadline = Instant::now() + LINGER;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match receive(stream) {
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
fn print_what_came_late(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let late = loop {
        match receive(stream) {
            Ok(answer) if answer.is_empty() => break Ok(()), // the next receive will say so
            Ok(answer) => drop(show(&answer)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    stream.set_nonblocking(false)?;
    late
}

fn show(answer: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", printable(answer))?;
    stdout.flush()
}
