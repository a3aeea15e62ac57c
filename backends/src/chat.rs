//! The tutorial's conversation: the server's operator answers every request by hand.
//!
//! There is one operator for all shards and connections, who sees each request behind the address
//! of its client, and answers requests in the order of their arrival. `bye` from either side ends
//! a conversation. The end of the operator's input (Ctrl-D) drains the server, since no further
//! request could be answered.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_core::{RECV_MAX, Reply, Service};
use rustix::event::{PollFd, PollFlags};
use socket2::SockRef;

use crate::output::{Stream, print};
use crate::stop::wait_for;
use crate::terminal::{Pieces, prefix, prompt, trim_line_ending};
use crate::{ServiceFactory, Stop};

/// The message that ends a conversation.
pub const BYE: &[u8] = b"bye";

/// Returns the chat service, whose operator is at this process's standard input and output. The end
/// of that input drains `stop`, and draining `stop` ends the wait for the operator.
pub fn service(stop: Arc<Stop>) -> ServiceFactory {
    let (lines, asking) = (Mutex::default(), AtomicBool::new(false));
    let console = Arc::new(Console { lines, asking, stop });
    ServiceFactory::new(move |socket| Conversation::new(Arc::clone(&console), socket))
}

/// The conversation with one client.
struct Conversation {
    console: Arc<Console>,
    /// The client's address.
    client: String,
    requests: Pieces,
}

impl Conversation {
    fn new(console: Arc<Console>, socket: BorrowedFd<'_>) -> Self {
        let addr = SockRef::from(&socket).peer_addr().ok().and_then(|addr| addr.as_socket());
        // A connection that was reset has no address any more (getpeername(2)).
        let client = addr.map_or("unknown address".to_owned(), |addr| addr.to_string());
        console.print(format_args!("{client} connected"));
        Self { console, client, requests: Pieces::default() }
    }
}

impl Service for Conversation {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        let request = &buffer[..count];
        let is_bye = trim_line_ending(request) == BYE;
        // Every request has an answer, and so a line, if all of it is half a character, too.
        let line = format!("{}: {}", self.client, self.requests.next(request).unwrap_or_default());
        let Some(answer) = self.console.show_and_ask(&line, !is_bye) else {
            return Reply::Close;
        };
        let answer = prefix(&answer, RECV_MAX).as_bytes();
        buffer[..answer.len()].copy_from_slice(answer);
        match answer {
            BYE => Reply::SendThenClose(answer.len() as u16),
            _ => Reply::Send(answer.len() as u16),
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Some(rest) = self.requests.rest() {
            self.console.print(format_args!("{}: {rest}", self.client));
        }
        self.console.print(format_args!("{} left", self.client));
    }
}

/// The operator's terminal: standard input and output.
struct Console {
    /// Locked while a request waits for its answer.
    lines: Mutex<Lines>,
    /// True while the operator is asked for a line.
    asking: AtomicBool,
    stop: Arc<Stop>,
}

impl Console {
    /// Prints a line on standard output; on a terminal, over the prompt and with a new one below.
    fn print(&self, line: impl Display) {
        let interrupts = self.asking.load(Relaxed) && io::stdin().is_terminal();
        let (start, end) = if interrupts { ("\r", "> ") } else { ("", "") };
        let _closed_pipe = print(Stream::Out, || format!("{start}{line}\n{end}"));
    }

    /// Shows a request and, if `ask`, returns the operator's answer, which is never empty: TCP
    /// cannot carry an empty reply. None at the end of the operator's input, or if the server
    /// stops.
    fn show_and_ask(&self, request: &str, ask: bool) -> Option<String> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stop.is_draining() {
            return None;
        }
        self.print(request);
        if !ask {
            return None;
        }
        self.asking.store(true, Relaxed);
        let answer = self.ask(&mut lines);
        self.asking.store(false, Relaxed);
        answer
    }

    fn ask(&self, lines: &mut Lines) -> Option<String> {
        loop {
            prompt();
            match lines.next(&self.stop) {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => {
                    if line.len() > RECV_MAX {
                        self.print(format_args!(
                            "note: a reply has at most {RECV_MAX} bytes; the rest was not sent"
                        ));
                    }
                    return Some(line);
                }
                Ok(None) | Err(_) => {
                    self.stop.drain();
                    return None;
                }
            }
        }
    }
}

/// The operator's lines, read only when one is needed.
#[derive(Default)]
struct Lines {
    read: VecDeque<u8>,
    ended: bool,
}

impl Lines {
    /// Reads the next line, without its ending; none at the end of input or if the server stops.
    fn next(&mut self, stop: &Stop) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Some(text(&line)));
            }
            if self.ended {
                let rest: Vec<u8> = self.read.drain(..).collect();
                return Ok((!rest.is_empty()).then(|| text(&rest)));
            }
            if !wait_for_input(stop) {
                return Ok(None);
            }
            let mut chunk = [0; RECV_MAX];
            match rustix::io::read(io::stdin(), &mut chunk) {
                Ok(0) => self.ended = true,
                Ok(count) => self.read.extend(&chunk[..count]),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(trim_line_ending(line)).into_owned()
}

/// Waits until standard input can be read or ends; returns false if the server stops first.
fn wait_for_input(stop: &Stop) -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    while fds[0].revents().is_empty() && !stop.is_draining() {
        wait_for(&mut fds, None);
    }
    !stop.is_draining()
}
