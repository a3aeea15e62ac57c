//! Protocol state of one connection. Every transition is in this file, which depends neither on
//! sockets nor on a backend.
//!
//! There are two kinds of call. A *completion* ([`received`](Exchange::received),
//! [`sent`](Exchange::sent), [`failed`](Exchange::failed)) reports the one operation in flight and
//! returns the next. An *end request* ([`drain`](Exchange::drain),
//! [`terminate`](Exchange::terminate)) may be made at any time, also while the kernel owns the
//! buffer, and takes effect at the next completion. So [`Op::Close`] is never returned while an
//! operation is in flight.

use crate::{RECV_MAX, Reply, Service};

/// Operation that an exchange waits for. There is always exactly one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[must_use = "an exchange advances only when its operation is performed"]
pub enum Op {
    /// Receive at most [`RECV_MAX`] bytes at the start of the buffer, then call
    /// [`Exchange::received`].
    Recv,
    /// Send `buffer[start..end]`, then call [`Exchange::sent`]. Sending less is normal.
    Send {
        /// The first byte not yet sent.
        start: u16,
        /// One past the last byte of the reply.
        end: u16,
    },
    /// Close the connection. Nothing is in flight and nothing follows.
    Close(Cause),
}

/// Cause of the end of an exchange. Every accepted connection ends with exactly one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Cause {
    /// The service closed without a reply: the client sent `bye`.
    Bye,
    /// The service's last reply was sent in full.
    Done,
    /// The server stops.
    Drain,
    /// The client has sent a FIN.
    Eof,
    /// An operation failed.
    Error,
    /// No byte moved within the idle timeout.
    Idle,
}

impl Cause {
    /// All causes, in the order of declaration.
    pub const ALL: [Self; 6] =
        [Self::Bye, Self::Done, Self::Drain, Self::Eof, Self::Error, Self::Idle];

    /// Stable lower-case name, for statistics and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::Done => "done",
            Self::Drain => "drain",
            Self::Eof => "eof",
            Self::Error => "error",
            Self::Idle => "idle",
        }
    }
}

/// Protocol state of one connection: a few bytes, without data and without time.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Exchange {
    phase: Phase,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
enum Phase {
    #[default]
    Receiving,
    Sending {
        start: u16,
        end: u16,
    },
    Closed(Cause),
}

/// Remaining life of the exchange, which only becomes shorter.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
enum Ending {
    #[default]
    Open,
    /// The reply owed, or the next one, is the last; then close with the cause.
    AfterReply(Cause),
    /// Close with the cause at the next completion.
    Now(Cause),
}

impl Exchange {
    /// Returns the state of a connection just accepted, which waits for its first request.
    pub const fn new() -> Self {
        Self { phase: Phase::Receiving, ending: Ending::Open }
    }

    /// Reports `count` bytes received at the start of `buffer`; zero means the client's FIN.
    ///
    /// Unless the exchange ends now, the service writes its reply over the request.
    ///
    /// # Panics
    ///
    /// If no receive is in flight, or if `count` or the service's reply exceeds [`RECV_MAX`].
    #[inline]
    pub fn received(
        &mut self,
        service: &mut (impl Service + ?Sized),
        buffer: &mut [u8; RECV_MAX],
        count: usize,
    ) -> Op {
        assert!(self.phase == Phase::Receiving, "received without a receive");
        assert!(count <= RECV_MAX, "received more than was asked for");
        self.phase = match self.ending {
            Ending::Now(cause) => Phase::Closed(cause),
            Ending::AfterReply(cause) if count == 0 => Phase::Closed(cause),
            Ending::Open if count == 0 => Phase::Closed(Cause::Eof),
            Ending::Open | Ending::AfterReply(_) => match service.reply(buffer, count) {
                Reply::Send(end) => self.reply(end),
                Reply::SendThenClose(end) => {
                    // An earlier drain keeps its cause; either way this reply is the last.
                    if self.ending == Ending::Open {
                        self.ending = Ending::AfterReply(Cause::Done);
                    }
                    self.reply(end)
                }
                Reply::Close => Phase::Closed(Cause::Bye),
            },
        };
        self.op()
    }

    /// Reports that the kernel took `count` bytes of the last [`Op::Send`]; zero is a failure.
    ///
    /// # Panics
    ///
    /// If no send is in flight, or if `count` is more than it offered.
    #[inline]
    pub fn sent(&mut self, count: usize) -> Op {
        let Phase::Sending { start, end } = self.phase else { panic!("sent without a send") };
        assert!(count <= usize::from(end - start), "sent more than was offered");
        let start = start + count as u16;
        self.phase = match self.ending {
            _ if count == 0 => return self.failed(),
            Ending::Now(cause) => Phase::Closed(cause),
            _ if start < end => Phase::Sending { start, end },
            Ending::AfterReply(cause) => Phase::Closed(cause),
            Ending::Open => Phase::Receiving,
        };
        self.op()
    }

    /// Reports that the operation failed. The caller has counted and logged the error.
    ///
    /// # Panics
    ///
    /// If the exchange has ended.
    pub fn failed(&mut self) -> Op {
        assert!(!matches!(self.phase, Phase::Closed(_)), "failed after the end");
        self.phase = Phase::Closed(match self.ending {
            Ending::Now(cause) => cause,
            Ending::Open | Ending::AfterReply(_) => Cause::Error,
        });
        self.op()
    }

    /// Requests an orderly end: the reply now owed, or the next one, is the last.
    ///
    /// A receive that then reports zero closes with [`Cause::Drain`]: a backend ends an idle
    /// connection by cancelling its receive and reporting zero bytes.
    pub fn drain(&mut self) {
        if self.ending == Ending::Open {
            self.ending = Ending::AfterReply(Cause::Drain);
        }
    }

    /// Requests the end with `cause` at the next completion. The first such cause wins.
    pub fn terminate(&mut self, cause: Cause) {
        if !matches!(self.ending, Ending::Now(_)) {
            self.ending = Ending::Now(cause);
        }
    }

    /// Operation that the exchange waits for.
    #[inline]
    pub const fn op(&self) -> Op {
        match self.phase {
            Phase::Receiving => Op::Recv,
            Phase::Sending { start, end } => Op::Send { start, end },
            Phase::Closed(cause) => Op::Close(cause),
        }
    }

    /// True if the reply being sent is the last, and nothing will be received after it.
    #[inline]
    pub const fn reply_is_last(&self) -> bool {
        matches!(self.phase, Phase::Sending { .. }) && !matches!(self.ending, Ending::Open)
    }

    /// Returns the phase after a reply of `end` bytes was written.
    fn reply(&self, end: u16) -> Phase {
        assert!(usize::from(end) <= RECV_MAX, "a reply longer than the buffer");
        match (end, self.ending) {
            (0, Ending::AfterReply(cause)) => Phase::Closed(cause),
            (0, _) => Phase::Receiving,
            (end, _) => Phase::Sending { start: 0, end },
        }
    }
}
