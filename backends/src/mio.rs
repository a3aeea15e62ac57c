//! The `mio` backend: one epoll instance per shard, edge-triggered, each socket registered once.
//!
//! A turn waits for events and runs each ready connection for a bounded number of system calls;
//! connections that used up theirs are run again in the next turn, which then does not wait. In
//! lockstep an event costs one receive and one send: a receive that returned less than it asked
//! for has emptied the socket, so nothing asks again, and the send is tried at once, without
//! waiting for the socket to be writable.
//!
//! A receive asks for twice what a request may have, so that the longest request leaves room, too.
//! Of a peer that does not wait for its replies it takes the next request along; that one is parked
//! until the first has been answered.
//!
//! All connections of a shard share one scratch. Only what a socket did not take of a reply, and
//! what is parked behind it, is kept with its connection.

mod lifecycle;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use lockstep_core::{Exchange, Op, RECV_MAX, Service};
use mio::event::{Event, Source};
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::accept::AcceptBackoff;
use crate::deadlines::Deadlines;
use crate::drive::{Driven, LINGER, drive};
use crate::scratch::Scratch;
use crate::slots::{Key, Slots};
use crate::trace::{NONE, NoTrace, Trace, Traced};
use crate::{Backend, ConnectionLimit, Options, Shard, Stats, Stop, Unsupported};
use lockstep_sys::busy_poll::BusyPoll;

/// The backend's value; it has no tuning.
#[derive(Clone, Copy, Debug)]
pub struct Mio;

/// Events taken from the kernel in one turn.
const EVENTS: usize = 512;

/// Requests and sends of one connection in one turn: four exchanges.
const BUDGET: u32 = 8;

/// What a receive asks for: more than a request may have.
const ROOM: usize = 2 * RECV_MAX;

/// Connections accepted in one turn.
const ACCEPTS: usize = 64;

const LISTENER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);

impl Backend for Mio {
    fn name(&self) -> &'static str {
        "mio"
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
    state: State,
    /// Whether a short receive no longer proves that the socket is empty. The peer's FIN or an
    /// error was announced, and only reading on shows which; or urgent data was, and a receive
    /// stops where it stands in the stream (tcp(7)).
    read_on: bool,
    /// Whether it is in the list of those to run in the next turn.
    queued: bool,
    /// What the socket has not taken of the reply, and what is parked behind it.
    held: Option<Box<[u8]>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Conversing,
    /// The conversation has ended and is counted; the peer has not closed yet.
    Lingering,
}

struct Loop<'a, T> {
    poll: Poll,
    listener: Option<TcpListener>,
    options: &'a Options,
    stop: &'a Stop,
    limit: &'a ConnectionLimit,
    service: Box<dyn Service>,
    trace: T,
    connections: Slots<Connection>,
    scratch: Scratch<ROOM>,
    /// To be run in the next turn, without waiting for an event.
    ready: VecDeque<Key>,
    /// Whether connections may be waiting in the listen queue.
    acceptable: bool,
    backoff: AcceptBackoff,
    busy_poll: BusyPoll,
    idle: Deadlines,
    lingering: Deadlines,
    stats: Stats,
}

impl<'a, T: Trace> Loop<'a, T> {
    fn serve(shard: Shard<'a>, trace: T) -> io::Result<Stats> {
        let ready = shard.ready;
        let this = Self::new(shard, trace)?;
        ready()?;
        this.run()
    }

    fn new(shard: Shard<'a>, trace: T) -> io::Result<Self> {
        let Shard { listener, options, stop, limit, ready: _, service, tracer: _ } = shard;
        let new = format_args!("epoll_create1(EPOLL_CLOEXEC)");
        let poll = trace.call_for(NONE, new, Poll::new, AsRawFd::as_raw_fd);
        let poll = poll.map_err(|error| io::Error::other(no_epoll(&error)))?;
        let listener = Traced { socket: listener, trace };
        listener.call("ioctl", "FIONBIO, 1", |listener| listener.set_nonblocking(true))?;
        let mut listener = TcpListener::from_std(listener.socket);
        let (fd, stop_fd) = (listener.as_raw_fd(), stop.as_fd().as_raw_fd());
        register(&poll, &mut listener, fd, LISTENER, Interest::READABLE, trace)?;
        register(&poll, &mut SourceFd(&stop_fd), stop_fd, STOP, Interest::READABLE, trace)?;
        Ok(Self {
            poll,
            listener: Some(listener),
            options,
            stop,
            limit,
            service: service(),
            trace,
            connections: Slots::new(),
            scratch: Scratch::new(),
            ready: VecDeque::new(),
            acceptable: false,
            backoff: AcceptBackoff::new(options.accept_delay),
            busy_poll: BusyPoll::new(options.spin),
            idle: Deadlines::new(options.idle_timeout),
            lingering: Deadlines::new(Some(LINGER)),
            stats: Stats::new(),
        })
    }

