//! How connections come and go: accepting, ending, lingering, deadlines and the stop signal.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::Instant;

use lockstep_core::{Cause, Exchange, Op};
use mio::Interest;
use mio::Token;
use mio::net::TcpStream;

use super::{Connection, Loop, State, register};
use crate::drive::{Discarded, discard, lingers};
use crate::slots::Key;
use crate::trace::{Trace, Traced};
use lockstep_sys::errno::is_exhaustion;

/// Receives of a connection that lingers, in one turn.
const DISCARDS: u32 = 16;

impl<T: Trace> Loop<'_, T> {
    /// Whether there is somebody to accept, and nothing forbids it.
    pub(super) fn may_accept(&self) -> bool {
        self.acceptable && self.listener.is_some() && self.backoff.until().is_none()
    }

    /// Accepts at most `bound` connections; what is left is accepted in the next turn.
    pub(super) fn accept(&mut self, bound: usize) {
        if self.backoff.until().is_some() {
            self.backoff.expire(Instant::now());
        }
        if let (true, Some(listener)) = (self.may_accept(), &self.listener) {
            self.stats.look_at_queue(listener, self.trace);
        }
        for _ in 0..bound {
            if !self.may_accept() {
                return;
            }
            if self.stop.is_draining() {
                self.limit.acquire();
            } else if !self.limit.try_acquire() {
                // Another shard may free the place: only looking again shows it.
                self.backoff.start(Instant::now());
                return;
            }
            if !self.accept_one() {
                self.limit.release();
            }
        }
    }

    /// Says whether there was somebody for the place.
    fn accept_one(&mut self) -> bool {
        let Some(listener) = &self.listener else { return false };
        self.stats.syscalls += 1;
        match self.trace.accept(listener, || listener.accept(), |(stream, _)| stream.as_raw_fd()) {
            Ok((stream, _)) => {
                self.backoff.reset();
                self.stats.accepted += 1;
                self.limit.opened();
                self.open(stream);
                true
            }
            Err(error) => {
                match error.kind() {
                    ErrorKind::WouldBlock => self.acceptable = false,
                    ErrorKind::Interrupted => {}
                    _ => {
                        self.stats.on_accept_error(&error);
                        if is_exhaustion(&error) {
                            self.backoff.start(Instant::now());
                        }
                    }
                }
                false
            }
        }
    }

    fn open(&mut self, stream: TcpStream) {
        let key = self.connections.insert(Connection {
            stream,
            exchange: Exchange::new(),
            state: State::Conversing,
            read_on: false,
            queued: false,
            held: None,
        });
        let Some(connection) = self.connections.get_mut(key) else { unreachable!("inserted") };
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let token = Token(key.pack() as usize);
        let (fd, stream) = (connection.stream.as_raw_fd(), &mut connection.stream);
        self.stats.syscalls += 1;
        if let Err(error) = register(&self.poll, stream, fd, token, interest, self.trace) {
            self.stats.on_io_error(&error);
            self.stats.on_closed(Cause::Error);
            return self.close(key);
        }
        self.idle.start(key.index);
        // A request that is there already is announced by the next wait, with others.
        if self.stop.is_draining() {
            self.drain_connection(key);
        }
    }

    /// Counts the end of a conversation, and closes its connection now or when the peer has.
    pub(super) fn end(&mut self, key: Key, cause: Cause) {
        self.stats.on_closed(cause);
        self.idle.stop(key.index);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !lingers(cause) {
            return self.close(key);
        }
        self.stats.syscalls += 1;
        let socket = Traced { socket: &connection.stream, trace: self.trace };
        let shut = socket.call("shutdown", "SHUT_WR", |stream| stream.shutdown(Shutdown::Write));
        if shut.is_err() {
            return self.close(key); // the connection is gone
        }
        connection.state = State::Lingering;
        self.lingering.start(key.index);
        self.linger(key);
    }

    /// Throws away what the peer still sends, until it closes.
    pub(super) fn linger(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let socket = &mut Traced { socket: &mut connection.stream, trace: self.trace };
        match discard(socket, self.scratch.room(), &mut self.stats, DISCARDS) {
            Discarded::Blocked => {}
            Discarded::More => {
                connection.queued = true;
                self.ready.push_back(key);
            }
            Discarded::Ended => self.close(key),
        }
    }

    fn close(&mut self, key: Key) {
        self.lingering.stop(key.index);
        if let Some(connection) = self.connections.remove(key) {
            self.trace.close(connection.stream); // which takes it out of the epoll as well
        }
        self.stats.syscalls += 1;
        self.limit.closed();
        self.backoff.end(); // there is a descriptor and a place again
    }

    /// Ends what has gone on for too long.
    pub(super) fn expire(&mut self) {
        if self.deadline().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some(index) = self.idle.expired(now) {
            let Some(key) = self.connections.key_at(index) else { continue };
            // After a long turn its event may still wait in the kernel.
            self.run_connection(key);
            let found = self.connections.get_mut(key).map(|connection| connection.state);
            if found == Some(State::Conversing) && !self.idle.runs(index) {
                self.fail(key, Cause::Idle);
            }
        }
        while let Some(index) = self.lingering.expired(now) {
            if let Some(key) = self.connections.key_at(index) {
                self.close(key);
            }
        }
        if self.stop.deadline().is_some_and(|deadline| now >= deadline) {
            self.cut();
        }
    }

    fn fail(&mut self, key: Key, cause: Cause) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.exchange.terminate(cause);
        let _close = connection.exchange.failed();
        self.stats.on_closed(cause);
        self.idle.stop(key.index);
        self.close(key);
    }

    /// The stop signal: accepts what waits, then lets every conversation end.
    pub(super) fn drain(&mut self) {
        for key in self.connections.keys() {
            self.drain_connection(key);
        }
        self.acceptable = true;
        self.backoff.disable();
        self.accept(self.options.backlog as usize + 1);
        if let Some(listener) = self.listener.take() {
            self.trace.close(listener);
        }
    }

    fn drain_connection(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.state == State::Lingering {
            return;
        }
        connection.exchange.drain();
        if connection.exchange.op() != Op::Recv {
            return;
        }
        // A request that is there already is answered; none is waited for.
        self.run_connection(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.state == State::Conversing && connection.exchange.op() == Op::Recv {
            let nothing =
                connection.exchange.received(&mut *self.service, self.scratch.request(), 0);
            let Op::Close(cause) = nothing else { unreachable!("it drains") };
            self.end(key, cause);
        }
    }

    /// The drain timeout is over: closes what still goes on.
    fn cut(&mut self) {
        for key in self.connections.keys() {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            match connection.state {
                State::Lingering => self.close(key),
                State::Conversing => {
                    self.stats.drain_cut += 1;
                    self.fail(key, Cause::Drain);
                }
            }
        }
    }
}
