//! The `mio` backend: one epoll instance per shard, edge-triggered, each socket registered once.
//!
//! An iteration of the loop waits for events and runs each ready connection for a bounded number of
//! system calls; connections that used up their bound are run again in the next iteration, which
//! then does not wait. In lockstep an event costs one receive and one send: a receive that
//! returned less than it asked for has emptied the socket, so no second one follows, and the send
//! is tried immediately, without waiting until the socket is writable.
//!
//! A receive asks for twice the longest request, so that even that one leaves space. If a client
//! pipelines, the receive also takes the next request, which is buffered until the first has been
//! answered.
//!
//! All connections of a shard share one scratch buffer. A connection keeps memory only for the part
//! of a reply that the socket did not take, and for the requests buffered behind it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Service};
use lockstep_sys::busy_poll::BusyPoll;
use lockstep_sys::errno::is_exhaustion;
use mio::event::{Event, Source};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::accept::{Accepted, Acceptor};
use crate::deadlines::Deadlines;
use crate::drive::{Discarded, Driven, LINGER, discard, drive, lingers};
use crate::scratch::Scratch;
use crate::slots::{Key, Slots};
use crate::stop::WAIT_RETRY;
use crate::trace::{NONE, NoTrace, Trace, Traced};
use crate::{Backend, Options, Publisher, ServiceFactory, Shard, Stats, Stop, Unsupported};

/// The backend; it has no tuning.
#[derive(Clone, Copy, Debug)]
pub struct Mio;

/// Events taken from the kernel in one iteration.
const EVENTS: usize = 512;

/// Requests and sends of one connection in one iteration: four exchanges.
const BUDGET: u32 = 8;

/// Bytes that a receive asks for: more than a request may have.
const ROOM: usize = 2 * RECV_MAX;

/// Connections accepted in one iteration.
const ACCEPTS: usize = 64;

/// Receives of a lingering connection in one iteration.
const DISCARDS: u32 = 16;

const LISTENER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);

impl Backend for Mio {
    fn name(&self) -> &'static str {
        "mio"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["epoll"]
    }

    fn probe(&self, _shards: usize) -> Result<String, Unsupported> {
        match Poll::new() {
            Ok(_) => Ok("epoll, edge-triggered".to_owned()),
            Err(error) => Err(no_epoll(&error)),
        }
    }

    fn default_shards(&self, cpus: usize) -> usize {
        cpus
    }

    fn can_busy_poll(&self) -> bool {
        true
    }

    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats> {
        match shard.tracer {
            None => Loop::serve(shard, NoTrace),
            tracer => Loop::serve(shard, tracer),
        }
    }
}

struct Connection {
    stream: TcpStream,
    exchange: Exchange,
    service: Box<dyn Service>,
    state: State,
    /// True if a short receive no longer proves that the socket is empty. Either the client's FIN
    /// or an error was announced, and only further receives show which; or urgent data was, at
    /// which a receive stops in the middle of the stream (tcp(7)).
    read_on: bool,
    /// True if the connection is in `ready`.
    queued: bool,
    /// The unsent part of a reply and the requests buffered behind it.
    unsent: Option<Box<[u8]>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Conversing,
    /// The exchange has ended and is counted; the client has not closed yet.
    Lingering,
}

struct Loop<'a, T> {
    poll: Poll,
    acceptor: Acceptor<'a>,
    options: &'a Options,
    stop: &'a Stop,
    service: &'a ServiceFactory,
    trace: T,
    connections: Slots<Connection>,
    scratch: Scratch<ROOM>,
    /// Connections to run in the next iteration, without waiting for an event.
    ready: VecDeque<Key>,
    /// True if connections may be in the listen queue.
    acceptable: bool,
    busy_poll: BusyPoll,
    idle: Deadlines,
    lingering: Deadlines,
    stats: Stats,
    publisher: Publisher<'a>,
}

impl<'a, T: Trace> Loop<'a, T> {
    fn serve(shard: Shard<'a>, trace: T) -> io::Result<Stats> {
        let ready = shard.ready;
        let this = Self::new(shard, trace)?;
        ready()?;
        this.run()
    }

