//! What happens when an operation of a connection completes.

use std::io;

use io_uring::cqueue;
use lockstep_core::{Op, RECV_MAX};

use super::{Flight, Loop, Replies};
use crate::slots::Key;
use crate::trace::Trace;

impl<T: Trace> Loop<'_, T> {
    /// A receive has completed; in lockstep, that is all there is to an exchange.
    #[inline]
    pub(super) fn on_received(&mut self, key: Key, completion: &cqueue::Entry) -> io::Result<()> {
        let result = completion.result();
        let buffer = cqueue::buffer_select(completion.flags());
        let Some(connection) = self.connections.get_mut(key) else {
            debug_assert!(false, "a slot outlives its operations");
            return Ok(());
        };
        if connection.lingering {
            return self.on_discarded(key, result, buffer);
        }
        if let Flight::SendThenReceive(_) = connection.flight {
            self.on_reply_sent(key);
        }
        match buffer {
            Some(index) if result > 0 => self.on_request(key, index, result as usize),
            Some(index) => {
                self.buffers.give_back(index);
                self.on_no_request(key, result)
            }
            None => self.on_no_request(key, result),
        }
    }

    #[inline]
    fn on_request(&mut self, key: Key, index: u16, count: usize) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let op = match connection.exchange.op() {
            Op::Recv => {
                self.stats.on_received(count);
                let buffer = self.buffers.buffer(index);
                connection.exchange.received(&mut *self.service, buffer, count)
            }
            ended => ended, // a wish came between the reply and this request
        };
        self.idle.start(key.index);
        match op {
            Op::Send { start: 0, end } => match self.replies {
                Replies::Linked => self.send_linked(key, index, end),
                Replies::Send => self.send_now(key, index, end),
            },
            Op::Send { .. } => unreachable!("a reply begins at its start"),
            Op::Recv | Op::Close(_) => {
                self.buffers.give_back(index);
                self.perform(key, op)
            }
        }
    }

    /// A receive has brought no request.
    fn on_no_request(&mut self, key: Key, result: i32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let op = match connection.exchange.op() {
            Op::Recv => match -result {
                libc::ENOBUFS => return self.starve(key),
                libc::EINTR => Op::Recv,
                // The peer's end, or ours by shutdown.
                0 => connection.exchange.received(&mut *self.service, &mut [0; RECV_MAX], 0),
                // A request may have come just before: a last look shows it.
                libc::ECANCELED if connection.cancelled => Op::Recv,
                libc::EAGAIN if connection.flight == Flight::ReceiveNow => {
                    connection.exchange.received(&mut *self.service, &mut [0; RECV_MAX], 0)
                }
                errno => {
                    self.stats.on_io_error(&io::Error::from_raw_os_error(errno));
                    connection.exchange.failed()
                }
            },
            ended => ended,
        };
        self.perform(key, op)
    }

    /// The kernel had no buffer for a request that is there: it gets more, if there are any, and
    /// the connection tries again when others have come back.
    pub(super) fn starve(&mut self, key: Key) -> io::Result<()> {
        self.stats.buffers_starved += 1;
        self.buffers.grow();
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.flight = Flight::Starved;
        self.starved.push_back(key);
        Ok(())
    }

    /// A send has been reported: one that no receive follows, or one that did not go out whole; then
    /// the receive linked to it is cancelled and never reported.
    pub(super) fn on_sent(&mut self, key: Key, result: i32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else {
            debug_assert!(false, "a slot outlives its operations");
            return Ok(());
        };
        let buffer = match connection.flight {
            Flight::SendThenReceive(index) | Flight::SendLast(index) => Some(index),
            _ => None,
        };
        let op = self.count_sent(key, buffer, result);
        self.perform(key, op)
    }

    /// Counts what the kernel took of a reply, or why it took nothing, and says what comes next.
    /// What it did not take is kept; the reply was in the buffer or, without one, had been kept
    /// before.
    #[inline]
    pub(super) fn count_sent(&mut self, key: Key, buffer: Option<u16>, result: i32) -> Op {
        let Some(connection) = self.connections.get_mut(key) else { unreachable!("it sent") };
        if connection.cancelled {
            connection.exchange.drain();
        }
        let Op::Send { start, end } = connection.exchange.op() else { unreachable!("it sent") };
        let offered = usize::from(end - start);
        let op = match usize::try_from(result) {
            Ok(0) | Err(_) if result != -libc::EAGAIN && result != -libc::EINTR => {
                if result < 0 {
                    self.stats.on_io_error(&io::Error::from_raw_os_error(-result));
                }
                connection.exchange.failed()
            }
            Ok(count) => {
                self.stats.on_sent(count, offered);
                self.idle.start(key.index);
                connection.exchange.sent(count)
            }
            Err(_would_block) => {
                self.stats.sends_short += 1;
                connection.exchange.op()
            }
        };
        connection.unsent = match (op, buffer) {
            (Op::Send { start, end }, Some(index)) => {
                let reply = self.buffers.buffer(index);
                Some(reply[usize::from(start)..usize::from(end)].into())
            }
            (Op::Send { start, end }, None) => {
                let unsent = connection.unsent.as_deref().unwrap_or_default();
                Some(unsent[unsent.len() - usize::from(end - start)..].into())
            }
            (Op::Recv | Op::Close(_), _) => None,
        };
        op
    }

    /// Does what comes next, with nothing in flight: receives, sends what is unsent, or ends.
    pub(super) fn perform(&mut self, key: Key, op: Op) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        match op {
            Op::Recv => self.receive(key),
            Op::Send { .. } => {
                let bytes = connection.unsent.as_deref().expect("a reply not sent is kept");
                let (bytes, length) = (bytes.as_ptr(), bytes.len() as u16);
                connection.flight = Flight::SendUnsent;
                // SAFETY: the bytes are the connection's, and change only when the send completes.
                unsafe { self.ring.send(key, connection.fd, bytes, length, false) }
            }
            Op::Close(cause) => self.end(key, cause),
        }
    }

    /// Receives the next request; when the server stops, only one that is there already.
    pub(super) fn receive(&mut self, key: Key) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        if self.stop.is_draining() && !connection.lingering {
            connection.exchange.drain();
            connection.flight = Flight::ReceiveNow;
            self.ring.receive_now(key, connection.fd)
        } else {
            connection.flight = Flight::Receive;
            self.ring.receive(key, connection.fd)
        }
    }

    /// A receive has been taken back, or not: one that follows a send is not found before the
    /// kernel has begun it.
    pub(super) fn on_cancelled(&mut self, key: Key, result: i32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        match connection.flight {
            Flight::Receive | Flight::SendThenReceive(_) if result < 0 && !connection.lingering => {
                self.ring.cancel_receive(key, connection.fd)
            }
            _ => Ok(()),
        }
    }
}
