//! The `blocking` backend: a thread for each conversation, and the kernel does the waiting.
//!
//! The tutorial's own model. By default one thread accepts and starts a thread per connection;
//! with `--threads N` there are N threads that each accept, serve one conversation to its end and
//! accept again, so that one more than N waits in the listen queue. `--threads 1` is the
//! tutorial's server.
//!
//! The shard's own thread only waits for the stop signal. Then it keeps interrupting the others
//! (`registry.rs`): a thread that comes back from a system call sees that it has to stop.

mod conversation;
mod registry;

use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use lockstep_core::{Cause, Service};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::accept::AcceptBackoff;
use crate::trace::{NoTrace, Trace, Traced};
use crate::{Backend, ConnectionLimit, Options, Shard, Stats, Stop, Unsupported};
use lockstep_sys::errno::is_exhaustion;
use lockstep_sys::limits::threads_of_process;
use registry::{Registry, Ticket};

/// The backend's value; it has no tuning.
#[derive(Clone, Copy, Debug)]
pub struct Blocking;

/// A conversation needs one buffer and a few frames; a debug build's frames are larger.
const STACK_SIZE: usize = 128 * 1024;

/// How often a thread looks whether a place has become free, or has seen the stop signal.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Backend for Blocking {
    fn name(&self) -> &'static str {
        "blocking"
    }

    fn probe(&self, _shards: usize) -> Result<String, Unsupported> {
        Ok("a thread for each connection".to_owned())
    }

    fn default_shards(&self, _cpus: usize) -> usize {
        1 // the threads spread over the processors by themselves
    }

    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats> {
        match shard.tracer {
            None => serve(shard, NoTrace),
            tracer => serve(shard, tracer),
        }
    }
}

fn serve<T: Trace>(shard: Shard<'_>, trace: T) -> io::Result<Stats> {
    registry::prepare_interrupts()?;
    let Shard { listener, options, stop, limit, ready, service, tracer: _ } = shard;
    ready()?;
    let (registry, stats) = (Registry::new(), Mutex::new(Stats::new()));
    let threads_max = threads_of_process();
    let server = Server { options, stop, limit, service, trace, threads_max, registry, stats };
    thread::scope(|scope| {
        let started = server.start_acceptors(scope, listener);
        match started {
            Ok(()) => while !stop.wait(Duration::from_secs(3600)) {},
            Err(_) => stop.drain(), // those that did start have to end
        }
        server.interrupt_until_all_have_ended();
        started
    })?;
    Ok(server.stats.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What the threads of one shard share.
struct Server<'a, T> {
    options: &'a Options,
    stop: &'a Stop,
    limit: &'a ConnectionLimit,
    service: &'a (dyn Fn() -> Box<dyn Service> + Sync),
    trace: T,
    /// Of conversations with a thread of their own, over all shards.
    threads_max: usize,
    registry: Registry,
    stats: Mutex<Stats>,
}

impl<T: Trace> Server<'_, T> {
    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_acceptors<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        listener: TcpListener,
    ) -> io::Result<()> {
        let pool = self.options.threads;
        let listener = Arc::new(listener); // closed by the last acceptor that ends
        for _ in 0..pool.unwrap_or(1) {
            let (listener, mut ticket) = (Arc::clone(&listener), self.registry.announce());
            spawn(scope, "acceptor", move || {
                ticket.enter(None);
                match pool {
                    Some(_) => self.accept(&listener, |stream| {
                        self.converse(stream, self.registry.announce());
                    }),
                    None => self.accept(&listener, |stream| self.start(scope, stream)),
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
                    self.wait_for_place();
                    self.limit.opened();
                    serve(stream);
                }
                Err(error) if is_exhaustion(&error) => {
                    self.stop.wait(backoff.start(Instant::now()));
                }
                Err(_) => {}
            }
        }
        // The acceptors share the descriptor: from here on none of them waits.
        let all = Traced { socket: listener, trace: self.trace };
        if all.call("ioctl", "FIONBIO, 1", |listener| listener.set_nonblocking(true)).is_err() {
            return;
        }
        for _ in 0..=self.options.backlog {
            match self.accept_one(listener) {
                Ok(stream) => {
                    self.limit.acquire();
                    self.limit.opened();
                    serve(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_exhaustion(&error) => return,
                Err(_) => {}
            }
        }
    }

    /// Waits until one more may be open; when the server stops, at most until then.
    ///
    /// The place is taken after accept(2), which may wait for long: a place held meanwhile would be
    /// kept from the other shards, where somebody may need it.
    fn wait_for_place(&self) {
        while !self.limit.try_acquire() {
            if self.stop.wait(LOOK_AGAIN) {
                return self.limit.acquire();
            }
        }
    }

    /// Accepts one connection. Unlike std's, it comes back when a signal interrupts it.
    fn accept_one(&self, listener: &TcpListener) -> io::Result<TcpStream> {
        self.stats().look_at_queue(listener, self.trace);
        let accept = || Ok(accept_with(listener, SocketFlags::CLOEXEC)?);
        let accepted = self.trace.accept(listener, accept, AsRawFd::as_raw_fd);
        let mut stats = self.stats();
        stats.syscalls += 1;
        match &accepted {
            Ok(_) => stats.accepted += 1,
            Err(error) => match error.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock => {}
                _ => stats.on_accept_error(error),
            },
        }
        Ok(accepted?.into())
    }

    /// Starts a thread for the conversation.
    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, stream: TcpStream) {
        let ticket = self.registry.announce();
        let converse = move || self.converse(stream, ticket);
        let started = match self.limit.count() > self.threads_max {
            true => Err(Errno::NOMEM.into()),
            false => spawn(scope, "conversation", converse),
        };
        if let Err(error) = started {
            // The stream went with the closure: the peer sees its connection closed.
            let mut stats = self.stats();
            stats.on_accept_error(&error);
            stats.on_closed(Cause::Error);
            drop(stats);
            self.limit.closed();
            self.stop.wait(AcceptBackoff::default().start(Instant::now()));
        }
    }

    /// Serves one conversation to its end, and counts it.
    fn converse(&self, stream: TcpStream, ticket: Ticket<'_>) {
        let mut stats = Stats::new();
        let mut socket = Traced { socket: stream, trace: self.trace };
        conversation::converse(self, &mut socket, ticket, &mut stats);
        self.trace.close(socket.socket);
        stats.syscalls += 1;
        self.stats().merge(&stats);
        self.limit.closed();
    }

    /// The shard's own thread, after the stop signal: interrupts the others until none is left,
    /// and cuts those that outlast the drain timeout.
    fn interrupt_until_all_have_ended(&self) {
        while self.registry.interrupt() > 0 {
            if self.stop.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
                self.registry.cut();
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK_SIZE);
    builder.spawn_scoped(scope, run).map(drop)
}