    fn new(shard: Shard<'a>, trace: T) -> io::Result<Self> {
        let Shard { listener, options, stop, limit, service, published, .. } = shard;
        let new = format_args!("epoll_create1(EPOLL_CLOEXEC)");
        let poll = trace.call_for(NONE, new, Poll::new, AsRawFd::as_raw_fd);
        let poll = poll.map_err(|error| io::Error::other(no_epoll(&error)))?;
        let acceptor = Acceptor::new(listener, (options, limit, stop), trace)?;
        let fd = acceptor.listener().expect("not closed yet").as_raw_fd();
        let stop_fd = stop.as_fd().as_raw_fd();
        register(&poll, &mut SourceFd(&fd), fd, LISTENER, Interest::READABLE, trace)?;
        register(&poll, &mut SourceFd(&stop_fd), stop_fd, STOP, Interest::READABLE, trace)?;
        Ok(Self {
            poll,
            acceptor,
            options,
            stop,
            service,
            trace,
            connections: Slots::new(),
            scratch: Scratch::new(),
            ready: VecDeque::new(),
            acceptable: false,
            busy_poll: BusyPoll::new(options.spin),
            idle: Deadlines::new(options.idle_timeout),
            lingering: Deadlines::new(Some(LINGER)),
            stats: Stats::new(),
            publisher: Publisher::new(published),
        })
    }

