//! Replying by send(2), at once: the buffer goes back with the call, and nothing of the reply is
//! left to the ring unless the socket does not take all of it.

use std::io;
use std::os::fd::BorrowedFd;

use lockstep_core::Op;
use rustix::net::{SendFlags, send};

use super::{Flight, Loop};
use crate::slots::Key;
use crate::trace::{Trace, quoted};

impl<T: Trace> Loop<'_, T> {
    #[inline]
    pub(super) fn send_now(&mut self, key: Key, index: u16, length: u16) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        // SAFETY: the descriptor is a connection's, and open as long as the connection is.
        let socket = unsafe { BorrowedFd::borrow_raw(connection.fd) };
        let reply = &self.buffers.buffer(index)[..usize::from(length)];
        let told = self.trace.begin(connection.fd);
        let sent = send(socket, reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        if let Some(told) = told {
            let (fd, shown) = (connection.fd, quoted(reply));
            let sent = sent.map_err(io::Error::from);
            let call = format_args!("send({fd}, {shown}, {length}, MSG_DONTWAIT|MSG_NOSIGNAL)");
            told.returned(call, sent.as_ref());
        }
        self.stats.syscalls += 1;
        let result = sent.map_or_else(|errno| -errno.raw_os_error(), |count| count as i32);
        let op = self.count_sent(key, Some(index), result);
        self.buffers.give_back(index);
        match op {
            Op::Recv if !self.stop.is_draining() => self.receive_next(key),
            op => self.perform(key, op),
        }
    }

    /// Receives what the peer sends when it has seen the reply.
    #[inline]
    fn receive_next(&mut self, key: Key) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.flight = Flight::Receive;
        self.ring.receive_next(key, connection.fd)
    }
}
