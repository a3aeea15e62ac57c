//! The `poll` backend: the smallest event loop. Read it before `mio.rs`.
//!
//! Each iteration gives poll(2) every socket of the shard, then runs those that are ready.
//! Readiness is level-triggered: a socket that still has something is ready in the next iteration
//! again, so nothing has to be remembered. Kernel and loop look at every connection in every
//! iteration, ready or not. So each idle connection adds to the cost of the others' exchanges;
//! epoll, which `mio` uses, is given each socket once. If all connections are busy, both cost the
//! same.
//!
//! All connections of a shard share one buffer. A connection keeps memory only for the part of a
//! reply that the socket did not take.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Service};
use rustix::event::{PollFd, PollFlags};

use crate::accept::{Accepted, Acceptor};
use crate::drive::{Discarded, Driven, LINGER, discard, drive, lingers};
use crate::scratch::Scratch;
use crate::stop::wait_for;
use crate::trace::{NONE, NoTrace, Trace, Traced};
use crate::{Backend, Options, Publisher, ServiceFactory, Shard, Stats, Stop, Unsupported};

/// The backend; it has no tuning.
#[derive(Clone, Copy, Debug)]
pub struct Poll;

/// Requests and sends of one connection in one iteration: one exchange.
const BUDGET: u32 = 2;

/// Connections accepted in one iteration.
const ACCEPTS: usize = 64;

impl Backend for Poll {
    fn name(&self) -> &'static str {
        "poll"
    }

    fn probe(&self, _shards: usize) -> Result<String, Unsupported> {
        Ok("poll(2), level-triggered".to_owned())
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
    service: Box<dyn Service>,
    /// The unsent part of a reply.
    unsent: Option<Box<[u8]>>,
    state: State,
    /// Time at which the connection was opened or last moved a byte or, in `Lingering`, the end of
    /// the exchange.
    since: Instant,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Conversing,
    /// The exchange has ended and is counted; the client has not closed yet.
    Lingering,
    Closed,
}

struct Loop<'a, T> {
    options: &'a Options,
    stop: &'a Stop,
    service: &'a ServiceFactory,
    trace: T,
    acceptor: Acceptor<'a>,
    connections: Vec<Connection>,
    scratch: Scratch<RECV_MAX>,
    stats: Stats,
    publisher: Publisher<'a>,
}

impl<'a, T: Trace> Loop<'a, T> {
    fn serve(shard: Shard<'a>, trace: T) -> io::Result<Stats> {
        let Shard { listener, options, stop, limit, service, published, ready, .. } = shard;
        let acceptor = Acceptor::new(listener, (options, limit, stop), trace)?;
        ready()?;
        let mut this = Self {
            options,
            stop,
            service,
            trace,
            acceptor,
            connections: Vec::new(),
            scratch: Scratch::new(),
            stats: Stats::new(),
            publisher: Publisher::new(published),
        };
        while this.acceptor.listener().is_some() || !this.connections.is_empty() {
            this.iterate();
        }
        this.acceptor.into_error().map_or(Ok(this.stats), Err)
    }

    fn iterate(&mut self) {
        self.publisher.publish(&self.stats);
        let (acceptable, ready) = self.wait();
        let now = Instant::now();
        for index in ready {
            self.run(index);
        }
        if self.stop.is_draining() {
            self.drain();
        } else if acceptable {
            self.accept(ACCEPTS);
        }
        self.expire(now);
        for index in (0..self.connections.len()).rev() {
            if self.connections[index].state == State::Closed {
                self.trace.close(self.connections.swap_remove(index).stream);
                self.stats.syscalls += 1;
                self.acceptor.closed();
            }
        }
    }

    /// Waits until a socket is ready or a deadline has passed. Returns true if the listener is
    /// ready, and the indexes of the connections that are.
    fn wait(&mut self) -> (bool, Vec<usize>) {
        self.acceptor.expire();
        let mut fds = Vec::with_capacity(self.connections.len() + 2);
        fds.extend(self.connections.iter().map(Connection::interest));
        let delayed_until = self.acceptor.delayed_until();
        if let Some(listener) = self.acceptor.listener() {
            fds.push(PollFd::new(self.stop, PollFlags::IN));
            if delayed_until.is_none() {
                fds.push(PollFd::from_borrowed_fd(listener, PollFlags::IN));
            }
        }
        let ends = self.connections.iter().filter_map(|it| it.deadline(self.options));
        let deadline = ends.chain(delayed_until).chain(self.stop.deadline()).min();
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        self.stats.syscalls += 1;
        let call = format_args!("poll({} sockets)", fds.len());
        let polled = || Ok(wait_for(&mut fds, timeout));
        let is_polled = self.trace.call_for(NONE, call, polled, |polled| u8::from(*polled));
        let mut ready = match is_polled {
            Ok(true) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            _ => vec![false; fds.len()],
        };
        let rest = ready.split_off(self.connections.len());
        let indexes = (0..ready.len()).filter(|&index| ready[index]).collect();
        (rest.get(1) == Some(&true), indexes)
    }

