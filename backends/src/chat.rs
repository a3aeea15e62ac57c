//! The tutorial's conversation: the server's operator answers every request by hand.
//!
//! There is one operator, however many shards and conversations there are: whoever has asked
//! first is answered first, and the others wait. `bye` from either side ends a conversation; the
//! end of the operator's input (Ctrl-D) ends the server, in order, since nobody could answer any
//! more.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_core::{RECV_MAX, Reply, Service};
use rustix::event::{PollFd, PollFlags, poll};

use crate::Stop;
use crate::terminal::{prefix, printable, trim_line_ending};
use crate::terminal::{print_line, prompt};

/// What ends a conversation.
pub const BYE: &[u8] = b"bye";

/// The service; one for each shard or conversation, all with the same [`Console`].
#[derive(Debug)]
pub struct Chat {
    console: Arc<Console>,
}

impl Chat {
    /// A conversation with the operator at `console`.
    pub fn new(console: Arc<Console>) -> Self {
        Self { console }
    }
}

impl Service for Chat {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        let request = &buffer[..count];
        let said_bye = trim_line_ending(request) == BYE;
        let Some(answer) = self.console.show_and_ask(&printable(request), !said_bye) else {
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

/// The operator's terminal: standard input and output, or what stands for them.
#[derive(Debug)]
pub struct Console {
    lines: Mutex<Lines>,
    stop: Arc<Stop>,
}

impl Console {
    /// The process's own standard input and output. Waiting for the operator ends when `stop`
    /// says so; the end of the operator's input is what makes `stop` say so.
    pub fn new(stop: Arc<Stop>) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), stop })
    }

    /// Shows a request and, if `ask`, waits for the operator's line: never empty, since TCP
    /// cannot carry an empty reply. Nothing, if the operator has gone or the server stops.
    fn show_and_ask(&self, request: &str, ask: bool) -> Option<String> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stop.is_draining() {
            return None;
        }
        let mut stdout = io::stdout();
        let _nobody_reads = writeln!(stdout, "{request}").and_then(|()| stdout.flush());
        if !ask {
            return None;
        }
        loop {
            prompt();
            match lines.next(&self.stop) {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => {
                    if line.len() > RECV_MAX {
                        print_line(&format!(
                            "note: a reply has at most {RECV_MAX} bytes; the rest is lost"
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

/// The operator's lines, read only when one is wanted.
#[derive(Debug, Default)]
struct Lines {
    read: VecDeque<u8>,
    ended: bool,
}

impl Lines {
    /// The next line without its ending; none at the end of input or when the server stops.
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
            if !wait_for_input(stop)? {
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

/// Waits until there is input (or its end) to read; says no when the server stops first.
fn wait_for_input(stop: &Stop) -> io::Result<bool> {
    let stdin = io::stdin();
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if stop.is_draining() => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
