//! One receive for all requests of a connection, for those that keep to lockstep.
//!
//! It spares the kernel, once an exchange, a request of its own and the waiting for the socket that
//! comes with it: arming and disarming a poll. A reply is sent by the ring beside it; that it has
//! gone out shows when the next request comes, in a later turn that reports no failure of it.
//!
//! The kernel receives whatever is there: 32 requests in a go (`MULTISHOT_MAX_RETRY`,
//! io_uring/net.c), and a turn has a few of those. So it is asked only while a request at a time
//! comes: who has more in the socket than a turn takes, or sends while a reply is owed, has the
//! receive taken back at the end of that turn, and gets one for each request, until the socket is
//! empty again. What was received by then and cannot be answered yet is parked, some hundred
//! requests at most: copied out, because buffers are everybody's, and not counted as received
//! before its turn has come.

use std::collections::{HashMap, VecDeque};
use std::io;

use io_uring::cqueue;
use lockstep_core::{Op, RECV_MAX};

use super::{Flight, Loop};
use crate::slots::Key;
use crate::trace::Trace;

/// A connection's receive for all requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Multishot {
    state: State,
    /// Whether more than the last request was there, or none has come.
    hasty: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Off,
    Armed,
    /// It is being taken back.
    Cancelled,
}

impl Multishot {
    /// Nothing in flight; that requests come one at a time has to be shown first.
    pub(super) const OFF: Self = Self { state: State::Off, hasty: true };

    /// Whether it is in flight.
    #[inline]
    pub(super) fn is_on(self) -> bool {
        self.state != State::Off
    }

    /// Whether to begin now; if not, one request is to be received by itself.
    pub(super) fn begin(&mut self) -> bool {
        debug_assert!(!self.is_on(), "one receive at a time");
        if !self.hasty {
            self.state = State::Armed;
        }
        !self.hasty
    }

    /// Notes a receive's completion, of this or of a single one. Whether it has to be seen at the
    /// turn's end if the connection does not keep to lockstep.
    #[inline]
    pub(super) fn completed(&mut self, flags: u32) -> bool {
        if !cqueue::more(flags) {
            self.state = State::Off;
        }
        let was_hasty = std::mem::replace(&mut self.hasty, cqueue::sock_nonempty(flags));
        self.hasty && !was_hasty
    }

    /// Whether it is being taken back, and has not ended yet.
    pub(super) fn is_cancelled(self) -> bool {
        self.state == State::Cancelled
    }

    /// It is being taken back, if it is in flight.
    pub(super) fn cancel(&mut self) {
        if self.state == State::Armed {
            self.state = State::Cancelled;
        }
    }
}

/// Requests received while the reply to another was owed, by connection, in their order.
#[derive(Debug)]
pub(super) struct Early(HashMap<Key, VecDeque<Box<[u8]>>>);

impl Early {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    fn next(&mut self, key: Key) -> Option<Box<[u8]>> {
        self.0.get_mut(&key)?.pop_front()
    }

    /// Whether there is something of that connection.
    #[inline]
    pub(super) fn has_of(&self, key: Key) -> bool {
        !self.0.is_empty() && self.0.contains_key(&key)
    }

    /// A conversation has ended: whatever it still said is as if it had not been received.
    pub(super) fn forget(&mut self, key: Key) {
        self.0.remove(&key);
    }
}

impl<T: Trace> Loop<'_, T> {
    /// Replies by the ring, unreported unless it fails. The next request shows that the reply has
    /// gone out; but only one of a later turn, since a go of the receive brings several. One turn suffices: the send is done when it is submitted, and if it has failed, that
    /// is known in the next turn counted, from which the kernel has kept nothing back ([`Loop::turn`]).
    /// It is among the completions before or after the request's; a turn looks at sends first.
    #[inline]
    pub(super) fn send_beside(&mut self, key: Key, index: u16, length: u16) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        if connection.exchange.reply_is_last() {
            return self.send_now(key, index, length);
        }
        let begins = !connection.multishot.is_on();
        if begins && !connection.multishot.begin() {
            return self.send_now(key, index, length);
        }
        let (fd, bytes) = (connection.fd, self.buffers.pointer(index));
        self.sending.push(index);
        connection.flight = Flight::SendBeside { index, turn: self.turn };
        // SAFETY: the buffer is ours until a turn after the next wait (`give_back_sent`).
        unsafe { self.ring.send_unreported(key, fd, bytes, length) }?;
        if begins { self.ring.receive_all(key, fd) } else { Ok(()) }
    }

    /// The send beside a receive has gone out whole, unreported.
    #[inline]
    pub(super) fn on_reply_sent(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Op::Send { start, end } = connection.exchange.op() else { unreachable!("it sent") };
        let count = usize::from(end - start);
        self.stats.on_sent(count, count);
        let _receive_or_close = connection.exchange.sent(count);
        if connection.cancelled {
            connection.exchange.drain();
        }
    }

    /// Returns the buffers whose sends were submitted with the last wait. All its completions have
    /// been seen, so what a short send left over has been copied out.
    pub(super) fn give_back_sent(&mut self) {
        for index in self.sent.drain(..) {
            self.buffers.give_back(index);
        }
        std::mem::swap(&mut self.sent, &mut self.sending);
    }

    /// A receive has completed while a reply is owed. An end or an error will be met again.
    pub(super) fn on_early(
        &mut self,
        key: Key,
        result: i32,
        buffer: Option<u16>,
    ) -> io::Result<()> {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.multishot.hasty = true;
        }
        self.hasty.push(key);
        let Some(index) = buffer else { return Ok(()) };
        if let count @ 1.. = result {
            let request = &self.buffers.buffer(index)[..count as usize];
            self.early.0.entry(key).or_default().push_back(request.into());
        }
        self.buffers.give_back(index);
        Ok(())
    }

    /// Takes the receive back from those that do not keep to lockstep.
    pub(super) fn slow_hasty(&mut self) -> io::Result<()> {
        while let Some(key) = self.hasty.pop() {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            match (connection.multishot.state, connection.flight) {
                (State::Armed, _) if connection.multishot.hasty => {
                    connection.multishot.cancel();
                    self.ring.cancel_receive(key, connection.fd)?;
                }
                // It has ended before the reply was submitted, whose end only a receive can show.
                (State::Off, Flight::SendBeside { turn, .. }) if turn == self.turn => {
                    connection.multishot.state = State::Armed;
                    self.ring.receive_all(key, connection.fd)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A reply that was owed has been sent: answers what is parked, then receives.
    pub(super) fn answer_early(&mut self, key: Key) -> io::Result<()> {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
            let op = connection.exchange.op();
            if op != Op::Recv {
                return self.perform(key, op);
            }
            let Some(request) = self.early.next(key) else { break };
            let mut buffer = [0; RECV_MAX];
            buffer[..request.len()].copy_from_slice(&request);
            self.stats.on_received(request.len());
            let op =
                connection.exchange.received(&mut *connection.service, &mut buffer, request.len());
            if let Op::Send { end, .. } = op {
                let _at_the_top =
                    connection.reply(&buffer[..usize::from(end)], &mut self.stats, self.trace);
            }
        }
        self.early.forget(key);
        self.perform(key, Op::Recv)
    }
}
