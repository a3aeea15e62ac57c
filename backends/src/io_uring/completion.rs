//! What happens when an operation of a connection completes.

use std::io;

use io_uring::cqueue;
use lockstep_core::{Op, RECV_MAX};

use super::{Connection, Flight, Loop};
use crate::Stats;
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
        if connection.multishot.completed(completion.flags()) {
            self.hasty.push(key);
        }
        if connection.lingering {
            return self.on_discarded(key, result, buffer);
        }
        match connection.flight {
            Flight::SendBeside { turn, .. } if turn != self.turn => self.on_reply_sent(key),
            Flight::SendBeside { .. } | Flight::SendUnsent => {
                return self.on_early(key, result, buffer);
            }
            _ => {}
        }
        if self.early.has_of(key) {
            self.on_early(key, result, buffer)?;
            return self.answer_early(key);
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
                connection.exchange.received(&mut *connection.service, buffer, count)
            }
            ended => ended, // a wish came between the reply and this request
        };
        self.idle.start(key.index);
        match op {
            Op::Send { start: 0, end } => self.send_beside(key, index, end),
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
                0 => connection.exchange.received(&mut *connection.service, &mut [0; RECV_MAX], 0),
                // A request may have come just before: a last look shows it.
                libc::ECANCELED => Op::Recv,
                libc::EAGAIN if connection.flight == Flight::ReceiveNow => {
                    connection.exchange.received(&mut *connection.service, &mut [0; RECV_MAX], 0)
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

    /// A send has been reported: one of unsent bytes, or one that did not go out whole.
    pub(super) fn on_sent(&mut self, key: Key, result: i32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else {
            debug_assert!(false, "a slot outlives its operations");
            return Ok(());
        };
        let op = connection.sent(result, &mut self.stats);
        if result > 0 {
            self.idle.start(key.index);
        }
        connection.unsent = match (op, connection.flight) {
            (Op::Recv | Op::Close(_), _) => None,
            (Op::Send { start, end }, Flight::SendBeside { index, .. }) => {
                let reply = self.buffers.buffer(index);
                Some(reply[usize::from(start)..usize::from(end)].into())
            }
            (Op::Send { start, end }, _) => {
                let unsent = connection.unsent.as_deref().unwrap_or_default();
                Some(unsent[unsent.len() - usize::from(end - start)..].into())
            }
        };
        match op {
            Op::Recv => self.answer_early(key),
            op => self.perform(key, op),
        }
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
                unsafe { self.ring.send(key, connection.fd, bytes, length) }
            }
            Op::Close(cause) => self.end(key, cause),
        }
    }

    /// Receives the next request; when the server stops, only one that is there already.
    pub(super) fn receive(&mut self, key: Key) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.flight = Flight::Receive;
        if connection.multishot.is_on() {
            Ok(()) // it goes on, or its end is to come
        } else if self.stop.is_draining() && !connection.lingering {
            connection.exchange.drain();
            connection.flight = Flight::ReceiveNow;
            self.ring.receive_now(key, connection.fd)
        } else if connection.multishot.begin() {
            self.ring.receive_all(key, connection.fd)
        } else {
            self.ring.receive(key, connection.fd)
        }
    }

    /// A receive has been taken back, or not: one that follows a send is not found before the
    /// kernel has begun it.
    pub(super) fn on_cancelled(&mut self, key: Key, result: i32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let wanted = match connection.flight {
            _ if connection.multishot.is_cancelled() => true,
            Flight::Receive | Flight::SendBeside { .. } => {
                connection.cancelled && !connection.lingering
            }
            _ => false,
        };
        if result < 0 && wanted { self.ring.cancel_receive(key, connection.fd) } else { Ok(()) }
    }
}

impl Connection {
    /// Counts what the kernel took of the reply, or why it took nothing, and says what comes next.
    #[inline]
    pub(super) fn sent(&mut self, result: i32, stats: &mut Stats) -> Op {
        if self.cancelled {
            self.exchange.drain();
        }
        let Op::Send { start, end } = self.exchange.op() else { unreachable!("it sent") };
        match usize::try_from(result) {
            Ok(0) | Err(_) if result != -libc::EAGAIN && result != -libc::EINTR => {
                if result < 0 {
                    stats.on_io_error(&io::Error::from_raw_os_error(-result));
                }
                self.exchange.failed()
            }
            Ok(count) => {
                stats.on_sent(count, usize::from(end - start));
                self.exchange.sent(count)
            }
            Err(_would_block) => {
                stats.sends_short += 1;
                self.exchange.op()
            }
        }
    }
}
