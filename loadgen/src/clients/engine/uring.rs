//! io_uring(7): replies are in a buffer when the wait returns, and requests are submitted with the
//! wait.
//!
//! Each socket has one multishot receive, into buffers that the thread's connections share; replies
//! are compared with the pattern where the kernel put them. A request is sent from the pattern's
//! own memory. So one io_uring_enter(2) serves many exchanges, and an exchange submits its send
//! only. The kernel sends a long request in as many pieces as it needs, so it counts as sent from
//! the beginning; a server that answers what it cannot have received yet is found by its reply.
//!
//! A failed connection may have operations queued or in flight. shutdown(2) ends them, the close is
//! queued behind them, and their completions name an old generation of the connection.
//!
//! An operation that cannot be queued fails the run: the next wait returns the error.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use lockstep_sys::errno::describe;
use lockstep_sys::uring::{BufferId, Completion, NO_KEY, Ring, Sizes};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use socket2::Socket;

use super::driver::{Driver, EVENTS_MAX, End, Event, clear, connected};
use crate::clients::connection::{Connection, Received, Service, State};
use crate::clients::failures::Kind;
use crate::clients::pattern::Pattern;

/// Events that end a connect, and those that may come with it. The values are epoll's.
const CONNECTED: EventFlags = EventFlags::OUT.union(EventFlags::IN).union(EventFlags::RDHUP);

const READABLE: EventFlags = EventFlags::IN;

/// Closes that are queued before they are submitted, at most: until then the descriptors are open.
const CLOSING_MAX: usize = 32;

/// Slots of the submission queue, at least and at most. They are used one after another: the fewer,
/// the better they stay in the CPU's cache.
const SUBMISSIONS: (usize, usize) = (64, 1024);

/// Bytes of a buffer, at most. A longer reply comes in pieces.
const BUFFER_MAX: usize = 64 << 10;

/// Bytes of all buffers, at most.
const BUFFERS_BYTES_MAX: usize = 16 << 20;

/// Number of buffers, at least and at most. They are used one after another: the fewer, the better
/// they stay in the CPU's cache. A receive that finds none is submitted again.
const BUFFERS: (usize, usize) = (16, 2048);

/// Keys of the polls of the wake-up and of the timer.
const WAKE: u64 = NO_KEY;
const TIMER: u64 = NO_KEY - 1;

/// Tests whether the kernel has what the engine needs.
pub(super) fn probe() -> Result<(), String> {
    match Ring::new(sizes(1, 1), Arc::default(), ()) {
        Ok(_ring) => Ok(()),
        Err(error) => Err(format!("io_uring_setup, with what Linux 6.1 has: {}", describe(&error))),
    }
}

/// Sizes for a thread of `conns` connections and replies of `size` bytes. A buffer holds one byte
/// more, so that a surplus byte is seen.
fn sizes(conns: usize, size: usize) -> Sizes {
    let slots = conns.next_power_of_two();
    let buffer_length = (size + 1).next_multiple_of(64).min(BUFFER_MAX);
    let affordable = 1 << (BUFFERS_BYTES_MAX / buffer_length).ilog2();
    let buffers = slots.clamp(BUFFERS.0, BUFFERS.1).min(affordable) as u16;
    Sizes {
        submissions: slots.clamp(SUBMISSIONS.0, SUBMISSIONS.1) as u32,
        batch: EVENTS_MAX,
        buffers,
        buffers_max: buffers,
        buffer_length,
    }
}

/// A ring and the state of each connection's socket.
pub(crate) struct Uring<'a> {
    ring: Ring,
    service: Service,
    pattern: &'a Pattern,
    links: Box<[Link]>,
    /// Closes queued since the last submission.
    closing: usize,
    wake: BorrowedFd<'a>,
    timer: Option<OwnedFd>,
    /// Failure to queue an operation.
    failure: Option<io::Error>,
}

/// Socket of a connection.
#[derive(Clone, Copy, Default)]
struct Link {
    /// Number of sockets that the connection had before, in the bits that a key has for it.
    generation: u32,
    /// True if a receive, or the poll for the end of the connect, is in flight.
    armed: bool,
}

