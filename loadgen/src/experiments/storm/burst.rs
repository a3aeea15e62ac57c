//! The connections of a burst, from connect to close, in one thread.
//!
//! The epoll engine moves the exchanges on. While connects are due, events are handled only now and
//! then, so that the connects come as fast as they can.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use lockstep_results::storm::BySyn;

use super::args::Close;
use crate::clients::clock::Clock;
use crate::clients::connection::{Connection, Service, State};
use crate::clients::engine::Epoll;
use crate::clients::engine::driver::{Driver, EVENTS_MAX, End, Event};
use crate::clients::failures::{Failures, Kind};
use crate::clients::intervals::histogram;
use crate::clients::pattern::Pattern;
use crate::clients::socket::Target;
use crate::machine::ports;
use lockstep_sys::tcp::TcpInfo;

/// Interval between two scans for connections that have timed out.
const SCAN_NS: u64 = 50_000_000;

/// Longest time that events wait while connects are due: in a burst, and at a rate, where a thread
/// that is late must not delay the replies as well.
const EVENTS_WAIT_NS: u64 = 50_000_000;
const EVENTS_WAIT_AT_RATE_NS: u64 = 1_000_000;

/// The load of a burst.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) target: Target,
    pub(super) pattern: Pattern,
    pub(super) conns: u32,
    /// Nanoseconds between two connects; zero for as fast as possible.
    pub(super) interval_ns: f64,
    pub(super) exchanges: u32,
    pub(super) close: Close,
    pub(super) timeout: Duration,
}

/// Results of a burst.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) connect: Histogram<u64>,
    pub(super) first_exchange: Histogram<u64>,
    pub(super) exchange: Histogram<u64>,
    /// Duration of connects, by the number of SYNs sent again.
    by_retrans: Vec<Histogram<u64>>,
    /// Number of connections that had all their exchanges.
    pub(super) completed: u64,
    /// Number of connections with a segment sent again after the connect.
    pub(super) resent: u64,
    pub(super) failures: Failures,
    /// Number of connects.
    pub(super) issued: u64,
    /// True if no port was free for the last of them.
    pub(super) ran_out: bool,
    /// Time of the last connect.
    pub(super) issued_ns: u64,
    /// Time of the last close.
    pub(super) over_ns: u64,
}

impl Counts {
    /// The connections by the SYN that connected them, without gaps.
    pub(super) fn by_syn(&self) -> Vec<BySyn> {
        let by_syn = (1..).zip(&self.by_retrans).map(|(syn, connects)| BySyn {
            syn,
            connections: connects.len(),
            connect_p50_ns: connects.value_at_quantile(0.5),
        });
        by_syn.collect()
    }
}

/// The connections while they last.
pub(super) struct Burst<'a> {
    load: &'a Load,
    clock: &'a Clock,
    stop: &'a AtomicBool,
    driver: Epoll<'a>,
    connections: Vec<Connection>,
    /// Segments that each connection had sent again when it was established.
    syn_retrans: Vec<Option<u32>>,
    /// Number of connections that are not closed.
    open: usize,
    /// All connections before this one are closed.
    oldest: usize,
    next_scan_ns: u64,
    /// Time of the last wait for events.
    polled_ns: u64,
    counts: Counts,
}

impl<'a> Burst<'a> {
    /// Prepares the burst; no connection is opened yet. `wake` ends a wait after `stop` was set.
    ///
    /// # Errors
    ///
    /// `EMFILE` if the process is out of descriptors.
    pub(super) fn new(
        load: &'a Load,
        clock: &'a Clock,
        stop: &'a AtomicBool,
        wake: BorrowedFd<'a>,
    ) -> io::Result<Self> {
        let conns = load.conns as usize;
        Ok(Self {
            load,
            clock,
            stop,
            driver: Epoll::new(conns, Service::Echo, &load.pattern, wake)?,
            connections: Vec::with_capacity(conns),
            syn_retrans: vec![None; conns],
            open: 0,
            oldest: 0,
            next_scan_ns: 0,
            polled_ns: 0,
            counts: Counts {
                connect: histogram(),
                first_exchange: histogram(),
                exchange: histogram(),
                by_retrans: Vec::new(),
                completed: 0,
                resent: 0,
                failures: Failures::default(),
                issued: 0,
                ran_out: false,
                issued_ns: 0,
                over_ns: 0,
            },
        })
    }

    /// Opens all connections, as long as there are ports, and follows each to its close, until
    /// `stop` is set.
    ///
    /// # Errors
    ///
    /// Those of epoll_wait(2). The failure of a connection is counted, not returned.
    pub(super) fn run(mut self) -> io::Result<Counts> {
        let mut conns = self.load.conns as usize;
        let events_wait_ns = match self.load.interval_ns {
            0.0 => EVENTS_WAIT_NS,
            _ => EVENTS_WAIT_AT_RATE_NS,
        };
        while (self.connections.len() < conns || self.open > 0) && !self.stop.load(Relaxed) {
            let now = self.clock.now();
            let due = (self.connections.len() as f64 * self.load.interval_ns) as u64;
            let due = if self.connections.len() < conns { due } else { u64::MAX };
            if due <= now && now < self.polled_ns + events_wait_ns {
                self.connect();
                if self.counts.ran_out {
                    conns = self.connections.len();
                }
            } else {
                self.poll(due.min(self.next_scan_ns).saturating_sub(now))?;
            }
        }
        self.counts.over_ns = self.clock.now();
        Ok(self.counts)
    }

