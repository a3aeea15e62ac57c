//! The connections of a storm, from their connects to their closes: one thread.
//!
//! What a connection has sent and is owed is kept by [`Connection`]; here are the system calls.
//! While connects are due, little else is looked at: that is what makes it a storm.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use lockstep_results::storm::BySyn;
use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::Socket;

use super::args::Close;
use crate::clients::clock::Clock;
use crate::clients::connection::{Connection, Received, Service, State};
use crate::clients::failures::{Failures, Kind};
use crate::clients::pattern::Pattern;
use crate::clients::socket::{Target, receive, send};
use crate::clients::tally::histogram;
use lockstep_sys::errno;
use lockstep_sys::tcp_info::TcpInfo;

/// What is waited for.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// Events taken at a time.
const EVENTS: usize = 512;

/// How often connections are looked at for their age, and for a signal.
const SCAN_NS: u64 = 50_000_000;

/// How long events may wait for connects that are due: in a storm all at once, and at a rate, where
/// a thread that is behind must not let the replies wait as well.
const EVENTS_WAIT_NS: u64 = 50_000_000;
const EVENTS_WAIT_AT_RATE_NS: u64 = 1_000_000;

/// What a receive can take at once, at most.
const SCRATCH: usize = 64 << 10;

/// What the connections are to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) pattern: Pattern,
    pub(super) conns: u32,
    /// Between two connects, nanoseconds; zero is all at once.
    pub(super) interval_ns: f64,
    pub(super) exchanges: u32,
    pub(super) close: Close,
    pub(super) timeout: Duration,
}

/// What came of them.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) connect: Histogram<u64>,
    pub(super) first_exchange: Histogram<u64>,
    pub(super) exchange: Histogram<u64>,
    /// How long connects took, by SYNs sent again.
    by_retrans: BTreeMap<u32, Histogram<u64>>,
    pub(super) tried: u64,
    pub(super) connected: u64,
    pub(super) completed: u64,
    pub(super) resent: u64,
    pub(super) failures: Failures,
    /// When the last connect was issued.
    pub(super) issued_ns: u64,
    /// When the last connection was closed.
    pub(super) over_ns: u64,
}

impl Tally {
    fn new() -> Self {
        Self {
            connect: histogram(),
            first_exchange: histogram(),
            exchange: histogram(),
            by_retrans: BTreeMap::new(),
            tried: 0,
            connected: 0,
            completed: 0,
            resent: 0,
            failures: Failures::default(),
            issued_ns: 0,
            over_ns: 0,
        }
    }

    /// The connections by the SYN that connected them, without gaps.
    pub(super) fn by_syn(&self) -> Vec<BySyn> {
        let last = self.by_retrans.keys().last().map_or(0, |last| last + 1);
        let by_syn = (0..last).map(|retrans| match self.by_retrans.get(&retrans) {
            Some(connects) => BySyn {
                syn: retrans + 1,
                connections: connects.len(),
                connect_p50_ns: connects.value_at_quantile(0.5),
            },
            None => BySyn { syn: retrans + 1, connections: 0, connect_p50_ns: 0 },
        });
        by_syn.collect()
    }
}

/// A connection of the storm.
#[derive(Debug)]
struct Client {
    connection: Connection,
    /// SYNs sent again, once it is connected.
    connected: Option<u32>,
    /// Exchanges still to be made.
    left: u32,
}

/// The connections while they last.
pub(super) struct Wave<'a> {
    plan: &'a Plan,
    clock: &'a Clock,
    stop: &'a AtomicBool,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    scratch: Box<[u8]>,
    clients: Vec<Client>,
    open: usize,
    /// All before it are over.
    oldest: usize,
    next_scan_ns: u64,
    /// When events were looked at last.
    looked_ns: u64,
    tally: Tally,
}

impl<'a> Wave<'a> {
    /// Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When there is no epoll instance.
    pub(super) fn new(plan: &'a Plan, clock: &'a Clock, stop: &'a AtomicBool) -> io::Result<Self> {
        Ok(Self {
            plan,
            clock,
            stop,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            clients: Vec::with_capacity(plan.conns as usize),
            open: 0,
            oldest: 0,
            next_scan_ns: 0,
            looked_ns: 0,
            tally: Tally::new(),
        })
    }