/// Bits of a key for the generation; below them is the connection's index.
const GENERATION_BITS: u32 = 24;

impl Link {
    fn next(&mut self) {
        self.generation = (self.generation + 1) & ((1 << GENERATION_BITS) - 1);
    }

    fn key(self, index: usize) -> u64 {
        u64::from(self.generation) << 32 | index as u64
    }
}

const fn index_of(key: u64) -> usize {
    key as u32 as usize
}

impl<'a> Driver<'a> for Uring<'a> {
    fn new(
        conns: usize,
        service: Service,
        pattern: &'a Pattern,
        wake: BorrowedFd<'a>,
    ) -> io::Result<Self> {
        let mut ring = Ring::new(sizes(conns, pattern.size() as usize), pattern.block(), ())?;
        ring.poll(WAKE, wake, READABLE.bits(), true)?;
        Ok(Self {
            ring,
            service,
            pattern,
            links: vec![Link::default(); conns].into_boxed_slice(),
            closing: 0,
            wake,
            timer: None,
            failure: None,
        })
    }

    fn watch_timer(&mut self, timer: BorrowedFd<'_>) -> io::Result<()> {
        let timer = self.timer.insert(timer.try_clone_to_owned()?);
        self.ring.poll(TIMER, timer, READABLE.bits(), true)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.closing = 0;
        self.ring.wait(Some(timeout))?;
        Ok(self.ring.has_completions())
    }

    fn has_queued(&mut self) -> bool {
        self.ring.has_queued()
    }

    #[inline]
    fn next_event(&mut self, connections: &mut [Connection]) -> Option<(usize, Event)> {
        while let Some(completion) = self.ring.next_completion() {
            if let Some(event) = self.on_completion(connections, completion) {
                return Some(event);
            }
        }
        None
    }

    fn connect(&mut self, index: usize, socket: &Socket) -> io::Result<()> {
        self.links[index].armed = true;
        self.ring.poll(self.links[index].key(index), socket, CONNECTED.bits(), false)
    }

    #[inline]
    fn send(&mut self, index: usize, connection: &mut Connection) -> io::Result<()> {
        let Some(socket) = &connection.socket else { return Ok(()) };
        self.receive(index, socket);
        let unsent = connection.unsent(self.pattern);
        let queued = self.ring.send_shared(self.links[index].key(index), socket, unsent);
        self.keep(queued);
        connection.on_sent(unsent.len());
        Ok(())
    }

    fn close(&mut self, index: usize, socket: Socket) {
        let link = &mut self.links[index];
        link.next();
        if std::mem::take(&mut link.armed) {
            // It can only fail for a connection that is gone already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let queued = self.ring.close(socket.into());
        self.keep(queued);
        self.closing += 1;
        if self.closing == CLOSING_MAX {
            self.closing = 0;
            let submitted = self.ring.submit();
            self.keep(submitted);
        }
    }
}

