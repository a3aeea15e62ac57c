//! The `blocking` backend: a thread for each connection, which sleeps in its system calls.
//!
//! The tutorial's own model. By default one thread accepts and starts a thread per connection;
//! with `--threads N`, each of N threads accepts, serves one connection to its end and accepts
//! again, so that further connections wait in the listen queue. `--threads 1` is the tutorial's
//! server.
//!
//! The shard's own thread only waits for the stop signal. Then it interrupts the others
//! (`threads.rs`) until each has returned from its system call and seen that the server stops.

mod threads;

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lockstep_core::{Cause, Exchange, Op, RECV_MAX, Service};
use lockstep_sys::errno::is_exhaustion;
use lockstep_sys::limits::threads_of_process;
use lockstep_sys::memory;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::accept::{AcceptBackoff, is_permanent, listener_error};
use crate::drive::{Discarded, Driven, LINGER, discard, drive, lingers};
use crate::scratch::Scratch;
use crate::trace::{NoTrace, Trace, Traced};
use crate::{
    Backend, ConnectionLimit, Options, Published, Publisher, ServiceFactory, Shard, Stats, Stop,
    Unsupported,
};
use threads::Threads;

/// The backend; it has no tuning.
#[derive(Clone, Copy, Debug)]
pub struct Blocking;

/// Interval at which a thread tries again to acquire a slot.
const RETRY: Duration = Duration::from_millis(5);

/// First and longest interval at which threads are interrupted when the server stops. It doubles:
/// with thousands of threads an interrupt of each takes longer than the first interval.
const INTERRUPT_FIRST: Duration = Duration::from_millis(5);
const INTERRUPT_LONGEST: Duration = Duration::from_millis(160);

/// System calls between two checks of the stop signal, for a client that never lets the thread
/// wait.
const BUDGET: u32 = 64;

/// The same if counts are published: those of each exchange, before the thread waits for the next.
const BUDGET_PUBLISHED: u32 = 2;

impl Backend for Blocking {
    fn name(&self) -> &'static str {
        "blocking"
    }

    fn probe(&self, _shards: usize) -> Result<String, Unsupported> {
        Ok("a thread for each connection".to_owned())
    }

    fn default_shards(&self, _cpus: usize) -> usize {
        1 // its threads use all CPUs
    }

    fn thread_per_connection(&self) -> bool {
        true
    }

    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats> {
        match shard.tracer {
            None => serve(shard, NoTrace),
            tracer => serve(shard, tracer),
        }
    }
}

fn serve<T: Trace>(shard: Shard<'_>, trace: T) -> io::Result<Stats> {
    threads::install_handler()?;
    memory::share_one_heap();
    let Shard { listener, options, stop, limit, ready, service, published, .. } = shard;
    ready()?;
    let server = Server {
        options,
        stop,
        limit,
        service,
        published,
        trace,
        threads_max: threads_of_process(),
        acceptors: Mutex::new(Counted {
            stats: Stats::new(),
            publisher: Publisher::new(published),
        }),
        connections: Mutex::new(Stats::new()),
        listener_error: OnceLock::new(),
    };
    threads::scope(|threads| {
        let started = server.start_acceptors(threads, listener);
        match started {
            Ok(()) => drop(stop.wait(Duration::MAX)),
            Err(_) => stop.drain(), // ends the acceptors that did start
        }
        server.interrupt_until_all_have_ended(threads);
        started
    })?;
    match server.listener_error.into_inner() {
        Some(error) => Err(error),
        None => {
            let mut stats = lock(&server.acceptors).stats.clone();
            stats.merge(&lock(&server.connections));
            Ok(stats)
        }
    }
}

/// State shared by the threads of one shard.
struct Server<'a, T> {
    options: &'a Options,
    stop: &'a Stop,
    limit: &'a ConnectionLimit,
    service: &'a ServiceFactory,
    published: Option<&'a Published>,
    trace: T,
    /// Largest number of connections with a thread of their own, over all shards.
    threads_max: usize,
    acceptors: Mutex<Counted<'a>>,
    /// Counts of the connections that have ended.
    connections: Mutex<Stats>,
    /// The error with which the listener failed for good.
    listener_error: OnceLock<io::Error>,
}

/// Counts that are also published.
struct Counted<'a> {
    stats: Stats,
    publisher: Publisher<'a>,
}

