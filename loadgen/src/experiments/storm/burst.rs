//! The connections of a burst, from connect to close, in one thread.
//!
//! [`Connection`] keeps the state of an exchange; the system calls are here. While connects are
//! due, events are handled only now and then, so that the connects come as fast as they can.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use lockstep_results::storm::BySyn;
use rustix::event::epoll::EventFlags;

use super::args::Close;
use crate::clients::clock::Clock;
use crate::clients::connection::{Connection, Received, Service, State};
use crate::clients::failures::{Failures, Kind};
use crate::clients::intervals::histogram;
use crate::clients::pattern::Pattern;
use crate::clients::socket::{Target, receive, send};
use crate::experiments::listening::Poller;
use lockstep_sys::errno;
use lockstep_sys::tcp_info::TcpInfo;

/// Interval between two scans for connections that have timed out.
const SCAN_NS: u64 = 50_000_000;

/// Longest time that events wait while connects are due: in a burst, and at a rate, where a thread
/// that is late must not delay the replies as well.
const EVENTS_WAIT_NS: u64 = 50_000_000;
const EVENTS_WAIT_AT_RATE_NS: u64 = 1_000_000;

/// Most bytes received at a time.
const BUFFER: usize = 64 << 10;

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
    by_retrans: BTreeMap<u32, Histogram<u64>>,
    /// Number of connections that had all their exchanges.
    pub(super) completed: u64,
    /// Number of connections with a segment sent again after the connect.
    pub(super) resent: u64,
    pub(super) failures: Failures,
    /// Number of connects.
    pub(super) issued: u64,
    /// Time of the last connect.
    pub(super) issued_ns: u64,
    /// Time of the last close.
    pub(super) over_ns: u64,
}

impl Counts {
    /// The connections by the SYN that connected them, without gaps.
    pub(super) fn by_syn(&self) -> Vec<BySyn> {
        let last = self.by_retrans.keys().last().map_or(0, |last| last + 1);
        let by_syn = (0..last).map(|retrans| {
            let connects = self.by_retrans.get(&retrans);
            BySyn {
                syn: retrans + 1,
                connections: connects.map_or(0, Histogram::len),
                connect_p50_ns: connects.map_or(0, |connects| connects.value_at_quantile(0.5)),
            }
        });
        by_syn.collect()
    }
}

/// A connection of the burst.
#[derive(Debug)]
struct Client {
    connection: Connection,
    /// Segments sent again until it was connected.
    syn_retrans: Option<u32>,
    /// Exchanges still to be made.
    left: u32,
}

/// Failure of a connection: kind, errno, and description.
type Broken = (Kind, Option<i32>, String);

fn broken_io(kind: Kind, error: &io::Error) -> Broken {
    (kind, error.raw_os_error(), errno::text(error))
}

/// The connections while they last.
pub(super) struct Burst<'a> {
    load: &'a Load,
    clock: &'a Clock,
    stop: &'a AtomicBool,
    poller: Poller,
    buffer: Box<[u8]>,
    clients: Vec<Client>,
    /// Number of connections that are not closed.
    open: usize,
    /// All connections before this one are closed.
    oldest: usize,
    next_scan_ns: u64,
    /// Time of the last look at events.
    polled_ns: u64,
    counts: Counts,
}

impl<'a> Burst<'a> {
    /// Prepares the burst; no connection is opened yet.
    ///
    /// # Errors
    ///
    /// `EMFILE` if the process is out of descriptors.
    pub(super) fn new(load: &'a Load, clock: &'a Clock, stop: &'a AtomicBool) -> io::Result<Self> {
        Ok(Self {
            load,
            clock,
            stop,
            poller: Poller::new()?,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            clients: Vec::with_capacity(load.conns as usize),
            open: 0,
            oldest: 0,
            next_scan_ns: 0,
            polled_ns: 0,
            counts: Counts {
                connect: histogram(),
                first_exchange: histogram(),
                exchange: histogram(),
                by_retrans: BTreeMap::new(),
                completed: 0,
                resent: 0,
                failures: Failures::default(),
                issued: 0,
                issued_ns: 0,
                over_ns: 0,
            },
        })
    }

