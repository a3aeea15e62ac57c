//! Replying by send(2), at once, where no receive would show that the reply has gone out: it is the
//! last one, or one to what came too early. The buffer goes back with the call, and nothing of the
//! reply is left to the ring unless the socket does not take all of it.

use std::io;
use std::os::fd::BorrowedFd;

use lockstep_core::Op;
use rustix::net::{SendFlags, send};

use super::{Connection, Loop};
use crate::Stats;
use crate::slots::Key;
use crate::trace::{Trace, quoted};

impl<T: Trace> Loop<'_, T> {
    #[inline]
    pub(super) fn send_now(&mut self, key: Key, index: u16, length: u16) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let reply = &self.buffers.buffer(index)[..usize::from(length)];
        let op = connection.reply(reply, &mut self.stats, self.trace);
        self.buffers.give_back(index);
        self.perform(key, op)
    }
}

impl Connection {
    /// Sends what the socket takes of a reply, keeps the rest, and says what comes next.
    #[inline]
    pub(super) fn reply(&mut self, reply: &[u8], stats: &mut Stats, trace: impl Trace) -> Op {
        // SAFETY: the descriptor is the connection's, and open as long as the connection is.
        let socket = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let span = trace.begin(self.fd);
        let sent = send(socket, reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        if let Some(span) = span {
            let (fd, shown, length) = (self.fd, quoted(reply), reply.len());
            let call = format_args!("send({fd}, {shown}, {length}, MSG_DONTWAIT|MSG_NOSIGNAL)");
            span.returned(call, sent.map_err(io::Error::from).as_ref());
        }
        stats.syscalls += 1;
        let result = sent.map_or_else(|errno| -errno.raw_os_error(), |count| count as i32);
        let op = self.sent(result, stats);
        if let Op::Send { start, end } = op {
            self.unsent = Some(reply[usize::from(start)..usize::from(end)].into());
        }
        op
    }
}