    /// Makes all connections and follows each to its end, or until it is to stop.
    ///
    /// # Errors
    ///
    /// When events cannot be waited for. A connection's trouble is counted, not returned.
    pub(super) fn run(mut self) -> io::Result<Tally> {
        let conns = self.plan.conns as usize;
        let events_wait_ns = match self.plan.interval_ns {
            0.0 => EVENTS_WAIT_NS,
            _ => EVENTS_WAIT_AT_RATE_NS,
        };
        while (self.clients.len() < conns || self.open > 0) && !self.stop.load(Relaxed) {
            let now = self.clock.now();
            let due = (self.clients.len() as f64 * self.plan.interval_ns) as u64;
            let due = if self.clients.len() < conns { due } else { u64::MAX };
            if due <= now && now < self.looked_ns + events_wait_ns {
                self.connect(now);
            } else {
                self.turn(due.min(self.next_scan_ns).saturating_sub(now))?;
            }
        }
        self.tally.over_ns = self.clock.now();
        Ok(self.tally)
    }

    fn connect(&mut self, now: u64) {
        let index = self.clients.len();
        let mut connection = Connection::new(index as u32);
        connection.state = State::Connecting;
        connection.since_ns = now;
        self.clients.push(Client { connection, connected: None, left: self.plan.exchanges });
        self.open += 1;
        self.tally.tried += 1;
        self.tally.issued_ns = now;
        let connected = self.plan.target.connect(index as u32).and_then(|socket| {
            epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), INTEREST)?;
            Ok(socket)
        });
        match connected {
            Err(error) => self.fail_io(index, Kind::Connect, &error),
            Ok(socket) => {
                // On the loopback interface the handshake is over before connect(2) returns. That
                // is seen now; the event will only be looked at when there are no more connects.
                if TcpInfo::of(&socket).is_ok_and(|info| info.established) {
                    self.note_connected(index, &socket);
                }
                self.clients[index].connection.socket = Some(socket);
            }
        }
    }

    fn note_connected(&mut self, index: usize, socket: &Socket) {
        let latency_ns = self.clock.now() - self.clients[index].connection.since_ns;
        let retrans = TcpInfo::of(socket).map_or(0, |info| info.total_retrans);
        self.clients[index].connected = Some(retrans);
        self.tally.connected += 1;
        self.tally.connect.saturating_record(latency_ns);
        let connects = self.tally.by_retrans.entry(retrans).or_insert_with(histogram);
        connects.saturating_record(latency_ns);
    }

    /// Waits for events, at most that long, and handles them.
    fn turn(&mut self, wait_ns: u64) -> io::Result<()> {
        // Whole milliseconds, rounded up, are what every kernel's epoll understands.
        let wait_ms = wait_ns.div_ceil(1_000_000) as i64;
        let timeout =
            rustix::time::Timespec { tv_sec: wait_ms / 1000, tv_nsec: wait_ms % 1000 * 1_000_000 };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))
        {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            self.on_event(event.data.u64() as usize, event.flags);
        }
        self.events = events;
        let now = self.clock.now();
        self.looked_ns = now;
        if now >= self.next_scan_ns {
            self.next_scan_ns = now + SCAN_NS;
            self.scan(now);
        }
        Ok(())
    }

    fn on_event(&mut self, index: usize, flags: EventFlags) {
        if self.clients[index].connection.state == State::Connecting {
            self.on_connecting(index, flags);
        }
        if self.clients[index].connection.state == State::Exchanging {
            self.advance(index);
        }
    }

    /// connect(2) has succeeded or failed.
    fn on_connecting(&mut self, index: usize, flags: EventFlags) {
        let Some(socket) = self.clients[index].connection.socket.take() else { return };
        match socket.take_error() {
            Ok(Some(error)) | Err(error) => return self.fail_io(index, Kind::Connect, &error),
            Ok(None) if flags.contains(EventFlags::OUT) => {
                if self.clients[index].connected.is_none() {
                    self.note_connected(index, &socket);
                }
                self.clients[index].connection.begin(self.clock.now());
            }
            Ok(None) => {}
        }
        self.clients[index].connection.socket = Some(socket);
    }

    /// Moves the exchanges on as far as they go.
    fn advance(&mut self, index: usize) {
        let (plan, service) = (self.plan, Service::Echo);
        loop {
            let connection = &mut self.clients[index].connection;
            let Some(socket) = &connection.socket else { return };
            let unsent = connection.unsent(&plan.pattern);
            let sent = if unsent.is_empty() { Ok(0) } else { send(socket, unsent) };
            match sent {
                Ok(count) => connection.on_sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.fail_io(index, Kind::Send, &error),
            }
            let Some(socket) = &connection.socket else { return };
            let room = (connection.owed(service, &plan.pattern) + 1).min(self.scratch.len());
            let count = match receive(socket, &mut self.scratch[..room]) {
                Ok(0) => {
                    return self.fail(index, Kind::Eof, None, |connection| {
                        let received = connection.received();
                        format!("the server closed after {received} bytes of the reply")
                    });
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.fail_io(index, Kind::Receive, &error),
            };
            match connection.on_received(&self.scratch[..count], service, &plan.pattern) {
                Received::Part => {}
                Received::Whole => {
                    if self.complete(index) {
                        return;
                    }
                }
                Received::Wrong(mismatch) => {
                    return self.fail(index, Kind::Mismatch, None, |_| {
                        let (at, found, expected) =
                            (mismatch.at, mismatch.found, mismatch.expected);
                        format!("byte {at} of the reply was {found:#04x}, not {expected:#04x}")
                    });
                }
                Received::Surplus(count) => {
                    return self.fail(index, Kind::Surplus, None, |_| {
                        format!("{count} bytes more than were asked for")
                    });
                }
            }
        }
    }

    /// An exchange is complete: begins the next, or closes. Whether it was the last.
    fn complete(&mut self, index: usize) -> bool {
        let now = self.clock.now();
        let client = &mut self.clients[index];
        let latency_ns = now - client.connection.since_ns;
        self.tally.exchange.saturating_record(latency_ns);
        if client.left == self.plan.exchanges {
            self.tally.first_exchange.saturating_record(latency_ns);
        }
        client.left -= 1;
        if client.left > 0 {
            client.connection.begin(now);
            return false;
        }
        if let (Some(socket), Close::Rst) = (&client.connection.socket, self.plan.close) {
            // Where it is refused, the connection is closed in order.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        self.close(index, State::Resting);
        self.tally.completed += 1;
        true
    }

    /// Closes a connection for good, and notes whether a request of it was sent again.
    fn close(&mut self, index: usize, state: State) {
        let client = &mut self.clients[index];
        client.connection.state = state;
        self.open -= 1;
        if let (Some(socket), Some(before)) = (client.connection.socket.take(), client.connected) {
            let again = TcpInfo::of(&socket).map_or(0, |info| info.total_retrans);
            self.tally.resent += u64::from(again > before);
        }
    }

    /// Ends what has taken too long.
    fn scan(&mut self, now: u64) {
        let timeout_ns = self.plan.timeout.as_nanos() as u64;
        let over = |client: &&Client| !client.connection.state.is_busy();
        self.oldest += self.clients[self.oldest..].iter().take_while(over).count();
        for index in self.oldest..self.clients.len() {
            let connection = &self.clients[index].connection;
            if !connection.state.is_busy() || now.saturating_sub(connection.since_ns) < timeout_ns {
                continue;
            }
            let before = connection.progress();
            let (kind, what) = match connection.state {
                State::Connecting => (Kind::Connect, "not established"),
                _ => (Kind::Timeout, "connected, but no whole reply"),
            };
            // The reply may be here, and we be late, not the server.
            self.on_event(index, EventFlags::empty());
            let connection = &self.clients[index].connection;
            if connection.state.is_busy() && connection.progress() == before {
                let timeout = humantime::format_duration(self.plan.timeout);
                self.fail(index, kind, None, |_| format!("{what} within {timeout}"));
            }
        }
    }

    fn fail_io(&mut self, index: usize, kind: Kind, error: &io::Error) {
        self.fail(index, kind, error.raw_os_error(), |_| errno::text(error));
    }

    fn fail(
        &mut self,
        index: usize,
        kind: Kind,
        errno: Option<i32>,
        describe: impl FnOnce(&Connection) -> String,
    ) {
        let now = self.clock.now();
        self.close(index, State::Out);
        let connection = &self.clients[index].connection;
        self.tally
            .failures
            .count(kind, errno, now, || format!("connection {index}: {}", describe(connection)));
    }
}