    /// Opens all connections and follows each to its close, until `stop` is set.
    ///
    /// # Errors
    ///
    /// Those of epoll_wait(2). The failure of a connection is counted, not returned.
    pub(super) fn run(mut self) -> io::Result<Counts> {
        let conns = self.load.conns as usize;
        let events_wait_ns = match self.load.interval_ns {
            0.0 => EVENTS_WAIT_NS,
            _ => EVENTS_WAIT_AT_RATE_NS,
        };
        while (self.clients.len() < conns || self.open > 0) && !self.stop.load(Relaxed) {
            let now = self.clock.now();
            let due = (self.clients.len() as f64 * self.load.interval_ns) as u64;
            let due = if self.clients.len() < conns { due } else { u64::MAX };
            if due <= now && now < self.polled_ns + events_wait_ns {
                self.connect(now);
            } else {
                self.poll(due.min(self.next_scan_ns).saturating_sub(now))?;
            }
        }
        self.counts.over_ns = self.clock.now();
        Ok(self.counts)
    }

    fn connect(&mut self, now: u64) {
        let index = self.clients.len();
        let mut connection = Connection::new(index as u32);
        connection.state = State::Connecting;
        connection.since_ns = now;
        self.clients.push(Client { connection, syn_retrans: None, left: self.load.exchanges });
        self.open += 1;
        self.counts.issued += 1;
        self.counts.issued_ns = now;
        let connected = self.load.target.connect(index as u32).and_then(|socket| {
            self.poller.add(&socket, index as u64)?;
            Ok(socket)
        });
        match connected {
            Err(error) => self.fail(index, broken_io(Kind::Connect, &error)),
            Ok(socket) => {
                let established = TcpInfo::of(&socket).is_ok_and(|info| info.established);
                self.clients[index].connection.socket = Some(socket);
                // On the loopback interface the handshake is over before connect(2) returns. The
                // event is handled only once no connect is due.
                if established {
                    self.on_connected(index);
                }
            }
        }
    }

    fn on_connected(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let latency_ns = self.clock.now() - client.connection.since_ns;
        let info = client.connection.socket.as_ref().and_then(|socket| TcpInfo::of(socket).ok());
        let retrans = info.map_or(0, |info| info.total_retrans);
        client.syn_retrans = Some(retrans);
        self.counts.connect.saturating_record(latency_ns);
        let connects = self.counts.by_retrans.entry(retrans).or_insert_with(histogram);
        connects.saturating_record(latency_ns);
    }

    /// Waits for events for up to `wait_ns` and handles them.
    fn poll(&mut self, wait_ns: u64) -> io::Result<()> {
        for (index, flags) in self.poller.wait(Duration::from_nanos(wait_ns))? {
            self.on_event(index as usize, flags);
        }
        let now = self.clock.now();
        self.polled_ns = now;
        if now >= self.next_scan_ns {
            self.next_scan_ns = now + SCAN_NS;
            self.scan(now);
        }
        Ok(())
    }

    fn on_event(&mut self, index: usize, flags: EventFlags) {
        let handled = match self.clients[index].connection.state {
            State::Connecting => self.on_connecting(index, flags),
            State::Exchanging => self.exchange(index),
            _ => Ok(()),
        };
        if let Err(broken) = handled {
            self.fail(index, broken);
        }
    }

    /// Handles the end of connect(2), and begins the first exchange.
    fn on_connecting(&mut self, index: usize, flags: EventFlags) -> Result<(), Broken> {
        let Some(socket) = &self.clients[index].connection.socket else { return Ok(()) };
        if let Ok(Some(error)) | Err(error) = socket.take_error() {
            return Err(broken_io(Kind::Connect, &error));
        }
        if !flags.contains(EventFlags::OUT) {
            return Ok(());
        }
        if self.clients[index].syn_retrans.is_none() {
            self.on_connected(index);
        }
        self.clients[index].connection.begin(self.clock.now());
        self.exchange(index)
    }