    fn run(mut self) -> io::Result<Stats> {
        let mut events = Events::with_capacity(EVENTS);
        while self.acceptor.listener().is_some() || self.connections.len() > 0 {
            self.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    LISTENER => self.acceptable = true,
                    STOP => self.drain(),
                    Token(packed) => {
                        self.on_event(Key::unpack(packed as u64), event);
                    }
                }
            }
            self.run_ready();
            self.expire();
            self.accept(ACCEPTS);
        }
        self.stats.spun_us = self.busy_poll.spun.as_micros() as u64;
        self.acceptor.into_error().map_or(Ok(self.stats), Err)
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        self.publisher.publish(&self.stats);
        let timeout = if !self.ready.is_empty() || self.may_accept() {
            Some(Duration::ZERO)
        } else if self.busy_poll.is_enabled() && self.busy_poll(events)? {
            return Ok(());
        } else {
            // mio rounds up to whole milliseconds, so no wait ends just before the deadline.
            self.deadline().map(|at| at.saturating_duration_since(Instant::now()))
        };
        self.stats.syscalls += 1;
        let span = self.trace.begin(NONE);
        let polled = self.poll.poll(events, timeout);
        if let Some(span) = span {
            let timeout = timeout.map_or("no timeout".to_owned(), |it| format!("{it:.1?}"));
            let call = format_args!("epoll_wait({}, {timeout})", self.poll.as_raw_fd());
            span.returned(call, polled.as_ref().map(|()| EventCount(events)));
        }
        polled.or_else(|error| self.on_wait_error(error))
    }

    /// A wait that a signal has interrupted has found nothing; one without memory is tried again.
    #[cold]
    fn on_wait_error(&mut self, error: io::Error) -> io::Result<()> {
        if is_exhaustion(&error) {
            thread::sleep(WAIT_RETRY);
            if self.stop.is_draining() {
                self.drain(); // its event has not come
            }
        } else if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
        Ok(())
    }

    /// Busy-polls for a while; returns true if there were events. Traced as one call.
    #[cold]
    fn busy_poll(&mut self, events: &mut Events) -> io::Result<bool> {
        let until_deadline = |at: Instant| at.saturating_duration_since(Instant::now());
        let longest = self.deadline().map_or(Duration::MAX, until_deadline);
        let Some(mut attempt) = self.busy_poll.begin(longest) else { return Ok(false) };
        let trace = self.trace;
        let span = trace.begin(NONE);
        let mut calls = 0;
        loop {
            let polled = self.poll.poll(events, Some(Duration::ZERO));
            calls += 1;
            let failed = polled.is_err();
            polled.or_else(|error| self.on_wait_error(error))?;
            if failed || !events.is_empty() || attempt.is_over() {
                break;
            }
        }
        self.stats.syscalls += calls;
        if let Some(span) = span {
            let call = format_args!("epoll_wait({}, 0ns), {calls} times", self.poll.as_raw_fd());
            span.returned(call, Ok(EventCount(events)));
        }
        self.busy_poll.end(attempt, !events.is_empty());
        Ok(!events.is_empty())
    }

    fn deadline(&self) -> Option<Instant> {
        let accept = self.acceptor.delayed_until().filter(|_| self.acceptable);
        [accept, self.idle.next(), self.lingering.next(), self.stop.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn on_event(&mut self, key: Key, event: &Event) {
        // An event of this batch can be for a connection closed earlier in it.
        let Some(connection) = self.connections.get_mut(key) else { return };
        let read_on = event.is_read_closed() || event.is_error() || event.is_priority();
        connection.read_on |= read_on;
        // The first event often reports only that the socket is writable, which has no effect on a
        // connection that waits for a request.
        let of_use = event.is_readable() || read_on || connection.exchange.op() != Op::Recv;
        if of_use && !connection.queued {
            self.run_connection(key);
        }
    }

    /// Runs the connections left over by the last iteration, each once.
    fn run_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.queued = false;
            self.run_connection(key);
        }
    }

    #[inline]
    fn run_connection(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.state == State::Lingering {
            return self.linger(key);
        }
        let Connection { stream, exchange, service, read_on, unsent, .. } = connection;
        let (scratch, stats) = (&mut self.scratch, &mut self.stats);
        scratch.put_back(exchange, unsent.take());
        let moved = stats.bytes_moved();
        let socket = &mut Traced { socket: stream, trace: self.trace };
        let driven = drive(exchange, &mut **service, socket, scratch, stats, BUDGET, !*read_on);
        match driven {
            Driven::Drained => {}
            Driven::Blocked => *unsent = scratch.take_out(exchange),
            Driven::Yielded | Driven::Interrupted => {
                *unsent = scratch.take_out(exchange);
                connection.queued = true;
                self.ready.push_back(key);
            }
            Driven::Closed(cause) => return self.end(key, cause),
        }
        if self.stats.bytes_moved() != moved {
            self.idle.start(key.index);
        }
    }

    /// True if there may be a connection to accept, and accepting is not delayed.
    fn may_accept(&self) -> bool {
        self.acceptable && self.acceptor.delayed_until().is_none()
    }

    /// Accepts at most `bound` connections; the rest is left for the next iteration.
    fn accept(&mut self, bound: usize) {
        self.acceptor.expire();
        if let (true, Some(listener)) = (self.may_accept(), self.acceptor.listener()) {
            self.stats.observe_queue(listener, self.trace.tracer());
        }
        for _ in 0..bound {
            if !self.may_accept() {
                return;
            }
            match self.acceptor.accept(&mut self.stats, self.trace) {
                Accepted::Connection(stream) => self.open(TcpStream::from_std(stream)),
                Accepted::Empty => self.acceptable = false,
                Accepted::Delayed => return,
                Accepted::Failed => {}
            }
        }
    }

    fn open(&mut self, stream: TcpStream) {
        let service = self.service.make(&stream);
        let key = self.connections.insert(Connection {
            stream,
            exchange: Exchange::new(),
            service,
            state: State::Conversing,
            read_on: false,
            queued: false,
            unsent: None,
        });
        let Some(connection) = self.connections.get_mut(key) else { unreachable!("inserted") };
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let token = Token(key.pack() as usize);
        let (fd, stream) = (connection.stream.as_raw_fd(), &mut connection.stream);
        self.stats.syscalls += 1;
        if let Err(error) = register(&self.poll, stream, fd, token, interest, self.trace) {
            self.stats.on_io_error(&error);
            self.stats.on_closed(Cause::Error);
            return self.close(key);
        }
        self.idle.start(key.index);
        // A request that has arrived already is announced by the next wait.
        if self.stop.is_draining() {
            self.drain_connection(key);
        }
    }

    /// Counts the end of an exchange, and closes its connection, now or when the client has closed.
    fn end(&mut self, key: Key, cause: Cause) {
        self.stats.on_closed(cause);
        self.idle.stop(key.index);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !lingers(cause) {
            return self.close(key);
        }
        self.stats.syscalls += 1;
        let socket = Traced { socket: &connection.stream, trace: self.trace };
        let shut = socket.call("shutdown", "SHUT_WR", |stream| stream.shutdown(Shutdown::Write));
        if shut.is_err() {
            return self.close(key); // the client has reset the connection
        }
        connection.state = State::Lingering;
        self.lingering.start(key.index);
        self.linger(key);
    }

    /// Discards what the client still sends, until it closes.
    fn linger(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let socket = &mut Traced { socket: &mut connection.stream, trace: self.trace };
        match discard(socket, self.scratch.all_mut(), &mut self.stats, DISCARDS) {
            Discarded::Blocked => {}
            Discarded::More => {
                connection.queued = true;
                self.ready.push_back(key);
            }
            Discarded::Ended => self.close(key),
        }
    }

    fn close(&mut self, key: Key) {
        self.lingering.stop(key.index);
        if let Some(connection) = self.connections.remove(key) {
            self.trace.close(connection.stream); // which also removes it from the epoll instance
        }
        self.stats.syscalls += 1;
        self.acceptor.closed();
    }

    /// Ends the connections whose deadline is over.
    fn expire(&mut self) {
        if self.deadline().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some(index) = self.idle.expired(now) {
            let Some(key) = self.connections.key_at(index) else { continue };
            // After a long iteration its event may not have been taken from the kernel yet.
            self.run_connection(key);
            let found = self.connections.get_mut(key).map(|connection| connection.state);
            if found == Some(State::Conversing) && !self.idle.runs(index) {
                self.fail(key, Cause::Idle);
            }
        }
        while let Some(index) = self.lingering.expired(now) {
            if let Some(key) = self.connections.key_at(index) {
                self.close(key);
            }
        }
        if self.stop.deadline().is_some_and(|deadline| now >= deadline) {
            self.cut();
        }
    }

    fn fail(&mut self, key: Key, cause: Cause) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.exchange.terminate(cause);
        let _close = connection.exchange.failed();
        self.stats.on_closed(cause);
        self.idle.stop(key.index);
        self.close(key);
    }

    /// On the stop signal: drains every connection, accepts the listen queue, closes the listener.
    fn drain(&mut self) {
        for key in self.connections.keys() {
            self.drain_connection(key);
        }
        self.acceptable = true;
        self.acceptor.end_delays();
        self.accept(self.options.backlog as usize + 1);
        self.acceptor.close(self.trace);
        self.acceptable = false;
    }

    fn drain_connection(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.state == State::Lingering {
            return;
        }
        connection.exchange.drain();
        if connection.exchange.op() != Op::Recv {
            return;
        }
        // A request that has arrived already is answered.
        self.run_connection(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Connection { state, exchange, service, .. } = connection;
        if *state == State::Conversing && exchange.op() == Op::Recv {
            let nothing = exchange.received(&mut **service, self.scratch.request_mut(), 0);
            let Op::Close(cause) = nothing else { unreachable!("it drains") };
            self.end(key, cause);
        }
    }

    /// At the drain timeout: closes every connection.
    fn cut(&mut self) {
        for key in self.connections.keys() {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            match connection.state {
                State::Lingering => self.close(key),
                State::Conversing => {
                    self.stats.drain_cut += 1;
                    self.fail(key, Cause::Drain);
                }
            }
        }
    }
}

fn no_epoll(error: &io::Error) -> Unsupported {
    Unsupported {
        cause: format!("cannot create an epoll instance: {}", lockstep_sys::errno::describe(error)),
        hint: "raise the limit of open descriptors (ulimit -n), or run fewer shards".to_owned(),
    }
}

/// Registers `source` for edge-triggered events (EPOLLET).
fn register(
    poll: &Poll,
    source: &mut impl Source,
    fd: RawFd,
    token: Token,
    interest: Interest,
    trace: impl Trace,
) -> io::Result<()> {
    let call = format_args!("epoll_ctl({}, EPOLL_CTL_ADD, {fd})", poll.as_raw_fd());
    trace.call(fd, call, || poll.registry().register(source, token, interest))
}

/// Number of events, for the trace.
struct EventCount<'a>(&'a Events);

impl fmt::Display for EventCount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.iter().count() {
            1 => f.write_str("1 event"),
            count => write!(f, "{count} events"),
        }
    }
}
