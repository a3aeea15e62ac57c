//! How connections come and go: accepting, ending, lingering, deadlines and the stop signal.

use std::io::{self, ErrorKind};

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::time::Instant;

use io_uring::cqueue;
use lockstep_core::{Cause, Exchange};
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use super::{Connection, Flight, Loop, Multishot};
use crate::drive::lingers;
use crate::slots::Key;
use crate::trace::{Trace, Traced};
use lockstep_sys::errno::is_exhaustion;

impl<T: Trace> Loop<'_, T> {
    /// Asks for connections, if that is not done already and nothing forbids it.
    pub(super) fn arm_accept(&mut self) -> io::Result<()> {
        let wanted = self.parked.is_empty() && self.backoff.until().is_none();
        match &self.listener {
            Some(listener) if wanted && !self.accepting && !self.stop.is_draining() => {
                self.accepting = true;
                self.stats.observe_queue(listener, self.trace.tracer());
                self.ring.accept(listener.as_raw_fd(), self.options.accept_delay.is_zero())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn look_at_queue(&mut self) {
        if let Some(listener) = &self.listener {
            self.stats.observe_queue(listener, self.trace.tracer());
        }
    }

    /// A connection was accepted, or the accepting has ended.
    pub(super) fn on_accepted(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        if !cqueue::more(completion.flags()) {
            self.accepting = false;
        }
        match completion.result() {
            fd @ 0.. => {
                self.stats.accepted += 1;
                self.backoff.reset();
                self.admit(fd)?;
            }
            error => {
                let error = io::Error::from_raw_os_error(-error);
                if !matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR)) {
                    self.stats.on_accept_error(&error);
                    if is_exhaustion(&error) {
                        self.backoff.start(Instant::now());
                    }
                }
            }
        }
        if self.stop.is_draining() && !self.accepting {
            self.close_listener()?;
        }
        Ok(())
    }

    fn admit(&mut self, fd: RawFd) -> io::Result<()> {
        if self.stop.is_draining() {
            self.limit.acquire();
        } else if !self.parked.is_empty() || !self.limit.try_acquire() {
            self.parked.push_back(fd);
            self.backoff.start(Instant::now()); // another shard may free the place
            return if self.accepting { self.ring.cancel_accept() } else { Ok(()) };
        }
        self.open(fd)
    }

    /// Lets in those that waited for a place.
    pub(super) fn admit_parked(&mut self) -> io::Result<()> {
        if self.backoff.until().is_some() {
            self.backoff.expire(Instant::now());
        }
        while !self.parked.is_empty() {
            if self.stop.is_draining() {
                self.limit.acquire();
            } else if !self.limit.try_acquire() {
                if self.backoff.until().is_none() {
                    self.backoff.start(Instant::now()); // another shard may free the place
                }
                break;
            }
            if let Some(fd) = self.parked.pop_front() {
                self.open(fd)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, fd: RawFd) -> io::Result<()> {
        self.limit.opened();
        // SAFETY: the descriptor is the connection's, and open.
        let service = self.service.make(unsafe { BorrowedFd::borrow_raw(fd) });
        let key = self.connections.insert(Connection {
            fd,
            exchange: Exchange::new(),
            service,
            flight: Flight::Receive,
            lingering: false,
            cancelled: false,
            multishot: Multishot::OFF,
            unsent: None,
        });
        self.idle.start(key.index);
        // The first request is often there already: the receive takes it at once.
        self.receive(key)
    }

    /// Counts the end of a conversation, and closes its connection now or when the peer has.
    pub(super) fn end(&mut self, key: Key, cause: Cause) -> io::Result<()> {
        self.stats.on_closed(cause);
        self.idle.stop(key.index);
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.unsent = None;
        self.early.forget(key);
        let (lingers, receives) = (lingers(cause) && !self.cut, connection.multishot.is_on());
        if !lingers && !receives {
            return self.close(key);
        }
        self.stats.syscalls += 1;
        let how = if lingers { Shutdown::Write } else { Shutdown::Both };
        let gone = shut_down(connection.fd, how, self.trace).is_err();
        if gone && !receives {
            return self.close(key);
        }
        connection.lingering = true;
        self.lingering.start(key.index);
        self.receive(key)
    }

    /// A lingering connection's peer has sent something, or closed.
    pub(super) fn on_discarded(
        &mut self,
        key: Key,
        result: i32,
        buffer: Option<u16>,
    ) -> io::Result<()> {
        if let Some(index) = buffer {
            self.buffers.give_back(index);
        }
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        match -result {
            _ if connection.multishot.is_on() => Ok(()),
            ..0 | libc::ECANCELED => self.receive(key),
            libc::ENOBUFS => self.starve(key),
            _ => self.close(key),
        }
    }

    /// Closes the connection; nothing of it is in flight.
    fn close(&mut self, key: Key) -> io::Result<()> {
        self.lingering.stop(key.index);
        let Some(connection) = self.connections.remove(key) else { return Ok(()) };
        self.limit.closed();
        self.backoff.end(); // there is a descriptor and a place again
        self.ring.close(connection.fd)
    }

    /// Ends what has gone on for too long.
    pub(super) fn expire(&mut self) -> io::Result<()> {
        if self.deadline().is_none() {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(index) = self.idle.expired(now) {
            let Some(key) = self.connections.key_at(index) else { continue };
            if self.is_heard_from(key) {
                self.idle.start(index); // its completion is still to come
            } else {
                self.terminate(key, Cause::Idle)?;
            }
        }
        while let Some(index) = self.lingering.expired(now) {
            if let Some(key) = self.connections.key_at(index) {
                self.terminate(key, Cause::Idle)?;
            }
        }
        if !self.cut && self.stop.deadline().is_some_and(|deadline| now >= deadline) {
            self.cut = true;
            for key in self.connections.keys() {
                let Some(connection) = self.connections.get_mut(key) else { continue };
                self.stats.drain_cut += u64::from(!connection.lingering);
                self.terminate(key, Cause::Drain)?;
            }
        }
        Ok(())
    }

    /// Whether a connection that seems idle has something to receive. After a long turn, or one
    /// with many completions (the kernel delivers some twenty at a time), it may not be known yet.
    fn is_heard_from(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        if connection.flight == Flight::SendUnsent {
            return false; // it is the peer that does not receive
        }
        self.stats.syscalls += 1;
        // SAFETY: the descriptor is a connection's, and open as long as the connection is.
        let fd = unsafe { BorrowedFd::borrow_raw(connection.fd) };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peek = || Ok(recv(fd, &mut [0_u8; 1], flags)?.0);
        let fd = connection.fd;
        let call = format_args!("recv({fd}, 1, MSG_PEEK|MSG_DONTWAIT)");
        let peeked = self.trace.call_for(fd, call, peek, usize::clone);
        !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Makes whatever is in flight complete; the connection then ends for `cause`, unless it has
    /// ended already and only lingers.
    fn terminate(&mut self, key: Key, cause: Cause) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        connection.exchange.terminate(cause);
        if connection.flight != Flight::Starved {
            self.stats.syscalls += 1;
            let _gone = shut_down(connection.fd, Shutdown::Both, self.trace);
            return Ok(());
        }
        if connection.lingering {
            return self.close(key);
        }
        let op = connection.exchange.failed();
        self.perform(key, op)
    }

    /// The stop signal: accepts what waits, then lets every conversation end.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        self.admit_parked()?;
        for key in self.connections.keys() {
            self.drain_connection(key)?;
        }
        if self.accepting { self.ring.cancel_accept() } else { self.close_listener() }
    }

    /// A request that is there already is answered; none is waited for.
    fn drain_connection(&mut self, key: Key) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        match connection.flight {
            _ if connection.lingering || connection.cancelled => Ok(()),
            // Whether the reply has gone out and the conversation waits for the next request shows
            // when the receive is over: the wish has to wait until then.
            Flight::SendBeside { .. } => {
                connection.cancelled = true;
                connection.multishot.cancel();
                self.ring.cancel_receive(key, connection.fd)
            }
            Flight::Receive => {
                connection.exchange.drain();
                connection.cancelled = true;
                connection.multishot.cancel();
                self.ring.cancel_receive(key, connection.fd)
            }
            _ => {
                connection.exchange.drain();
                Ok(())
            }
        }
    }

    /// Accepts what is left in the listen queue, and closes the listener. The accept in flight has
    /// ended: a listener closed before would go on accepting.
    fn close_listener(&mut self) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let listener = Traced { socket: listener, trace: self.trace };
        listener.call("ioctl", "FIONBIO, 1", |listener| listener.set_nonblocking(true))?;
        let listener = listener.socket;
        self.stats.observe_queue(&listener, self.trace.tracer());
        for _ in 0..=self.options.backlog {
            self.stats.syscalls += 1;
            let accept = || listener.accept();
            match self.trace.accept(&listener, accept, |(stream, _)| stream.as_raw_fd()) {
                Ok((stream, _)) => {
                    self.stats.accepted += 1;
                    self.admit(stream.into_raw_fd())?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.stats.on_accept_error(&error);
                    if is_exhaustion(&error) {
                        break;
                    }
                }
            }
        }
        self.trace.close(listener);
        Ok(())
    }
}

/// shutdown(2): what waits on the socket completes.
///
/// Not by the ring, which would have a worker thread do it (REQ_F_FORCE_ASYNC, io_uring/net.c): the
/// worker looks up the descriptor only then, and that may be after it has been closed and given to
/// somebody else.
fn shut_down(fd: RawFd, how: Shutdown, trace: impl Trace) -> io::Result<()> {
    // SAFETY: the descriptor is a connection's, and open as long as the connection is.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    let how_told = if how == Shutdown::Write { "SHUT_WR" } else { "SHUT_RDWR" };
    trace.call(fd, format_args!("shutdown({fd}, {how_told})"), || Ok(shutdown(socket, how)?))
}
