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
use self::ring::{Operation, Ring, Token, generation_after};
use super::driver::{Driver, EVENTS_MAX, End, Event, clear, connected};
use crate::clients::connection::{Connection, Received, Service, State};
use crate::clients::failures::Kind;
use crate::clients::pattern::Pattern;
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
pub(crate) struct Uring<'a> {
    // The ring is dropped first: nothing it may still read or write is gone before it.
    ring: Ring,
    buffers: Buffers,
    service: Service,
    pattern: &'a Pattern,
    completions: Vec<cqueue::Entry>,
    /// Completions of the batch that have been handled.
    handled: usize,
    /// What the ring does for each connection.
    links: Box<[Link]>,
    closing: usize,
    wake: BorrowedFd<'a>,
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

impl<'a> Driver<'a> for Uring<'a> {
    fn new(
        conns: usize,
        service: Service,
        pattern: &'a Pattern,
        wake: BorrowedFd<'a>,
    ) -> io::Result<Self> {
        let ring = ring::set_up(conns)?;
        let buffers = Buffers::register(&ring, conns, pattern.size() as usize)?;
        let mut ring = Ring::new(ring);
        ring.watch(wake.as_raw_fd(), Operation::Wake);
        Ok(Self {
            ring,
            buffers,
            service,
            pattern,
            completions: Vec::with_capacity(EVENTS_MAX),
            handled: 0,
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

    fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        self.completions.clear();
        self.handled = 0;
        self.closing = 0;
        self.ring.wait(timeout, &mut self.completions)?;
        Ok(!self.completions.is_empty())
    }

    fn has_queued(&mut self) -> bool {
        self.ring.has_queued()
    }

    #[inline]
    fn next_event(&mut self, connections: &mut [Connection]) -> Option<(usize, Event)> {
        while let Some(completion) = self.completions.get(self.handled).cloned() {
            self.handled += 1;
            let token = Token::of(&completion);
            if let Some(event) = self.on_completion(connections, token, &completion) {
                return Some((token.index as usize, event));
            }
        }
        self.buffers.commit();
        None
    }

    fn connect(&mut self, index: usize, socket: &Socket) -> io::Result<()> {
        let token = self.arm(index, Operation::Connect);
        self.ring.poll(socket.as_raw_fd(), CONNECTED.bits(), token);
        Ok(())
    }

    #[inline]
    fn send(&mut self, index: usize, connection: &mut Connection) -> io::Result<()> {
        let Some(socket) = &connection.socket else { return Ok(()) };
        let fd = socket.as_raw_fd();
        self.receive(index, fd);
        let unsent = connection.unsent(self.pattern);
        let token = self.token(index, Operation::Send);
        // SAFETY: the pattern is borrowed for longer than the ring exists, and never written.
        unsafe { self.ring.send(fd, unsent, token) };
        connection.on_sent(unsent.len());
        Ok(())
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

impl Uring<'_> {
    #[inline]
    fn token(&self, index: usize, operation: Operation) -> Token {
        Token { operation, generation: self.links[index].generation, index: index as u32 }
    }

    fn arm(&mut self, index: usize, operation: Operation) -> Token {
        self.links[index].armed = true;
        self.token(index, operation)
    }

    /// Queues the receive of a socket, unless it goes on.
    #[inline]
    fn receive(&mut self, index: usize, fd: RawFd) {
        if !self.links[index].armed {
            let token = self.arm(index, Operation::Receive);
            self.ring.receive(fd, token);
        }
    }

    #[inline]
    fn on_completion(
        &mut self,
        connections: &mut [Connection],
        token: Token,
        completion: &cqueue::Entry,
    ) -> Option<Event> {
        let index = token.index as usize;
        let more = cqueue::more(completion.flags());
        match token.operation {
            Operation::Receive => self.on_receive(&mut connections[index], token, completion),
            Operation::Send if self.is_current(token) => on_send(&connections[index], completion),
            Operation::Connect if self.is_current(token) => {
                self.links[index].armed = false;
                let socket = connections[index].socket.as_ref()?;
                match completion.result() {
                    flags @ 0.. => connected(socket, EventFlags::from_bits_retain(flags as u32)),
                    error => Some(failed(Kind::Connect, error)),
                }
            }
            Operation::Wake => {
                clear(self.wake);
                if !more {
                    self.ring.watch(self.wake.as_raw_fd(), Operation::Wake);
                }
                None
            }
            Operation::Timer => {
                if let Some(timer) = self.timer
                    && !more
                {
                    self.ring.watch(timer, Operation::Timer);
                }
                None
            }
            Operation::Send | Operation::Connect | Operation::Close => None,
        }
    }

    /// True if the connection still has the socket that the operation was for.
    #[inline]
    fn is_current(&self, token: Token) -> bool {
        self.links[token.index as usize].generation == token.generation
    }

    /// Handles bytes, the end of the stream, or an error. The receive goes on afterwards unless the
    /// connection has ended.
    #[inline]
    fn on_receive(
        &mut self,
        connection: &mut Connection,
        token: Token,
        completion: &cqueue::Entry,
    ) -> Option<Event> {
        let index = token.index as usize;
        let buffer = cqueue::buffer_select(completion.flags());
        if !self.is_current(token) {
            buffer.into_iter().for_each(|buffer| self.buffers.give_back(buffer));
            return None;
        }
        if !cqueue::more(completion.flags()) {
            self.links[index].armed = false;
        }
        let event = match (completion.result(), buffer) {
            (0, _) => return Some(Event::Ended(End::Closed)),
            (count @ 1.., Some(buffer)) => {
                let bytes = self.buffers.filled(buffer, count as usize);
                let received = connection.on_received(bytes, self.service, self.pattern);
                self.buffers.give_back(buffer);
                match received {
                    Received::Part => None,
                    Received::Whole => Some(Event::Replied(None)),
                    Received::Wrong(wrong) => return Some(Event::Ended(End::Mismatch(wrong))),
                    Received::Surplus(count) => return Some(Event::Ended(End::Surplus(count))),
                }
            }
            // All buffers were in use. They are free when this is submitted again.
            (error, _) if error == -libc::ENOBUFS => None,
            (error, _) => return Some(failed(Kind::Receive, error)),
        };
        if let Some(socket) = &connection.socket {
            self.receive(index, socket.as_raw_fd());
        }
        event
    }
}

fn failed(kind: Kind, result: i32) -> Event {
    Event::Ended(End::Failed(kind, io::Error::from_raw_os_error(-result)))
}

/// A send has failed; or it was short, because the rest failed: then the socket has the error.
#[cold]
fn on_send(connection: &Connection, completion: &cqueue::Entry) -> Option<Event> {
    if connection.state != State::Exchanging {
        return None;
    }
    if completion.result() < 0 {
        return Some(failed(Kind::Send, completion.result()));
    }
    let error = match connection.socket.as_ref().map(Socket::take_error) {
        Some(Ok(Some(error)) | Err(error)) => error,
        _ => Errno::PIPE.into(),
    };
    Some(Event::Ended(End::Failed(Kind::Send, error)))
}
