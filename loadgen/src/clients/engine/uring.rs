//! io_uring(7): what came is in a buffer when the thread is told, and requests go out with the
//! wait for replies.
//!
//! Each socket has one receive that goes on as long as the socket (multishot, Linux 6.0), into
//! buffers that the thread shares; replies are compared with the pattern where the kernel put
//! them. A request is sent from the pattern's own memory. So the system calls of many exchanges
//! are one, io_uring_enter(2), and an exchange's submission is its send. The kernel sends a long
//! request in as many pieces as it needs, so we take it as sent from the beginning; a server that
//! answers what it cannot have got yet is found by what it says.
//!
//! A failed connection may have operations queued or in the kernel. shutdown(2) ends them, closing
//! is queued behind them, and what they have to say finds the connection in another generation.

mod buffers;
mod ring;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::time::Duration;

use io_uring::cqueue;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use socket2::Socket;

use self::buffers::Buffers;
use self::ring::{COMPLETIONS_MAX, Operation, Ring, Token, generation_after};
use super::Sockets;
use crate::clients::connection::{Received, Service, State};
use crate::clients::failures::Kind;
use crate::clients::worker::{Plan, Worker};
use lockstep_sys::errno::describe;

/// Tries whether this kernel does what this needs.
pub(super) fn probe() -> Result<(), String> {
    let ring = ring::set_up(1).map_err(|error| format!("io_uring_setup: {}", describe(&error)))?;
    let buffers = Buffers::register(&ring, 1, 1).map_err(|error| {
        format!("no rings of buffers, which Linux 5.19 has: {}", describe(&error))
    })?;
    let mut ring = Ring::new(ring);
    let probed = ring.probe_receive();
    drop(ring);
    drop(buffers);
    probed
        .map_err(|error| format!("no multishot receive, which Linux 6.0 has: {}", describe(&error)))
}

/// What tells of the end of connect(2), and of what came with it. The values are epoll's.
const CONNECTED: EventFlags = EventFlags::OUT.union(EventFlags::IN).union(EventFlags::RDHUP);

/// Descriptors whose closing is queued at once, at most: they count as open until then.
const CLOSING_MAX: usize = 32;

/// A ring, and what it told last.
pub(crate) struct Uring {
    // The ring is dropped first: nothing it may still read or write is gone before it.
    ring: Ring,
    buffers: Buffers,
    completions: Vec<cqueue::Entry>,
    /// What the ring does for each connection.
    links: Box<[Link]>,
    closing: usize,
    wake: RawFd,
    timer: Option<RawFd>,
}

/// What the ring does for a connection.
#[derive(Clone, Copy, Default)]
struct Link {
    /// Of its sockets.
    generation: u32,
    /// Whether a receive, or the poll for the end of connect(2), goes on.
    armed: bool,
}

impl Sockets for Uring {
    fn new(plan: &Plan, conns: usize, wake: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = ring::set_up(conns)?;
        let buffers = Buffers::register(&ring, conns, plan.pattern.size() as usize)?;
        let mut ring = Ring::new(ring);
        let wake = wake.as_raw_fd();
        ring.watch(wake, Operation::Wake);
        Ok(Self {
            ring,
            buffers,
            completions: Vec::with_capacity(COMPLETIONS_MAX),
            links: vec![Link::default(); conns].into_boxed_slice(),
            closing: 0,
            wake,
            timer: None,
        })
    }

    fn watch_timer(&mut self, timer: BorrowedFd<'_>) -> io::Result<()> {
        let timer = timer.as_raw_fd();
        self.timer = Some(timer);
        self.ring.watch(timer, Operation::Timer);
        Ok(())
    }

    fn wait(&mut self, longest: Duration) -> io::Result<bool> {
        self.completions.clear();
        self.closing = 0;
        self.ring.wait(longest, &mut self.completions)?;
        Ok(!self.completions.is_empty())
    }

    fn has_queued(&mut self) -> bool {
        self.ring.has_queued()
    }

    fn handle(worker: &mut Worker<'_, Self>) {
        let completions = std::mem::take(&mut worker.sockets.completions);
        for completion in &completions {
            worker.on_completion(completion);
        }
        worker.sockets.completions = completions;
        worker.sockets.buffers.commit();
    }

    fn await_connect(&mut self, index: usize, socket: &Socket) -> io::Result<()> {
        let token = self.arm(index, Operation::Connect);
        self.ring.poll(socket.as_raw_fd(), CONNECTED.bits(), token);
        Ok(())
    }

    #[inline]
    fn send(worker: &mut Worker<'_, Self>, index: usize) {
        let connection = &mut worker.connections[index];
        let Some(socket) = &connection.socket else { return };
        let fd = socket.as_raw_fd();
        let unsent = connection.unsent(&worker.plan.pattern);
        let sockets = &mut worker.sockets;
        if !sockets.links[index].armed {
            sockets.receive(index, fd);
        }
        let token = sockets.token(index, Operation::Send);
        // SAFETY: the plan is borrowed by the worker, so the pattern outlives its ring.
        unsafe { sockets.ring.send(fd, unsent, token) };
        connection.on_sent(unsent.len());
    }

    fn look(worker: &mut Worker<'_, Self>, _index: usize) {
        // Trouble lasts: the next wait says so.
        if let Ok(true) = worker.sockets.wait(Duration::ZERO) {
            Self::handle(worker);
        }
    }

