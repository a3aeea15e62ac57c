//! Replying by the ring, with the next receive linked behind the send.
//!
//! The buffer goes back one turn after its reply was submitted; by then the send is over, because
//! it takes only what the socket takes at once.

use std::io;

use lockstep_core::Op;

use super::{Flight, Loop};
use crate::slots::Key;
use crate::trace::Trace;

impl<T: Trace> Loop<'_, T> {
    #[inline]
    pub(super) fn send_linked(&mut self, key: Key, index: u16, length: u16) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let (fd, bytes) = (connection.fd, self.buffers.pointer(index));
        self.sending.push(index);
        if connection.exchange.reply_is_last() {
            connection.flight = Flight::SendLast(index);
            // SAFETY: the buffer is ours until a turn after the next wait (`give_back_sent`).
            unsafe { self.ring.send(key, fd, bytes, length, true) }
        } else {
            connection.flight = Flight::SendThenReceive(index);
            // SAFETY: as above.
            unsafe { self.ring.send_then_receive(key, fd, bytes, length) }
        }
    }

    /// The linked send that came before a receive has gone out whole, unreported.
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
}
