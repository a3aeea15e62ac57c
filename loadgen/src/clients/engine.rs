//! What a load-generating thread does when a socket is ready: one receive, one send.
//!
//! Sockets are registered once, edge-triggered, for everything. An exchange costs a receive, a
//! send and one reading of the clock: the instant at which a reply is complete is the instant at
//! which the next exchange begins. A receive asks for one byte more than is owed; so a surplus
//! byte is seen, and a receive that got less than it asked for has emptied the socket, which
//! spares the receive that would only say so (epoll(7), question 9).
//!
//! An event belongs to the connection of its index: a batch holds at most one event for each
//! socket, and a socket is closed only by the handling of its own event or between two batches,
//! so no event can meet another socket at its index.

use std::io;

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::clients::connection::{Connection, Received, Service, State};
use crate::clients::failures::Kind;
use crate::clients::failures::in_words;
use crate::clients::socket::{receive, send};
use crate::clients::worker::Worker;

/// What is waited for, from the connect on.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// The server has ended its side, or all is over. No later event will say so again.
const HANGUP: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

impl Worker<'_> {
    /// Begins to open a connection that was not tried yet.
    pub(crate) fn open_connection(&mut self, index: usize) {
        self.tally.attempted += 1;
        self.busy += 1;
        self.opening += 1;
        self.connections[index].opening = true;
        self.connect(index);
    }

    /// Gives a resting connection its next exchange, if there is one.
    pub(crate) fn resume(&mut self, index: usize) {
        if self.connections[index].state == State::Resting {
            self.resting -= 1;
            self.busy += 1;
            self.now = self.control.clock.now();
            self.next(index);
        }
    }

    /// Whether a connection that seems to have waited too long moves on without an event: this
    /// thread may have been kept from handling it.
    pub(crate) fn look_again(&mut self, index: usize) -> bool {
        let before = self.connections[index].progress();
        if before.0 != State::Connecting {
            self.advance(index, EventFlags::empty());
        }
        self.connections[index].progress() != before
    }

    /// The connection no longer takes the place of one being opened.
    pub(crate) fn release_opening(&mut self, index: usize) {
        self.connections[index].opening = false;
        self.opening -= 1;
    }

    /// Takes a connection out of the run and counts why.
    pub(crate) fn fail(
        &mut self,
        index: usize,
        kind: Kind,
        errno: Option<i32>,
        describe: impl FnOnce(&Connection) -> String,
    ) {
        self.next_lap_if_due(self.now);
        self.lap.errors += u64::from(self.now >= self.control.start_ns());
        let connection = &mut self.connections[index];
        let state = std::mem::replace(&mut connection.state, State::Out);
        connection.socket = None;
        let number = self.share.first as usize + index;
        let connection = &self.connections[index];
        self.tally.failures.count(kind, errno, self.now, || {
            format!("connection {number}: {}", describe(connection))
        });
        if state == State::Resting {
            self.resting -= 1;
        } else {
            self.busy -= 1;
            // Another connection does the exchange in its place, unless it had a time of its own.
            if connection.measured && self.share.requests < u64::MAX && self.pacer.is_none() {
                self.quota += 1;
                self.quota_returned = true;
            }
        }
        if self.connections[index].opening {
            self.release_opening(index);
        }
    }

    /// Handles one event.
    #[inline]
    pub(crate) fn on_event(&mut self, index: usize, flags: EventFlags) {
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
                        self.connections[index].replied_ns = self.now;
                        self.connections[index].state = State::AwaitingEnd;
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
                Received::Wrong(mismatch) => {
                    return self.fail(index, Kind::Mismatch, None, |_| {
                        let (at, found, expected) =
                            (mismatch.at, mismatch.found, mismatch.expected);
                        format!("byte {at} of the reply was {found:#04x}, not {expected:#04x}")
                    });
                }
                Received::Surplus(count) => return self.fail_surplus(index, count),
            }
        }
    }

    /// The server sends no more.
    fn on_end(&mut self, index: usize) {
        if self.connections[index].state != State::AwaitingEnd {
            return self.fail(index, Kind::Eof, None, |connection| {
                format!("the server closed after {} bytes of the reply", connection.received())
            });
        }
        self.connections[index].socket = None;
        self.now = self.control.clock.now();
        self.complete(index, self.connections[index].replied_ns);
        self.next(index);
    }

    /// Counts an exchange whose whole reply was here at `replied_ns`.
    ///
    /// The rate counts what ended in the window, wherever it began: as much comes in at its start
    /// as goes out at its end. The latency is of what began in it, however late it ended: else
    /// the longest waits would be the ones left out. An asked number of exchanges is of those that
    /// began in it.
    #[inline]
    fn complete(&mut self, index: usize, replied_ns: u64) {
        self.next_lap_if_due(replied_ns);
        let connection = &mut self.connections[index];
        let latency_ns = replied_ns - connection.since_ns;
        self.tally.total += 1;
        let began_inside = std::mem::take(&mut connection.measured);
        if began_inside {
            self.lap.exchange.saturating_record(latency_ns);
            if let Some(open) = &mut self.lap.open {
                open.response.saturating_record(replied_ns - connection.planned_ns);
            }
        }
        let window = self.control.start_ns()..self.control.end_ns();
        if window.contains(&replied_ns) && (began_inside || self.share.requests == u64::MAX) {
            connection.exchanges += 1;
            self.lap.exchanges += 1;
            self.tally.last_reply_ns = replied_ns;
        }
        if !connection.served {
            connection.served = true;
            self.tally.first_exchange.saturating_record(latency_ns);
            if connection.opening {
                self.release_opening(index);
            }
        }
    }

    /// Gives a connection its next exchange, or rest.
    #[inline]
    fn next(&mut self, index: usize) {
        if self.pacer.is_some() {
            return self.next_planned(index);
        }
        let may_begin = self.looping && self.now < self.control.end_ns();
        let measured = self.now >= self.control.start_ns();
        let connection = &mut self.connections[index];
        if !may_begin || (measured && self.quota == 0) {
            connection.state = State::Resting;
            self.resting += 1;
            self.busy -= 1;
            return;
        }
        connection.measured = measured;
        if measured && self.quota < u64::MAX {
            self.quota -= 1;
        }
        self.begin(index);
    }

    /// Begins an exchange, on a new connection where the service wants one for each.
    #[inline]
    pub(crate) fn begin(&mut self, index: usize) {
        match self.connections[index].socket {
            Some(_) => self.request(index),
            None => self.connect(index),
        }
    }

    /// One send, which takes the whole request unless it is large.
    #[inline]
    fn request(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.begin(self.now);
        if let Some(open) = &mut self.lap.open
            && connection.measured
        {
            open.lateness.saturating_record(self.now - connection.planned_ns);
        }
        let Some(socket) = &connection.socket else { return };
        match send(socket, connection.unsent(&self.plan.pattern)) {
            Ok(count) => connection.on_sent(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.fail_io(index, Kind::Send, &error),
        }
    }

    fn connect(&mut self, index: usize) {
        let number = self.share.first + index as u32;
        let connection = &mut self.connections[index];
        self.now = self.control.clock.now();
        connection.state = State::Connecting;
        connection.since_ns = self.now;
        let registered = self.plan.target.connect(number).and_then(|socket| {
            epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), INTEREST)?;
            Ok(socket)
        });
        match registered {
            Ok(socket) => connection.socket = Some(socket),
            Err(error) => self.fail_io(index, Kind::Connect, &error),
        }
    }

    /// connect(2) has succeeded or failed.
    fn on_connecting(&mut self, index: usize, flags: EventFlags) {
        self.now = self.control.clock.now();
        let connection = &self.connections[index];
        let Some(socket) = &connection.socket else { return };
        if flags.intersects(EventFlags::ERR.union(EventFlags::HUP)) {
            if let Ok(Some(error)) | Err(error) = socket.take_error() {
                return self.fail_io(index, Kind::Connect, &error);
            }
        } else if !flags.contains(EventFlags::OUT) {
            return;
        }
        self.tally.connected += 1;
        self.tally.connect.saturating_record(self.now - connection.since_ns);
        if flags.intersects(HANGUP.union(EventFlags::IN)) && self.has_ended(index) {
            return;
        }
        self.request(index);
    }

    /// Nothing was asked for, so nothing should come.
    fn on_resting(&mut self, index: usize) {
        self.now = self.control.clock.now();
        if self.now < self.control.end_ns() {
            self.has_ended(index);
        }
    }

    /// Whether the server has ended the connection or sent something while nothing is owed;
    /// then it has failed.
    fn has_ended(&mut self, index: usize) -> bool {
        let Some(socket) = &self.connections[index].socket else { return false };
        match receive(socket, &mut self.scratch[..]) {
            Ok(0) => self.fail(index, Kind::Eof, None, |_| {
                "the server closed while nothing was owed".to_owned()
            }),
            Ok(count) => self.fail_surplus(index, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => self.fail_io(index, Kind::Receive, &error),
        }
        true
    }

    fn fail_surplus(&mut self, index: usize, count: usize) {
        self.fail(index, Kind::Surplus, None, |_| {
            format!("{count} bytes more than were asked for")
        });
    }

    #[cold]
    fn fail_io(&mut self, index: usize, kind: Kind, error: &io::Error) {
        self.fail(index, kind, error.raw_os_error(), |_| in_words(error));
    }
}
