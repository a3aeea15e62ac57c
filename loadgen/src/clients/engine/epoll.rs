//! The epoll engine: one epoll event, one recv(2) and one send(2) for each exchange.
//!
//! Sockets are registered once, edge-triggered, for everything. A receive asks for one byte more
//! than is owed. So a surplus byte is seen, and a receive that got less than it asked for has
//! emptied the socket, which saves the receive that would return EAGAIN (epoll(7), question 9).
//!
//! An event belongs to the connection of its index: a batch holds at most one event for each
//! socket, and a socket is closed only while its own event is handled or between two batches, so
//! no event can meet another socket at its index.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;
use socket2::Socket;

use super::driver::{Driver, EVENTS_MAX, End, Event, HANGUP, clear, connected, unowed};
use crate::clients::connection::{Connection, Received, Service, State};
use crate::clients::failures::Kind;
use crate::clients::pattern::Pattern;
use crate::clients::socket::{receive, send};

/// Size of the receive buffer.
const SCRATCH: usize = 64 << 10;

/// Data of the wake-up's event.
const WAKE: u64 = u64::MAX;

/// Data of the timer's event.
const TIMER: u64 = u64::MAX - 1;

/// Events of a socket, from its connect on. An end is reported only once.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// An epoll instance and the current batch of events.
pub(crate) struct Epoll<'a> {
    epoll: OwnedFd,
    service: Service,
    pattern: &'a Pattern,
    wake: BorrowedFd<'a>,
    events: Vec<epoll::Event>,
    /// Events of the batch that have been handled.
    handled: usize,
    scratch: Box<[u8]>,
}

impl<'a> Driver<'a> for Epoll<'a> {
    fn new(
        _conns: usize,
        service: Service,
        pattern: &'a Pattern,
        wake: BorrowedFd<'a>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let events = Vec::with_capacity(EVENTS_MAX);
        let scratch = vec![0; SCRATCH].into_boxed_slice();
        Ok(Self { epoll, service, pattern, wake, events, handled: 0, scratch })
    }

    fn watch_timer(&mut self, timer: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        Ok(epoll::add(&self.epoll, timer, EventData::new_u64(TIMER), flags)?)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        self.events.clear();
        self.handled = 0;
        // Every kernel's epoll takes whole milliseconds; rounded up.
        let timeout_ms = timeout.as_nanos().div_ceil(1_000_000) as i64;
        let timeout =
            Timespec { tv_sec: timeout_ms / 1000, tv_nsec: timeout_ms % 1000 * 1_000_000 };
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, buffer, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!self.events.is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    fn has_queued(&mut self) -> bool {
        false
    }

    #[inline]
    fn next_event(&mut self, connections: &mut [Connection]) -> Option<(usize, Event)> {
        while let Some(&event) = self.events.get(self.handled) {
            self.handled += 1;
            match event.data.u64() {
                WAKE => clear(self.wake),
                TIMER => {}
                index => {
                    let connection = &mut connections[index as usize];
                    if let Some(progress) = self.advance(connection, event.flags) {
                        return Some((index as usize, progress));
                    }
                }
            }
        }
        None
    }

    fn connect(&mut self, index: usize, socket: &Socket) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(index as u64), INTEREST)?)
    }

    /// Makes one send, which takes the whole request unless it is large.
    #[inline]
    fn send(&mut self, _index: usize, connection: &mut Connection) -> io::Result<()> {
        self.send_rest(connection)
    }

    fn close(&mut self, _index: usize, socket: Socket) {
        drop(socket);
    }
}

impl Epoll<'_> {
    /// Moves a connection on as far as possible.
    #[inline]
    fn advance(&mut self, connection: &mut Connection, flags: EventFlags) -> Option<Event> {
        let socket = connection.socket.as_ref()?;
        match connection.state {
            State::Exchanging | State::AwaitingEnd => self.exchange(connection, flags),
            State::Connecting => connected(socket, flags),
            State::Resting => unowed(socket).map(Event::Ended),
            State::New | State::Out => None,
        }
    }

    /// Sends and receives until the reply is whole or the socket is not ready.
    #[inline]
    fn exchange(&mut self, connection: &mut Connection, flags: EventFlags) -> Option<Event> {
        let hangup = flags.intersects(HANGUP);
        loop {
            if let Err(error) = self.send_rest(connection) {
                return Some(Event::Ended(End::Failed(Kind::Send, error)));
            }
            let socket = connection.socket.as_ref()?;
            let room = self.scratch.len().min(connection.owed(self.service, self.pattern) + 1);
            let count = match receive(socket, &mut self.scratch[..room]) {
                Ok(0) => return Some(Event::Ended(End::Closed)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Event::Ended(End::Failed(Kind::Receive, error))),
            };
            match connection.on_received(&self.scratch[..count], self.service, self.pattern) {
                Received::Part if count < room && !hangup => return None,
                Received::Part => {}
                Received::Whole => {
                    // An end that came with the reply is not reported again.
                    let socket = connection.socket.as_ref()?;
                    let end = if hangup { unowed(socket) } else { None };
                    return Some(Event::Replied(end));
                }
                Received::Wrong(mismatch) => return Some(Event::Ended(End::Mismatch(mismatch))),
                Received::Surplus(count) => return Some(Event::Ended(End::Surplus(count))),
            }
        }
    }

    /// Sends what is unsent. After a short send, the kernel reports an event when there is room.
    #[inline]
    fn send_rest(&self, connection: &mut Connection) -> io::Result<()> {
        let unsent = connection.unsent(self.pattern);
        let (Some(socket), false) = (&connection.socket, unsent.is_empty()) else { return Ok(()) };
        match send(socket, unsent) {
            Ok(count) => connection.on_sent(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
