//! What a load-generating thread does with its connections: opening them, exchange after exchange,
//! and what is counted, whichever way the system calls are made.
//!
//! An exchange takes one reading of the clock: the instant at which a reply is complete is the
//! instant at which the next exchange begins. What a connection does next is decided here; how its
//! socket is waited for, written and read, by the implementations of `Sockets`.

mod epoll;
mod uring;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use clap::ValueEnum;
use rustix::event::epoll::EventFlags;
use socket2::Socket;

use crate::clients::connection::{Connection, State};
use crate::clients::failures::Kind;
use crate::clients::pattern::Mismatch;
use crate::clients::socket::receive;
use crate::clients::worker::{Plan, Worker};
use lockstep_sys::errno;

pub(crate) use epoll::Epoll;
pub(crate) use uring::Uring;

/// The system calls with which sockets are waited for, written and read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Engine {
    /// epoll(7), recv(2) and send(2).
    Epoll,
    /// io_uring(7).
    IoUring,
}

impl Engine {
    /// The name in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::IoUring => "io-uring",
        }
    }

    /// The one that costs less: io_uring in a closed loop, if the kernel has it; epoll in an open
    /// loop, where a request has an instant of its own and is not to wait for others.
    pub fn best(open: bool) -> Self {
        if !open && Self::IoUring.probe().is_ok() { Self::IoUring } else { Self::Epoll }
    }

    /// Tries whether this kernel has it.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn probe(self) -> Result<(), String> {
        match self {
            Self::Epoll => Ok(()),
            Self::IoUring => uring::probe(),
        }
    }
}

/// The server has ended its side, or all is over.
const HANGUP: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// How the sockets of one thread are waited for, written and read.
pub(crate) trait Sockets: Sized {
    /// For a thread of so many connections, which `wake` tells of news from the main thread.
    fn new(plan: &Plan, conns: usize, wake: BorrowedFd<'_>) -> io::Result<Self>;

    /// Waits for the pacer's timer, too. It is never read: to set it anew makes an expiration
    /// forgotten.
    fn watch_timer(&mut self, timer: BorrowedFd<'_>) -> io::Result<()>;

    /// Waits for events, at most that long, and says whether there are any.
    fn wait(&mut self, longest: Duration) -> io::Result<bool>;

    /// Whether the next wait sends something first.
    fn has_queued(&mut self) -> bool;

    /// Handles the events that were waited for.
    fn handle(worker: &mut Worker<'_, Self>);

    /// Waits for the end of connect(2), which is told to [`Worker::on_connecting`].
    fn await_connect(&mut self, index: usize, socket: &Socket) -> io::Result<()>;

    /// Sends a request, and from then on receives its reply.
    fn send(worker: &mut Worker<'_, Self>, index: usize);

    /// Handles what has come for a connection that seems to have waited too long: this thread may
    /// have been kept from it.
    fn look(worker: &mut Worker<'_, Self>, index: usize);

    /// Closes the socket of a connection.
    fn close(&mut self, index: usize, socket: Socket);
}

impl<S: Sockets> Worker<'_, S> {
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
        if kind == Kind::Timeout {
            // It took at least as long: without it the longest waits would be in no percentile.
            self.record_latency(index, self.now);
        }
        let connection = &mut self.connections[index];
        let state = std::mem::replace(&mut connection.state, State::Out);
        if let Some(socket) = connection.socket.take() {
            self.sockets.close(index, socket);
        }
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

    /// The server sends no more.
    fn on_end(&mut self, index: usize) {
        if self.connections[index].state != State::AwaitingEnd {
            return self.fail(index, Kind::Eof, None, |connection| {
                format!("the server closed after {} bytes of the reply", connection.received())
            });
        }
        if let Some(socket) = self.connections[index].socket.take() {
            self.sockets.close(index, socket);
        }
        self.now = self.control.clock.now();
        self.complete(index, self.connections[index].replied_ns);
        self.next(index);
    }

    /// The whole reply of a conversation is here; the server is to end it.
    fn await_end(&mut self, index: usize) {
        self.connections[index].replied_ns = self.now;
        self.connections[index].state = State::AwaitingEnd;
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
        self.record_latency(index, replied_ns);
        let connection = &mut self.connections[index];
        let latency_ns = replied_ns - connection.since_ns;
        self.tally.total += 1;
        let began_inside = std::mem::take(&mut connection.measured);
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

    /// Notes how long an exchange took that has begun in the window.
    #[inline]
    fn record_latency(&mut self, index: usize, until_ns: u64) {
        let connection = &self.connections[index];
        if connection.measured {
            self.lap.exchange.saturating_record(until_ns - connection.since_ns);
            if let Some(open) = &mut self.lap.open {
                open.response.saturating_record(until_ns - connection.planned_ns);
            }
        }
    }

    /// Gives a connection its next exchange, or rest.
    #[inline]
    fn next(&mut self, index: usize) {
        if self.pacer.is_some() {
            return self.next_planned(index);
        }
        let sending_ends_ns = self.control.end_ns().min(self.control.turn_end_ns());
        let may_begin = self.looping && self.now < sending_ends_ns;
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

    #[inline]
    fn request(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.begin(self.now);
        if let Some(open) = &mut self.lap.open
            && connection.measured
        {
            open.lateness.saturating_record(self.now - connection.planned_ns);
        }
        S::send(self, index);
    }

    fn connect(&mut self, index: usize) {
        let number = self.share.first + index as u32;
        let connection = &mut self.connections[index];
        self.now = self.control.clock.now();
        connection.state = State::Connecting;
        connection.since_ns = self.now;
        let opened = self.plan.target.connect(number).and_then(|socket| {
            self.sockets.await_connect(index, &socket)?;
            Ok(socket)
        });
        match opened {
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

    /// Whether the server has ended the connection or sent something while nothing is owed;
    /// then it has failed.
    fn has_ended(&mut self, index: usize) -> bool {
        let Some(socket) = &self.connections[index].socket else { return false };
        match receive(socket, &mut self.scratch[..]) {
            Ok(0) => self.fail_unowed(index),
            Ok(count) => self.fail_surplus(index, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => self.fail_io(index, Kind::Receive, &error),
        }
        true
    }

    fn fail_unowed(&mut self, index: usize) {
        self.fail(index, Kind::Eof, None, |_| {
            "the server closed while nothing was owed".to_owned()
        });
    }

    fn fail_wrong(&mut self, index: usize, mismatch: Mismatch) {
        let Mismatch { at, expected, found } = mismatch;
        self.fail(index, Kind::Mismatch, None, |_| {
            format!("byte {at} of the reply was {found:#04x}, not {expected:#04x}")
        });
    }

    fn fail_surplus(&mut self, index: usize, count: usize) {
        self.fail(index, Kind::Surplus, None, |_| {
            format!("{count} bytes more than were asked for")
        });
    }

    #[cold]
    fn fail_io(&mut self, index: usize, kind: Kind, error: &io::Error) {
        self.fail(index, kind, error.raw_os_error(), |_| errno::text(error));
    }
}