    /// Advances the exchanges of a connection until a call would block or it is closed.
    fn exchange(&mut self, index: usize) -> Result<(), Broken> {
        let (pattern, service) = (&self.load.pattern, Service::Echo);
        loop {
            let connection = &mut self.clients[index].connection;
            let Some(socket) = &connection.socket else { return Ok(()) };
            let unsent = connection.unsent(pattern);
            let sent = if unsent.is_empty() { Ok(0) } else { send(socket, unsent) };
            match sent {
                Ok(count) => connection.on_sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(broken_io(Kind::Send, &error)),
            }
            let Some(socket) = &connection.socket else { return Ok(()) };
            // One byte more than owed makes a surplus visible.
            let room = (connection.owed(service, pattern) + 1).min(self.buffer.len());
            let count = match receive(socket, &mut self.buffer[..room]) {
                Ok(0) => {
                    let received = connection.received();
                    let text = format!("the server closed after {received} bytes of the reply");
                    return Err((Kind::Eof, None, text));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(broken_io(Kind::Receive, &error)),
            };
            match connection.on_received(&self.buffer[..count], service, pattern) {
                Received::Part => {}
                Received::Whole => self.complete(index),
                Received::Wrong(wrong) => {
                    let (at, found, expected) = (wrong.at, wrong.found, wrong.expected);
                    let text =
                        format!("byte {at} of the reply was {found:#04x}, not {expected:#04x}");
                    return Err((Kind::Mismatch, None, text));
                }
                Received::Surplus(count) => {
                    let text = format!("{count} bytes more than were asked for");
                    return Err((Kind::Surplus, None, text));
                }
            }
        }
    }

    /// Records a complete exchange, then begins the next one or closes the connection.
    fn complete(&mut self, index: usize) {
        let now = self.clock.now();
        let client = &mut self.clients[index];
        let latency_ns = now - client.connection.since_ns;
        self.counts.exchange.saturating_record(latency_ns);
        if client.left == self.load.exchanges {
            self.counts.first_exchange.saturating_record(latency_ns);
        }
        client.left -= 1;
        if client.left > 0 {
            client.connection.begin(now);
            return;
        }
        if let (Some(socket), Close::Rst) = (&client.connection.socket, self.load.close) {
            // If the option is refused, the close is an ordinary one.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        self.close(index, State::Resting);
        self.counts.completed += 1;
    }

    /// Closes a connection and records whether a segment of its requests was sent again.
    fn close(&mut self, index: usize, state: State) {
        let client = &mut self.clients[index];
        client.connection.state = state;
        self.open -= 1;
        if let (Some(socket), Some(before)) = (client.connection.socket.take(), client.syn_retrans)
        {
            let retrans = TcpInfo::of(&socket).map_or(0, |info| info.total_retrans);
            self.counts.resent += u64::from(retrans > before);
        }
    }

    /// Fails connections whose connect or exchange has timed out.
    fn scan(&mut self, now: u64) {
        let timeout_ns = self.load.timeout.as_nanos() as u64;
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
            // The reply may have arrived in time, and this thread be late.
            self.on_event(index, EventFlags::empty());
            let connection = &self.clients[index].connection;
            if connection.state.is_busy() && connection.progress() == before {
                let timeout = humantime::format_duration(self.load.timeout);
                self.fail(index, (kind, None, format!("{what} within {timeout}")));
            }
        }
    }

    fn fail(&mut self, index: usize, (kind, errno, text): Broken) {
        let now = self.clock.now();
        self.close(index, State::Out);
        self.counts.failures.count(kind, errno, now, || format!("connection {index}: {text}"));
    }
}
