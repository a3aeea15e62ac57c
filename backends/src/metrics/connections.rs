//! Connections to the metrics. Each carries one request, and ends within a second whatever its
//! client does: it may send nothing, random bytes, an endless head, one byte at a time, or never
//! read. Their number is bounded, and with it the memory: a new connection replaces the oldest.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{SocketFlags, accept_with};

use super::http::{HEAD_MAX, Request, Status, parse};
use crate::Stop;
use crate::stop::wait_for;

/// Most connections.
const CONNECTIONS_MAX: usize = 32;

/// Time for a request to arrive, from the accept on.
const REQUEST_WITHIN: Duration = Duration::from_millis(750);

/// Time after which a connection is closed, from the accept on.
const LIFETIME: Duration = Duration::from_millis(900);

/// Most receives for a request: the head is parsed from its beginning after each.
const RECEIVES_MAX: u32 = 128;

/// Most bytes that are discarded after a response. A connection that is closed with unread bytes is
/// reset, and the response may be lost (RFC 2525, 2.17).
const DISCARD_MAX: usize = 4 << 20;

/// Delay after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Delay after so many accepts that all connections are new ones: with a flood of connections, at
/// most 4,000 are accepted per second.
const ACCEPT_PAUSE: Duration = Duration::from_millis(8);

/// The connections, in the order of their accepts.
#[derive(Default)]
pub(super) struct Connections {
    open: Vec<Connection>,
    /// End of a delay before the next accept.
    accept_at: Option<Instant>,
}

struct Connection {
    stream: TcpStream,
    accepted: Instant,
    state: State,
}

enum State {
    Receiving { head: Vec<u8>, receives: u32 },
    Sending { response: Vec<u8>, sent: usize },
    Discarding { discarded: usize },
    Closed,
}

/// Makes the response to a request.
type Respond<'a> = &'a mut dyn FnMut(Request) -> Vec<u8>;

impl Connections {
    /// Serves clients of `listener` until `end`.
    pub(super) fn serve(&mut self, listener: &TcpListener, end: &Stop, respond: Respond<'_>) {
        while !end.is_draining() {
            let ready = self.wait(listener, end);
            let now = Instant::now();
            for (connection, ready) in self.open.iter_mut().zip(ready) {
                if ready {
                    connection.run(respond);
                }
                connection.expire(now, respond);
            }
            self.open.retain(|connection| !matches!(connection.state, State::Closed));
            self.accept(now, listener, respond);
        }
    }

    /// Waits for a client or a deadline. Returns true for each connection that is ready.
    fn wait(&self, listener: &TcpListener, end: &Stop) -> Vec<bool> {
        let connections = self.open.iter().map(|it| PollFd::new(&it.stream, it.interest()));
        let mut fds: Vec<_> = connections.chain([PollFd::new(end, PollFlags::IN)]).collect();
        if self.accept_at.is_none() {
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        let deadlines = self.open.iter().map(Connection::deadline).chain(self.accept_at);
        let next = deadlines.min().map(|at| at.saturating_duration_since(Instant::now()));
        wait_for(&mut fds, next);
        fds[..self.open.len()].iter().map(|fd| !fd.revents().is_empty()).collect()
    }

    fn accept(&mut self, now: Instant, listener: &TcpListener, respond: Respond<'_>) {
        self.accept_at.take_if(|at| *at <= now);
        if self.accept_at.is_some() {
            return;
        }
        for _ in 0..CONNECTIONS_MAX {
            match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    let mut connection = Connection {
                        stream: socket.into(),
                        accepted: now,
                        state: State::Receiving { head: Vec::new(), receives: 0 },
                    };
                    connection.run(respond); // the request is usually there
                    if self.open.len() == CONNECTIONS_MAX {
                        self.open.remove(0);
                    }
                    self.open.push(connection);
                }
                Err(error) => match io::Error::from(error).kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.accept_at = Some(now + ACCEPT_RETRY);
                        return;
                    }
                },
            }
        }
        self.accept_at = Some(now + ACCEPT_PAUSE);
    }
}

impl Connection {
    fn interest(&self) -> PollFlags {
        if matches!(self.state, State::Sending { .. }) { PollFlags::OUT } else { PollFlags::IN }
    }

    fn deadline(&self) -> Instant {
        let receiving = matches!(self.state, State::Receiving { .. });
        self.accepted + if receiving { REQUEST_WITHIN } else { LIFETIME }
    }

    /// Makes the calls that the connection is ready for.
    fn run(&mut self, respond: Respond<'_>) {
        let next = self.advance(respond).unwrap_or_else(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => None,
            _ => Some(State::Closed),
        });
        if let Some(state) = next {
            self.state = state;
        }
    }

    /// Ends what takes too long. A client that has sent a part of a request gets an error.
    fn expire(&mut self, now: Instant, respond: Respond<'_>) {
        if self.deadline() > now {
            return;
        }
        self.state = match &self.state {
            State::Receiving { head, .. } if !head.is_empty() => {
                let response = respond(Request::refused(Status::RequestTimeout));
                State::Sending { response, sent: 0 }
            }
            _ => State::Closed,
        };
    }

    /// Makes one call or, with a complete request, also sends the response. Returns the next state
    /// unless it stays the same.
    fn advance(&mut self, respond: Respond<'_>) -> io::Result<Option<State>> {
        let mut buffer = [0; HEAD_MAX];
        match &mut self.state {
            State::Receiving { head, receives } => {
                let room = HEAD_MAX - head.len();
                let count = self.stream.read(&mut buffer[..room])?;
                if count == 0 {
                    return Ok(Some(State::Closed));
                }
                head.extend_from_slice(&buffer[..count]);
                *receives += 1;
                let slow = Request::refused(Status::RequestTimeout);
                let request = parse(head).or((*receives == RECEIVES_MAX).then_some(slow));
                let Some(request) = request else { return Ok(None) };
                self.state = State::Sending { response: respond(request), sent: 0 };
                self.advance(respond)
            }
            State::Sending { response, sent } => {
                *sent += self.stream.write(&response[*sent..])?;
                if *sent < response.len() {
                    return Ok(None);
                }
                self.stream.shutdown(Shutdown::Write)?;
                Ok(Some(State::Discarding { discarded: 0 }))
            }
            State::Discarding { discarded } => {
                let count = self.stream.read(&mut buffer)?;
                *discarded += count;
                let ended = count == 0 || *discarded > DISCARD_MAX;
                Ok(ended.then_some(State::Closed))
            }
            State::Closed => Ok(None),
        }
    }
}