    fn run(mut self) -> io::Result<Stats> {
        let mut events = Events::with_capacity(EVENTS);
        while self.listener.is_some() || self.connections.len() > 0 {
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
        Ok(self.stats)
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = if !self.ready.is_empty() || self.may_accept() {
            Some(Duration::ZERO)
        } else if self.busy_poll.is_enabled() && self.busy_poll(events)? {
            return Ok(());
        } else {
            // mio rounds up to whole milliseconds: never early, so never a turn for nothing.
            self.deadline().map(|at| at.saturating_duration_since(Instant::now()))
        };
        self.stats.syscalls += 1;
        let span = self.trace.begin(NONE);
        let polled = self.poll.poll(events, timeout);
        if let Some(span) = span {
            let timeout = timeout.map_or("no timeout".to_owned(), |it| format!("{it:.1?}"));
            let call = format_args!("epoll_wait({}, {timeout})", self.poll.as_raw_fd());
            span.returned(call, polled.as_ref().map(|()| Announced(events)));
        }
        passing(polled)
    }

    /// Polls for a while; says whether there was anything. All of it is told as one call.
    #[cold]
    fn busy_poll(&mut self, events: &mut Events) -> io::Result<bool> {
        let until_deadline = |at: Instant| at.saturating_duration_since(Instant::now());
        let longest = self.deadline().map_or(Duration::MAX, until_deadline);
        let Some(mut attempt) = self.busy_poll.begin(longest) else { return Ok(false) };
        let span = self.trace.begin(NONE);
        let mut calls = 0;
        loop {
            passing(self.poll.poll(events, Some(Duration::ZERO)))?;
            calls += 1;
            if !events.is_empty() || attempt.is_over() {
                break;
            }
        }
        self.stats.syscalls += calls;
        if let Some(span) = span {
            let call = format_args!("epoll_wait({}, 0ns), {calls} times", self.poll.as_raw_fd());
            span.returned(call, Ok(Announced(events)));
        }
        self.busy_poll.end(attempt, !events.is_empty());
        Ok(!events.is_empty())
    }

    fn deadline(&self) -> Option<Instant> {
        let backoff = self.backoff.until().filter(|_| self.acceptable && self.listener.is_some());
        [backoff, self.idle.next(), self.lingering.next(), self.stop.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn on_event(&mut self, key: Key, event: &Event) {
        // An event of this batch can be for a connection closed earlier in it.
        let Some(connection) = self.connections.get_mut(key) else { return };
        let read_on = event.is_read_closed() || event.is_error() || event.is_priority();
        connection.read_on |= read_on;
        // The first event is often that it can be sent to; who waits for a request does not care.
        let of_use = event.is_readable() || read_on || connection.exchange.op() != Op::Recv;
        if of_use && !connection.queued {
            self.run_connection(key);
        }
    }

    /// Runs those that were left over by the turn before; whoever is left over again waits for
    /// the next turn.
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
        let Connection { stream, exchange, read_on, held, .. } = connection;
        let (service, scratch, stats) = (&mut *self.service, &mut self.scratch, &mut self.stats);
        scratch.put_back(exchange, held.take());
        let moved = stats.bytes_moved();
        let socket = &mut Traced { socket: stream, trace: self.trace };
        let driven = drive(exchange, service, socket, scratch, stats, BUDGET, !*read_on);
        match driven {
            Driven::Drained => {}
            Driven::Blocked => *held = scratch.take_out(exchange),
            Driven::Yielded | Driven::Interrupted => {
                *held = scratch.take_out(exchange);
                connection.queued = true;
                self.ready.push_back(key);
            }
            Driven::Closed(cause) => return self.end(key, cause),
        }
        if self.stats.bytes_moved() != moved {
            self.idle.start(key.index);
        }
    }
}

fn no_epoll(error: &io::Error) -> Unsupported {
    Unsupported {
        cause: format!("no epoll instance can be had: {error}"),
        hint: "raise the limit of open descriptors (ulimit -n), or run fewer shards".to_owned(),
    }
}

/// A wait that a signal has ended has found nothing.
fn passing(polled: io::Result<()>) -> io::Result<()> {
    match polled {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}

/// Has events on `source` announced, each once when it comes (EPOLLET).
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

/// How many events there are, as told.
struct Announced<'a>(&'a Events);

impl fmt::Display for Announced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.iter().count() {
            1 => f.write_str("1 event"),
            count => write!(f, "{count} events"),
        }
    }
}
