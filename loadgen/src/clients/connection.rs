//! One client connection: what it has sent, what it is owed, and whether what came is that.
//!
//! No system call is made here. A connection is kept small, for there are many thousands.

use clap::ValueEnum;
use socket2::Socket;

use crate::clients::pattern::{Mismatch, Pattern, Window, verify};

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
    /// The name in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Hi => "hi",
        }
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Not tried yet.
    New,
    /// connect(2) has been called.
    Connecting,
    /// A request is on its way, or its reply.
    Exchanging,
    /// The whole reply is here; the server is to end the conversation now.
    AwaitingEnd,
    /// Nothing is owed by either side.
    Resting,
    /// Failed, and out of the run.
    Out,
}

impl State {
    /// Whether something is outstanding that takes time.
    pub const fn is_busy(self) -> bool {
        matches!(self, Self::Connecting | Self::Exchanging | Self::AwaitingEnd)
    }
}

/// One client connection.
#[derive(Debug)]
pub struct Connection {
    /// Absent before the first connect, after a failure, and between one-shot conversations.
    pub socket: Option<Socket>,
    /// Where it stands.
    pub state: State,
    /// Whether the current exchange began in the measured window.
    pub measured: bool,
    /// Whether it ever got a whole reply.
    pub served: bool,
    /// Whether it takes one of the places of connections being opened.
    pub opening: bool,
    window: Window,
    sent: u32,
    received: u32,
    /// When the outstanding connect or exchange began.
    pub since_ns: u64,
    /// In an open loop, when the request was due.
    pub planned_ns: u64,
    /// When the whole reply was here, while the end is awaited.
    pub replied_ns: u64,
    /// Exchanges completed in the measured window.
    pub exchanges: u64,
}

/// What a piece of a reply turned out to be.
#[derive(Debug, Eq, PartialEq)]
pub enum Received {
    /// Right so far; more is owed.
    Part,
    /// Right, and the last piece.
    Whole,
    /// Not what was sent.
    Wrong(Mismatch),
    /// So many bytes more than are owed.
    Surplus(usize),
}

impl Connection {
    /// The connection of that number in the run, not tried yet.
    pub fn new(number: u32) -> Self {
        Self {
            socket: None,
            state: State::New,
            measured: false,
            served: false,
            opening: false,
            window: Window::first(number),
            sent: 0,
            received: 0,
            since_ns: 0,
            planned_ns: 0,
            replied_ns: 0,
            exchanges: 0,
        }
    }

    /// Begins an exchange at `now`, with the next window of the pattern.
    #[inline]
    pub fn begin(&mut self, now: u64) {
        self.state = State::Exchanging;
        self.window = self.window.next();
        self.sent = 0;
        self.received = 0;
        self.since_ns = now;
    }

    /// The part of the request not yet sent.
    #[inline]
    pub fn unsent<'a>(&self, pattern: &'a Pattern) -> &'a [u8] {
        &pattern.request(self.window)[self.sent as usize..]
    }

    /// The kernel took `count` bytes of [`unsent`](Self::unsent).
    #[inline]
    pub fn on_sent(&mut self, count: usize) {
        self.sent += count as u32;
    }

    /// How many bytes the server may send now. Of an echo, no more than it has got.
    #[inline]
    pub fn owed(&self, service: Service, pattern: &Pattern) -> usize {
        let due = match service {
            Service::Echo => self.sent,
            Service::Hi if self.sent == pattern.size() => HI.len() as u32,
            Service::Hi => 0,
        };
        (due - self.received) as usize
    }

    /// Judges what was received.
    #[inline]
    pub fn on_received(&mut self, bytes: &[u8], service: Service, pattern: &Pattern) -> Received {
        let reply = match service {
            Service::Echo => pattern.request(self.window),
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

    /// What changes whenever the connection moves on.
    pub fn progress(&self) -> (State, u64, u32, u32) {
        (self.state, self.since_ns, self.sent, self.received)
    }

    /// How much of the current reply is here, in bytes.
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
    fn a_connection_stays_within_a_cache_line() {
        assert!(size_of::<Connection>() <= 64, "{}", size_of::<Connection>());
    }

    #[test]
    fn an_echo_may_come_in_any_pieces() {
        let pattern = Pattern::new(100, 1);
        for piece in [1, 7, 99, 100] {
            let mut connection = exchanging(&pattern);
            let reply = pattern.request(connection.window);
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
    fn each_exchange_sends_something_else() {
        let pattern = Pattern::new(16, 1);
        let mut connection = exchanging(&pattern);
        let stale = pattern.request(connection.window);
        connection.begin(2);
        connection.on_sent(16);
        assert!(matches!(
            connection.on_received(stale, Service::Echo, &pattern),
            Received::Wrong(_)
        ));
    }

    #[test]
    fn what_is_not_owed_is_surplus() {
        let pattern = Pattern::new(8, 1);
        let mut connection = exchanging(&pattern);
        let mut reply = pattern.request(connection.window).to_vec();
        reply.extend([1, 2, 3]);
        assert_eq!(connection.on_received(&reply, Service::Echo, &pattern), Received::Surplus(3));

        // An echo of bytes that were not sent yet cannot be right, whatever they are.
        let mut connection = Connection::new(0);
        connection.begin(1);
        connection.on_sent(4);
        let reply = pattern.request(connection.window).to_vec();
        assert_eq!(connection.on_received(&reply, Service::Echo, &pattern), Received::Surplus(4));
    }

    #[test]
    fn a_one_shot_server_says_hi_once_it_was_asked() {
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