    fn run(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Connection { stream, exchange, service, unsent, state, since } = connection;
        let socket = &mut Traced { socket: stream, trace: self.trace };
        if *state == State::Lingering {
            let discarded = discard(socket, self.scratch.all_mut(), &mut self.stats, 1);
            if discarded == Discarded::Ended {
                *state = State::Closed;
            }
            return;
        }
        let (scratch, stats) = (&mut self.scratch, &mut self.stats);
        scratch.put_back(exchange, unsent.take());
        let moved = stats.bytes_moved();
        let driven = drive(exchange, &mut **service, socket, scratch, stats, BUDGET, true);
        *unsent = scratch.take_out(exchange);
        if stats.bytes_moved() != moved && self.options.idle_timeout.is_some() {
            *since = Instant::now();
        }
        if let Driven::Closed(cause) = driven {
            self.end(index, cause);
        }
    }

    /// Counts the end of an exchange, and closes its connection, now or when the client has closed.
    fn end(&mut self, index: usize, cause: Cause) {
        self.stats.on_closed(cause);
        let connection = &mut self.connections[index];
        connection.state = State::Closed;
        if lingers(cause) {
            self.stats.syscalls += 1;
            let socket = Traced { socket: &connection.stream, trace: self.trace };
            if socket.call("shutdown", "SHUT_WR", |it| it.shutdown(Shutdown::Write)).is_ok() {
                (connection.state, connection.since) = (State::Lingering, Instant::now());
            }
        }
    }

    /// Ends an exchange whatever it waits for.
    fn terminate(&mut self, index: usize, cause: Cause) {
        let connection = &mut self.connections[index];
        connection.exchange.terminate(cause);
        let _close = connection.exchange.failed();
        connection.state = State::Closed;
        self.stats.on_closed(cause);
    }

    /// Accepts at most `bound` connections; the rest is left for the next iteration.
    fn accept(&mut self, bound: usize) {
        if let Some(listener) = self.acceptor.listener() {
            self.stats.observe_queue(listener, self.trace.tracer());
        }
        for _ in 0..bound {
            let stream = match self.acceptor.accept(&mut self.stats, self.trace) {
                Accepted::Connection(stream) => stream,
                Accepted::Failed => continue,
                Accepted::Empty | Accepted::Delayed => return,
            };
            self.connections.push(Connection {
                service: self.service.make(&stream),
                exchange: Exchange::new(),
                unsent: None,
                state: State::Conversing,
                since: Instant::now(),
                stream,
            });
        }
    }

    /// On the stop signal, once: accepts the listen queue, closes the listener, drains every
    /// connection.
    fn drain(&mut self) {
        if self.acceptor.listener().is_none() {
            return;
        }
        self.acceptor.end_delays();
        self.accept(self.options.backlog as usize + 1);
        self.acceptor.close(self.trace);
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            if connection.state != State::Conversing {
                continue;
            }
            connection.exchange.drain();
            if connection.exchange.op() == Op::Recv {
                self.run(index); // a request that has arrived already is answered
            }
            let Connection { exchange, service, state, .. } = &mut self.connections[index];
            if *state == State::Conversing && exchange.op() == Op::Recv {
                let nothing = exchange.received(&mut **service, self.scratch.request_mut(), 0);
                let Op::Close(cause) = nothing else { unreachable!("it drains") };
                self.end(index, cause);
            }
        }
    }

    /// Ends the connections whose deadline was over at `now`, before the ready ones were run.
    fn expire(&mut self, now: Instant) {
        let is_cut = self.stop.deadline().is_some_and(|deadline| deadline <= now);
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let is_over = connection.deadline(self.options).is_some_and(|at| at <= now);
            match connection.state {
                State::Lingering if is_cut || is_over => connection.state = State::Closed,
                State::Conversing if is_cut => {
                    self.stats.drain_cut += 1;
                    self.terminate(index, Cause::Drain);
                }
                State::Conversing if is_over => self.terminate(index, Cause::Idle),
                _ => {}
            }
        }
    }
}

impl Connection {
    fn interest(&self) -> PollFd<'_> {
        let sends = self.state == State::Conversing && self.exchange.op() != Op::Recv;
        PollFd::new(&self.stream, if sends { PollFlags::OUT } else { PollFlags::IN })
    }

    fn deadline(&self, options: &Options) -> Option<Instant> {
        match self.state {
            State::Conversing => self.since.checked_add(options.idle_timeout?),
            State::Lingering => Some(self.since + LINGER),
            State::Closed => None,
        }
    }
}