    fn close(&mut self, index: usize, socket: Socket) {
        let link = &mut self.links[index];
        link.generation = generation_after(link.generation);
        if std::mem::take(&mut link.armed) {
            // It can only fail for a connection that is gone already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.ring.close(socket.into_raw_fd());
        self.closing += 1;
        if self.closing == CLOSING_MAX {
            self.closing = 0;
            self.ring.submit();
        }
    }
}

impl Uring {
    #[inline]
    fn token(&self, index: usize, operation: Operation) -> Token {
        Token { operation, generation: self.links[index].generation, index: index as u32 }
    }

    fn arm(&mut self, index: usize, operation: Operation) -> Token {
        self.links[index].armed = true;
        self.token(index, operation)
    }

    fn receive(&mut self, index: usize, fd: RawFd) {
        let token = self.arm(index, Operation::Receive);
        self.ring.receive(fd, token);
    }
}

impl Worker<'_, Uring> {
    #[inline]
    fn on_completion(&mut self, completion: &cqueue::Entry) {
        let token = Token::of(completion);
        let index = token.index as usize;
        let more = cqueue::more(completion.flags());
        match token.operation {
            Operation::Receive => self.on_receive(index, token, completion),
            Operation::Send if self.is_current(token) => self.on_send(index, completion.result()),
            Operation::Connect if self.is_current(token) => {
                self.on_connect(index, completion.result());
            }
            Operation::Wake => {
                self.hear();
                if !more {
                    self.sockets.ring.watch(self.sockets.wake, Operation::Wake);
                }
            }
            Operation::Timer => {
                self.on_timer();
                if let Some(timer) = self.sockets.timer
                    && !more
                {
                    self.sockets.ring.watch(timer, Operation::Timer);
                }
            }
            Operation::Send | Operation::Connect | Operation::Close => {}
        }
    }

    /// Whether the connection has the same socket still.
    #[inline]
    fn is_current(&self, token: Token) -> bool {
        self.sockets.links[token.index as usize].generation == token.generation
    }

    fn on_connect(&mut self, index: usize, result: i32) {
        self.sockets.links[index].armed = false;
        match result {
            0.. => self.on_connecting(index, EventFlags::from_bits_retain(result as u32)),
            error => self.fail_io(index, Kind::Connect, &io::Error::from_raw_os_error(-error)),
        }
    }

    /// A receive has something to say: bytes, the end, or why it does not go on.
    #[inline]
    fn on_receive(&mut self, index: usize, token: Token, completion: &cqueue::Entry) {
        let buffer = cqueue::buffer_select(completion.flags());
        if !self.is_current(token) {
            return buffer.into_iter().for_each(|buffer| self.sockets.buffers.give_back(buffer));
        }
        if !cqueue::more(completion.flags()) {
            self.sockets.links[index].armed = false;
        }
        match (completion.result(), buffer) {
            (0, _) => self.on_last(index),
            (count @ 1.., Some(buffer)) => self.on_bytes(index, buffer, count as usize),
            // All buffers were in use, and are not any more when this is submitted again.
            (error, _) if error == -libc::ENOBUFS => {}
            (error, _) => self.on_broken(index, &io::Error::from_raw_os_error(-error)),
        }
        if let Some(socket) = &self.connections[index].socket
            && self.is_current(token)
            && !self.sockets.links[index].armed
        {
            self.sockets.receive(index, socket.as_raw_fd());
        }
    }

    #[inline]
    fn on_bytes(&mut self, index: usize, buffer: u16, count: usize) {
        let (service, pattern) = (self.plan.service, &self.plan.pattern);
        let connection = &mut self.connections[index];
        let received = match connection.state {
            State::Exchanging => {
                let bytes = self.sockets.buffers.filled(buffer, count);
                connection.on_received(bytes, service, pattern)
            }
            _ => Received::Surplus(count),
        };
        self.sockets.buffers.give_back(buffer);
        match received {
            Received::Part => {}
            Received::Whole => {
                self.now = self.control.clock.now();
                if service == Service::Hi {
                    return self.await_end(index);
                }
                self.complete(index, self.now);
                self.next(index);
            }
            Received::Wrong(mismatch) => self.fail_wrong(index, mismatch),
            Received::Surplus(count) => {
                if self.matters(index) {
                    self.fail_surplus(index, count);
                }
            }
        }
    }

    /// The server has ended its side.
    #[cold]
    fn on_last(&mut self, index: usize) {
        let state = self.connections[index].state;
        match state {
            State::Exchanging | State::AwaitingEnd => self.on_end(index),
            _ if self.matters(index) => self.fail_unowed(index),
            _ => self.sockets.links[index].armed = true, // Nothing more comes, so it is as good as.
        }
    }

    #[cold]
    fn on_broken(&mut self, index: usize, error: &io::Error) {
        if self.matters(index) {
            self.fail_io(index, Kind::Receive, error);
        }
    }

    /// Whether what came is any business of ours: after the window, with nothing asked for, it is
    /// not.
    fn matters(&mut self, index: usize) -> bool {
        if self.connections[index].state != State::Resting {
            return true;
        }
        self.now = self.control.clock.now();
        self.now < self.control.end_ns()
    }

    /// A send has failed; or has ended early, because what was left failed, and nobody says why.
    #[cold]
    fn on_send(&mut self, index: usize, result: i32) {
        if self.connections[index].state != State::Exchanging {
            return;
        }
        match result {
            0.. => match self.connections[index].socket.as_ref().map(Socket::take_error) {
                Some(Ok(Some(error)) | Err(error)) => self.fail_io(index, Kind::Send, &error),
                _ => self.fail_io(index, Kind::Send, &Errno::PIPE.into()),
            },
            error => self.fail_io(index, Kind::Send, &io::Error::from_raw_os_error(-error)),
        }
    }
}
