//! One client connection: the request it has sent, the bytes it is owed, and the check of those
//! that came.
//!
//! No system calls are made here. A connection is kept small, since there are many thousands.

use clap::ValueEnum;
use socket2::Socket;

use crate::clients::pattern::{Mismatch, Offset, Pattern, verify};

/// Reply expected of the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Service {
    /// The same bytes, for every request
    Echo,
    /// `hi` whatever the request, then the server closes: a connection for each exchange
    Hi,
}

/// The whole reply of [`Service::Hi`].
const HI: &[u8] = b"hi";

impl Service {
    /// Name in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Hi => "hi",
        }
    }
}

/// State of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Not tried yet.
    New,
    /// connect(2) has been called.
    Connecting,
    /// A request has been begun, and its reply is not whole.
    Exchanging,
    /// The whole reply is here; the server is to close the connection.
    AwaitingEnd,
    /// Neither side owes anything.
    Resting,
    /// Failed or finished, and not used any more.
    Out,
}

impl State {
    /// True if something is outstanding for which there is a timeout.
    pub const fn is_busy(self) -> bool {
        matches!(self, Self::Connecting | Self::Exchanging | Self::AwaitingEnd)
    }
}

/// One client connection.
#[derive(Debug)]
pub struct Connection {
    /// `None` before the first connect, after a failure, and between one-shot exchanges.
    pub socket: Option<Socket>,
    /// Current state.
    pub state: State,
    /// True if the current exchange began in the measured window.
    pub measured: bool,
    /// True after the first whole reply.
    pub served: bool,
    /// True while it counts towards the limit of connections being opened.
    pub opening: bool,
    offset: Offset,
    sent: u32,
    received: u32,
    /// Begin of the outstanding connect or exchange.
    pub since_ns: u64,
    /// Planned instant of the current request of an open loop.
    pub planned_ns: u64,
    /// Instant of the whole reply, in [`State::AwaitingEnd`].
    pub replied_ns: u64,
    /// Exchanges completed in the measured window.
    pub exchanges: u64,
}

/// Result of checking a piece of a reply.
#[derive(Debug, Eq, PartialEq)]
pub enum Received {
    /// Correct so far; more is owed.
    Part,
    /// Correct, and the last piece.
    Whole,
    /// Different from the expected reply.
    Wrong(Mismatch),
    /// This many bytes more than are owed.
    Surplus(usize),
}

impl Connection {
    /// Returns the connection of this number in the run.
    pub fn new(number: u32) -> Self {
        Self {
            socket: None,
            state: State::New,
            measured: false,
            served: false,
            opening: false,
            offset: Offset::first(number),
            sent: 0,
            received: 0,
            since_ns: 0,
            planned_ns: 0,
            replied_ns: 0,
            exchanges: 0,
        }
    }

    /// Begins an exchange, with the request at the next offset of the pattern.
    #[inline]
    pub fn begin(&mut self, now: u64) {
        self.state = State::Exchanging;
        self.offset = self.offset.next();
        self.sent = 0;
        self.received = 0;
        self.since_ns = now;
    }