impl Counted<'_> {
    fn publish(&self) {
        self.publisher.publish(&self.stats);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Trace> Server<'_, T> {
    fn start_acceptors<'scope>(
        &'scope self,
        threads: &'scope Threads<'scope, '_>,
        listener: TcpListener,
    ) -> io::Result<()> {
        let pool = self.options.threads;
        let listener = Arc::new(listener); // closed by the last acceptor that ends
        for _ in 0..pool.unwrap_or(1) {
            let listener = Arc::clone(&listener);
            threads.spawn(c"acceptor", move || {
                let _guard = threads.enter(None);
                match pool {
                    Some(_) => {
                        self.accept(&listener, |stream| self.serve_connection(threads, stream));
                    }
                    None => self.accept(&listener, |stream| self.start_thread(threads, stream)),
                }
                if let Some(listener) = Arc::into_inner(listener) {
                    self.trace.close(listener);
                }
            })?;
        }
        Ok(())
    }

    /// Accepts until the stop signal, and then what is left in the listen queue.
    fn accept(&self, listener: &TcpListener, serve: impl Fn(TcpStream)) {
        let mut backoff = AcceptBackoff::default();
        while !self.stop.wait(self.options.accept_delay) {
            match self.accept_one(listener) {
                Ok(stream) => {
                    backoff.reset();
                    self.acquire_slot();
                    self.limit.opened();
                    serve(stream);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_permanent(&error) => {
                    let _first = self.listener_error.set(listener_error(listener, &error));
                    return self.stop.drain();
                }
                Err(_) => {
                    self.stop.wait(backoff.start(Instant::now()));
                }
            }
        }
        // The acceptors share the descriptor: from here on none of them waits. If that fails, the
        // next interrupt ends the wait.
        let all = Traced { socket: listener, trace: self.trace };
        let waits =
            all.call("ioctl", "FIONBIO, 1", |listener| listener.set_nonblocking(true)).is_err();
        for _ in 0..=self.options.backlog {
            match self.accept_one(listener) {
                Ok(stream) => {
                    self.limit.acquire();
                    self.limit.opened();
                    serve(stream);
                }
                Err(error) if is_exhaustion(&error) => return, // or none is left (EAGAIN)
                Err(error) if waits && error.kind() == ErrorKind::Interrupted => return,
                Err(error) if is_permanent(&error) => {
                    let _first = self.listener_error.set(listener_error(listener, &error));
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// Waits for a slot for an accepted connection; acquires one beyond the limit when the server
    /// stops.
    ///
    /// The slot is acquired after accept(2), which may wait for long: held during it, the slot
    /// would be kept from shards that have a connection for it.
    fn acquire_slot(&self) {
        while !self.limit.try_acquire() {
            if self.stop.wait(RETRY) {
                return self.limit.acquire();
            }
        }
    }

    /// Accepts one connection. Unlike std's accept, it returns when a signal interrupts it.
    fn accept_one(&self, listener: &TcpListener) -> io::Result<TcpStream> {
        lock(&self.acceptors).stats.observe_queue(listener, self.trace.tracer());
        let accept = || Ok(accept_with(listener, SocketFlags::CLOEXEC)?);
        let accepted = self.trace.accept(listener, accept, AsRawFd::as_raw_fd);
        let mut counted = lock(&self.acceptors);
        counted.stats.syscalls += 1;
        match &accepted {
            Ok(_) => counted.stats.on_accepted(),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock => {}
                _ => counted.stats.on_accept_error(error),
            },
        }
        counted.publish();
        Ok(accepted?.into())
    }

    /// Starts a thread for the connection.
    fn start_thread<'scope>(&'scope self, threads: &'scope Threads<'scope, '_>, stream: TcpStream) {
        let serve = move || self.serve_connection(threads, stream);
        let started = match self.limit.count() > self.threads_max {
            true => Err(Errno::NOMEM.into()),
            false => threads.spawn(c"connection", serve),
        };
        if let Err(error) = started {
            // Dropping the closure has closed the connection.
            let mut counted = lock(&self.acceptors);
            counted.stats.on_accept_error(&error);
            counted.stats.on_closed(Cause::Error);
            counted.publish();
            drop(counted);
            self.limit.closed();
            self.stop.wait(AcceptBackoff::default().start(Instant::now()));
        }
    }

    /// Serves a connection to its end, and adds its counts to the shard's.
    fn serve_connection(&self, threads: &Threads<'_, '_>, stream: TcpStream) {
        let mut counted =
            Counted { stats: Stats::new(), publisher: Publisher::new(self.published) };
        let mut socket = Traced { socket: stream, trace: self.trace };
        let guard = threads.enter(Some(socket.fd()));
        let cause = exchange(self, &mut socket, &mut counted).unwrap_or_else(|error| {
            counted.stats.on_io_error(&error);
            Cause::Error
        });
        // The last reply may have been sent at the very drain timeout.
        let was_cut = guard.was_cut() && !lingers(cause);
        counted.stats.drain_cut += u64::from(was_cut);
        counted.stats.on_closed(if was_cut { Cause::Drain } else { cause });
        if lingers(cause) {
            counted.publish();
            guard.stop_interrupts();
            linger(&mut socket, &mut counted.stats);
        }
        drop(guard); // before the descriptor is closed
        self.trace.close(socket.socket);
        counted.stats.syscalls += 1;
        counted.publish();
        lock(&self.connections).merge(&counted.stats);
        self.limit.closed();
    }

    /// On the shard's own thread, after the stop signal: interrupts the others until all have
    /// ended, and cuts their connections at the drain timeout.
    fn interrupt_until_all_have_ended(&self, threads: &Threads<'_, '_>) {
        let mut interval = INTERRUPT_FIRST;
        loop {
            threads.interrupt();
            let deadline = self.stop.deadline();
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = match left {
                Some(Duration::ZERO) => {
                    threads.cut();
                    interval
                }
                left => left.map_or(interval, |left| left.min(interval)),
            };
            if threads.wait(timeout) {
                return;
            }
            interval = (interval * 2).min(INTERRUPT_LONGEST);
        }
    }
}

fn exchange<T: Trace>(
    server: &Server<'_, T>,
    socket: &mut Traced<TcpStream, T>,
    counted: &mut Counted<'_>,
) -> io::Result<Cause> {
    let Counted { stats, publisher } = counted;
    let budget = if publisher.is_enabled() { BUDGET_PUBLISHED } else { BUDGET };
    if let Some(timeout) = server.options.idle_timeout {
        set_receive_timeout(socket, timeout)?;
        let args = format_args!("SO_SNDTIMEO, {timeout:?}");
        socket.call("setsockopt", args, |stream| stream.set_write_timeout(Some(timeout)))?;
        stats.syscalls += 2;
    }
    let mut service = server.service.make(&socket.socket);
    let mut exchange = Exchange::new();
    let mut scratch = Scratch::new();
    loop {
        if server.stop.is_draining() {
            exchange.drain();
            if exchange.op() == Op::Recv {
                receive_last(&mut exchange, &mut *service, socket, &mut scratch, stats)?;
            }
        }
        let driven =
            drive(&mut exchange, &mut *service, socket, &mut scratch, stats, budget, false);
        publisher.publish_exchanges(stats);
        match driven {
            Driven::Closed(cause) => return Ok(cause),
            Driven::Interrupted | Driven::Yielded | Driven::Drained => {}
            Driven::Blocked => {
                // SO_RCVTIMEO or SO_SNDTIMEO has passed (socket(7)).
                exchange.terminate(Cause::Idle);
                let Op::Close(cause) = exchange.failed() else { unreachable!("it has failed") };
                return Ok(cause);
            }
        }
    }
}

/// Answers a request that has arrived already, without waiting for one: the server stops, and the
/// connection waits for a request. If it cannot be made not to wait, it ends without a look.
fn receive_last(
    exchange: &mut Exchange,
    service: &mut dyn Service,
    socket: &mut Traced<TcpStream, impl Trace>,
    scratch: &mut Scratch<RECV_MAX>,
    stats: &mut Stats,
) -> io::Result<()> {
    let waits = socket.call("ioctl", "FIONBIO, 1", |stream| stream.set_nonblocking(true)).is_err();
    stats.syscalls += 2;
    if waits || drive(exchange, service, socket, scratch, stats, 1, false) == Driven::Blocked {
        let _close = exchange.received(service, scratch.request_mut(), 0);
    }
    if waits {
        return Ok(());
    }
    socket.call("ioctl", "FIONBIO, 0", |stream| stream.set_nonblocking(false))
}

fn linger(socket: &mut Traced<TcpStream, impl Trace>, stats: &mut Stats) {
    let until = Instant::now() + LINGER;
    let mut buffer = [0; RECV_MAX];
    stats.syscalls += 2;
    let shut = socket.call("shutdown", "SHUT_WR", |stream| stream.shutdown(Shutdown::Write));
    if shut.and_then(|()| set_receive_timeout(socket, LINGER)).is_err() {
        return; // the client has reset the connection
    }
    while discard(socket, &mut buffer, stats, 1) == Discarded::More && Instant::now() < until {}
}

fn set_receive_timeout(
    socket: &Traced<TcpStream, impl Trace>,
    timeout: Duration,
) -> io::Result<()> {
    let args = format_args!("SO_RCVTIMEO, {timeout:?}");
    socket.call("setsockopt", args, |stream| stream.set_read_timeout(Some(timeout)))
}