    fn connect(&mut self) {
        let index = self.connections.len();
        let opened = self.load.target.open(index as u32);
        let now = self.clock.now();
        let mut connection = Connection::new(index as u32);
        connection.state = State::Connecting;
        connection.since_ns = now;
        self.open += 1;
        self.counts.issued += 1;
        self.counts.issued_ns = now;
        let connected = opened.and_then(|socket| {
            self.load.target.connect(&socket)?;
            self.driver.connect(index, &socket)?;
            Ok(socket)
        });
        let failure = match connected {
            Ok(socket) => {
                connection.socket = Some(socket);
                None
            }
            Err(error) => {
                self.counts.ran_out = ports::ran_out(&error);
                Some(End::Failed(Kind::Connect, error))
            }
        };
        self.connections.push(connection);
        // On the loopback interface the handshake is over before connect(2) returns. The event is
        // handled only once no connect is due.
        match failure {
            Some(end) => self.fail(index, &end),
            None if self.tcp_info(index).is_some_and(|info| info.established) => {
                self.note_connected(index);
            }
            None => {}
        }
    }

    fn tcp_info(&self, index: usize) -> Option<TcpInfo> {
        let socket = self.connections[index].socket.as_ref()?;
        TcpInfo::of(socket).ok()
    }

    /// Counts a successful connect, at most once.
    fn note_connected(&mut self, index: usize) {
        if self.syn_retrans[index].is_some() {
            return;
        }
        let latency_ns = self.clock.now() - self.connections[index].since_ns;
        let retrans = self.tcp_info(index).map_or(0, |info| info.total_retrans);
        self.syn_retrans[index] = Some(retrans);
        self.counts.connect.saturating_record(latency_ns);
        let by_retrans = &mut self.counts.by_retrans;
        by_retrans.resize_with(by_retrans.len().max(retrans as usize + 1), histogram);
        by_retrans[retrans as usize].saturating_record(latency_ns);
    }

    /// Waits for events for up to `wait_ns` and handles them.
    fn poll(&mut self, wait_ns: u64) -> io::Result<()> {
        self.driver.wait(Duration::from_nanos(wait_ns))?;
        self.handle_events();
        self.polled_ns = self.clock.now();
        if self.polled_ns >= self.next_scan_ns {
            self.next_scan_ns = self.polled_ns + SCAN_NS;
            self.scan(self.polled_ns)?;
        }
        Ok(())
    }

    fn handle_events(&mut self) {
        while let Some((index, event)) = self.driver.next_event(&mut self.connections) {
            match event {
                Event::Connected(end) => {
                    self.note_connected(index);
                    match end {
                        Some(end) => self.fail(index, &end),
                        None => self.send_request(index),
                    }
                }
                Event::Replied(end) => self.on_reply(index, end),
                Event::Ended(end) => self.fail(index, &end),
            }
        }
    }

    fn send_request(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.begin(self.clock.now());
        if let Err(error) = self.driver.send(index, connection) {
            self.fail(index, &End::Failed(Kind::Send, error));
        }
    }

    /// Counts an exchange, then begins the next one or closes the connection.
    fn on_reply(&mut self, index: usize, end: Option<End>) {
        let connection = &mut self.connections[index];
        let latency_ns = self.clock.now() - connection.since_ns;
        self.counts.exchange.saturating_record(latency_ns);
        if connection.exchanges == 0 {
            self.counts.first_exchange.saturating_record(latency_ns);
        }
        connection.exchanges += 1;
        if connection.exchanges < self.load.exchanges.into() {
            connection.state = State::Resting;
            return match end {
                Some(end) => self.fail(index, &end),
                None => self.send_request(index),
            };
        }
        if let (Some(socket), Close::Rst) = (&connection.socket, self.load.close) {
            // If the option is refused, the close is an ordinary one.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        self.counts.completed += 1;
        self.close(index);
    }

    /// Closes a connection and records whether a segment of its requests was sent again.
    fn close(&mut self, index: usize) {
        let info = self.tcp_info(index);
        if let (Some(info), Some(before)) = (info, self.syn_retrans[index]) {
            self.counts.resent += u64::from(info.total_retrans > before);
        }
        self.connections[index].state = State::Out;
        if let Some(socket) = self.connections[index].socket.take() {
            self.driver.close(index, socket);
        }
        self.open -= 1;
    }

    /// Fails connections whose connect or exchange has timed out.
    fn scan(&mut self, now: u64) -> io::Result<()> {
        let is_over = |connection: &&Connection| !connection.state.is_busy();
        self.oldest += self.connections[self.oldest..].iter().take_while(is_over).count();
        let timeout_ns = self.load.timeout.as_nanos() as u64;
        let is_late = |connection: &Connection| {
            connection.state.is_busy() && now.saturating_sub(connection.since_ns) >= timeout_ns
        };
        if !self.connections[self.oldest..].iter().any(is_late) {
            return Ok(());
        }
        // Replies that have arrived by now are late because of this thread.
        for _ in 0..=self.connections.len() / EVENTS_MAX {
            self.driver.wait(Duration::ZERO)?;
            self.handle_events();
        }
        for index in self.oldest..self.connections.len() {
            if is_late(&self.connections[index]) {
                self.fail(index, &End::TimedOut(self.load.timeout));
            }
        }
        Ok(())
    }

    fn fail(&mut self, index: usize, end: &End) {
        let connection = &self.connections[index];
        let (kind, errno) = (end.kind(connection.state), end.errno());
        self.counts.failures.count(kind, errno, self.clock.now(), || {
            format!("connection {index}: {}", end.describe(connection))
        });
        self.close(index);
    }
}