    /// The unsent part of the request.
    #[inline]
    pub fn unsent<'a>(&self, pattern: &'a Pattern) -> &'a [u8] {
        &pattern.request(self.offset)[self.sent as usize..]
    }

    /// Notes that the kernel took `count` bytes of [`unsent`](Self::unsent).
    #[inline]
    pub fn on_sent(&mut self, count: usize) {
        self.sent += count as u32;
    }

    /// Number of bytes that the server may send now. Of an echo, no more than it has received.
    #[inline]
    pub fn owed(&self, service: Service, pattern: &Pattern) -> usize {
        let due = match service {
            Service::Echo => self.sent,
            Service::Hi if self.sent == pattern.size() => HI.len() as u32,
            Service::Hi => 0,
        };
        (due - self.received) as usize
    }

    /// Checks received bytes. Outside of an exchange, all are surplus.
    #[inline]
    pub fn on_received(&mut self, bytes: &[u8], service: Service, pattern: &Pattern) -> Received {
        if self.state != State::Exchanging {
            return Received::Surplus(bytes.len());
        }
        let reply = match service {
            Service::Echo => pattern.request(self.offset),
            Service::Hi => HI,
        };
        let at = self.received as usize;
        let owed = self.owed(service, pattern);
        let count = bytes.len().min(owed);
        if let Err(mismatch) = verify(&reply[at..at + count], &bytes[..count], at) {
            return Received::Wrong(mismatch);
        }
        if bytes.len() > owed {
            return Received::Surplus(bytes.len() - owed);
        }
        self.received += count as u32;
        if self.received as usize == reply.len() { Received::Whole } else { Received::Part }
    }

    /// Values of which at least one changes whenever the connection moves on.
    pub fn progress(&self) -> (State, u64, u32, u32) {
        (self.state, self.since_ns, self.sent, self.received)
    }

    /// Bytes of the current reply that have been received.
    pub fn received(&self) -> u32 {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchanging(pattern: &Pattern) -> Connection {
        let mut connection = Connection::new(0);
        connection.begin(1);
        connection.on_sent(connection.unsent(pattern).len());
        connection
    }

    #[test]
    fn connection_fits_a_cache_line() {
        assert!(size_of::<Connection>() <= 64, "{}", size_of::<Connection>());
    }

    #[test]
    fn echo_may_come_in_any_pieces() {
        let pattern = Pattern::new(100, 1);
        for piece in [1, 7, 99, 100] {
            let mut connection = exchanging(&pattern);
            let reply = pattern.request(connection.offset);
            let mut pieces = reply.chunks(piece).peekable();
            while let Some(bytes) = pieces.next() {
                let expected =
                    if pieces.peek().is_some() { Received::Part } else { Received::Whole };
                assert_eq!(connection.on_received(bytes, Service::Echo, &pattern), expected);
            }
            assert_eq!(connection.owed(Service::Echo, &pattern), 0);
        }
    }

    #[test]
    fn stale_reply_is_wrong() {
        let pattern = Pattern::new(16, 1);
        let mut connection = exchanging(&pattern);
        let stale = pattern.request(connection.offset);
        connection.begin(2);
        connection.on_sent(16);
        assert!(matches!(
            connection.on_received(stale, Service::Echo, &pattern),
            Received::Wrong(_)
        ));
    }

    #[test]
    fn bytes_that_are_not_owed_are_surplus() {
        let pattern = Pattern::new(8, 1);
        let mut connection = exchanging(&pattern);
        let mut reply = pattern.request(connection.offset).to_vec();
        reply.extend([1, 2, 3]);
        assert_eq!(connection.on_received(&reply, Service::Echo, &pattern), Received::Surplus(3));

        // An echo of bytes that were not sent yet cannot be right, whatever they are.
        let mut connection = Connection::new(0);
        connection.begin(1);
        connection.on_sent(4);
        let reply = pattern.request(connection.offset).to_vec();
        assert_eq!(connection.on_received(&reply, Service::Echo, &pattern), Received::Surplus(4));
    }

    #[test]
    fn hi_is_due_only_after_the_whole_request() {
        let pattern = Pattern::new(6, 1);
        let mut connection = exchanging(&pattern);
        assert_eq!(connection.on_received(b"h", Service::Hi, &pattern), Received::Part);
        assert_eq!(connection.on_received(b"i", Service::Hi, &pattern), Received::Whole);

        let mut connection = exchanging(&pattern);
        assert!(matches!(
            connection.on_received(b"ho", Service::Hi, &pattern),
            Received::Wrong(Mismatch { at: 1, expected: b'i', found: b'o' })
        ));

        let mut connection = Connection::new(0);
        connection.begin(1);
        assert_eq!(connection.on_received(b"hi", Service::Hi, &pattern), Received::Surplus(2));
    }
}