impl Uring<'_> {
    /// Keeps a failure for the next wait.
    #[inline]
    fn keep(&mut self, queued: io::Result<()>) {
        if let Err(error) = queued {
            self.failure = Some(error);
        }
    }

    /// Queues the receive of a socket, unless it is in flight.
    #[inline]
    fn receive(&mut self, index: usize, socket: impl AsFd) {
        if !self.links[index].armed {
            self.links[index].armed = true;
            let queued = self.ring.receive_multi(self.links[index].key(index), socket);
            self.keep(queued);
        }
    }

    #[inline]
    fn on_completion(
        &mut self,
        connections: &mut [Connection],
        completion: Completion,
    ) -> Option<(usize, Event)> {
        match completion {
            Completion::Receive { key, result, more, .. } => {
                let index = index_of(key);
                if !self.is_current(key) {
                    result.ok().flatten().into_iter().for_each(|buffer| self.ring.recycle(buffer));
                    return None;
                }
                self.links[index].armed &= more;
                let event = self.on_receive(index, &mut connections[index], result);
                event.map(|event| (index, event))
            }
            Completion::Poll { key: WAKE, more, .. } => {
                clear(self.wake);
                if !more {
                    let queued = self.ring.poll(WAKE, self.wake, READABLE.bits(), true);
                    self.keep(queued);
                }
                None
            }
            Completion::Poll { key: TIMER, more, .. } => {
                if let Some(timer) = &self.timer
                    && !more
                {
                    let queued = self.ring.poll(TIMER, timer, READABLE.bits(), true);
                    self.keep(queued);
                }
                None
            }
            Completion::Poll { key, result, .. } if self.is_current(key) => {
                let index = index_of(key);
                self.links[index].armed = false;
                let socket = connections[index].socket.as_ref()?;
                let event = match result {
                    Ok(flags) => connected(socket, EventFlags::from_bits_retain(flags))?,
                    Err(error) => failed(Kind::Connect, error),
                };
                Some((index, event))
            }
            Completion::Send { key, result, .. } if self.is_current(key) => {
                let index = index_of(key);
                on_send(&connections[index], result).map(|event| (index, event))
            }
            _ => None, // of a socket that is closed
        }
    }

    /// True if the connection still has the socket of this key.
    #[inline]
    fn is_current(&self, key: u64) -> bool {
        let index = index_of(key);
        self.links[index].key(index) == key
    }

    /// Handles bytes, the end of the stream, or an error. The receive goes on afterwards unless the
    /// connection has ended.
    #[inline]
    fn on_receive(
        &mut self,
        index: usize,
        connection: &mut Connection,
        result: Result<Option<BufferId>, Errno>,
    ) -> Option<Event> {
        let event = match result {
            Ok(None) => return Some(Event::Ended(End::Closed)),
            Ok(Some(buffer)) => {
                let bytes = self.ring.received(&buffer);
                let received = connection.on_received(bytes, self.service, self.pattern);
                self.ring.recycle(buffer);
                match received {
                    Received::Part => None,
                    Received::Whole => Some(Event::Replied(None)),
                    Received::Wrong(wrong) => return Some(Event::Ended(End::Mismatch(wrong))),
                    Received::Surplus(count) => return Some(Event::Ended(End::Surplus(count))),
                }
            }
            // All buffers were in use. They are free when this is submitted again.
            Err(Errno::NOBUFS) => None,
            Err(error) => return Some(failed(Kind::Receive, error)),
        };
        if let Some(socket) = &connection.socket {
            self.receive(index, socket);
        }
        event
    }
}

fn failed(kind: Kind, error: Errno) -> Event {
    Event::Ended(End::Failed(kind, error.into()))
}

/// A send has failed; or it was short, because the rest failed: then the socket has the error.
#[cold]
fn on_send(connection: &Connection, result: Result<u32, Errno>) -> Option<Event> {
    if connection.state != State::Exchanging {
        return None;
    }
    if let Err(error) = result {
        return Some(failed(Kind::Send, error));
    }
    let error = match connection.socket.as_ref().map(Socket::take_error) {
        Some(Ok(Some(error)) | Err(error)) => error,
        _ => Errno::PIPE.into(),
    };
    Some(Event::Ended(End::Failed(Kind::Send, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_index_and_generation() {
        let mut link = Link { generation: (1 << GENERATION_BITS) - 1, armed: false };
        let index = u32::MAX as usize - 2;
        assert_eq!((index_of(link.key(index)), link.key(index) >> 56), (index, 0));
        assert!(link.key(index) < TIMER);
        let before = link.key(index);
        link.next();
        assert_ne!(link.key(index), before);
        assert_eq!(link.generation, 0);
    }

    #[test]
    fn sizes_stay_within_their_limits() {
        for (conns, size, buffers, length) in [
            (1, 1, 16, 64),
            (1000, 64, 1024, 128),
            (50_000, 1024, 2048, 1088),
            (1000, 1 << 20, 256, 64 << 10),
        ] {
            let sizes = sizes(conns, size);
            assert_eq!((sizes.buffers, sizes.buffer_length), (buffers, length));
            assert!((64..=1024).contains(&sizes.submissions));
        }
    }
}
