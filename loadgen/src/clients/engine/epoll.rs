//! epoll(7): told which socket is ready, one receive and one send for each exchange.
//!
//! Sockets are registered once, edge-triggered, for everything. A receive asks for one byte more
//! than is owed; so a surplus byte is seen, and a receive that got less than it asked for has
//! emptied the socket, which spares the receive that would only say so (epoll(7), question 9).
//!
//! An event belongs to the connection of its index: a batch holds at most one event for each
//! socket, and a socket is closed only by the handling of its own event or between two batches,
//! so no event can meet another socket at its index.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;
use socket2::Socket;

use super::{HANGUP, Sockets};
use crate::clients::connection::{Received, Service, State};
use crate::clients::failures::Kind;
use crate::clients::socket::{receive, send};
use crate::clients::worker::{Plan, Worker};

/// Events taken from the kernel at once, at most. More would let the first of them wait long for
/// the reaction to the last.
const EVENTS_MAX: usize = 512;

/// The marker of the event that there is news from the main thread.
const WAKE: u64 = u64::MAX;

/// The marker of the timer's event.
const DUE: u64 = u64::MAX - 1;

/// What is waited for, from the connect on. No later event will tell of an end again.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// An epoll instance, and what it told last.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Sockets for Epoll {
    fn new(_plan: &Plan, _conns: usize, wake: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    fn watch_timer(&mut self, timer: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        Ok(epoll::add(&self.epoll, timer, EventData::new_u64(DUE), flags)?)
    }

    fn wait(&mut self, longest: Duration) -> io::Result<bool> {
        self.events.clear();
        // Whole milliseconds, rounded up, are what every kernel's epoll understands.
        let wait_ms = longest.as_nanos().div_ceil(1_000_000) as i64;
        let timeout = Timespec { tv_sec: wait_ms / 1000, tv_nsec: wait_ms % 1000 * 1_000_000 };
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, buffer, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!self.events.is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    fn has_queued(&mut self) -> bool {
        false
    }

    fn handle(worker: &mut Worker<'_, Self>) {
        let events = std::mem::take(&mut worker.sockets.events);
        for event in &events {
            match event.data.u64() {
                WAKE => worker.hear(),
                DUE => worker.on_timer(),
                index => worker.on_event(index as usize, event.flags),
            }
        }
        worker.sockets.events = events;
    }

    fn await_connect(&mut self, index: usize, socket: &Socket) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(index as u64), INTEREST)?)
    }

    /// One send, which takes the whole request unless it is large.
    #[inline]
    fn send(worker: &mut Worker<'_, Self>, index: usize) {
        let connection = &mut worker.connections[index];
        let Some(socket) = &connection.socket else { return };
        match send(socket, connection.unsent(&worker.plan.pattern)) {
            Ok(count) => connection.on_sent(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => worker.fail_io(index, Kind::Send, &error),
        }
    }

    fn look(worker: &mut Worker<'_, Self>, index: usize) {
        if worker.connections[index].state != State::Connecting {
            worker.advance(index, EventFlags::empty());
        }
    }

    fn close(&mut self, _index: usize, socket: Socket) {
        drop(socket);
    }
}

impl Worker<'_, Epoll> {
    /// Handles one event.
    #[inline]
    fn on_event(&mut self, index: usize, flags: EventFlags) {
        match self.connections[index].state {
            State::Exchanging | State::AwaitingEnd => self.advance(index, flags),
            State::Connecting => self.on_connecting(index, flags),
            State::Resting => self.on_resting(index),
            State::New | State::Out => {}
        }
    }

    /// Moves an exchange on as far as it goes.
    fn advance(&mut self, index: usize, flags: EventFlags) {
        let plan = self.plan;
        let (service, pattern) = (plan.service, &plan.pattern);
        loop {
            let connection = &mut self.connections[index];
            let Some(socket) = &connection.socket else { return };

            // A send that was short has asked the kernel for an event when there is room again.
            let unsent = connection.unsent(pattern);
            let sent = match unsent {
                [] => Ok(0),
                _ => send(socket, unsent),
            };
            match sent {
                Ok(count) => connection.on_sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.fail_io(index, Kind::Send, &error),
            }

            let Some(socket) = &connection.socket else { return };
            let room = match connection.state {
                State::AwaitingEnd => 1,
                _ => (connection.owed(service, pattern) + 1).min(self.scratch.len()),
            };
            let count = match receive(socket, &mut self.scratch[..room]) {
                Ok(0) => return self.on_end(index),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.fail_io(index, Kind::Receive, &error),
            };
            if connection.state == State::AwaitingEnd {
                return self.fail_surplus(index, count);
            }
            match connection.on_received(&self.scratch[..count], service, pattern) {
                Received::Part => {
                    if count < room && !flags.intersects(HANGUP) {
                        return;
                    }
                }
                Received::Whole => {
                    self.now = self.control.clock.now();
                    if service == Service::Hi {
                        self.await_end(index);
                        if !flags.intersects(HANGUP) {
                            return;
                        }
                        continue;
                    }
                    self.complete(index, self.now);
                    // The end that came with the reply is not announced again. After the window
                    // it is none of our business.
                    let matters = self.now < self.control.end_ns();
                    if matters && flags.intersects(HANGUP) && self.has_ended(index) {
                        return;
                    }
                    return self.next(index);
                }
                Received::Wrong(mismatch) => return self.fail_wrong(index, mismatch),
                Received::Surplus(count) => return self.fail_surplus(index, count),
            }
        }
    }

    /// Nothing was asked for, so nothing should come.
    fn on_resting(&mut self, index: usize) {
        self.now = self.control.clock.now();
        if self.now < self.control.end_ns() {
            self.has_ended(index);
        }
    }
}
