//! Starting a server: its listeners, its shards and their end.
//!
//! A server stops in five steps, the same on every backend: (1) accept what already waits in the
//! listen queue, then close the listener (closing it first would reset those); (2) wish every
//! exchange to drain, and take the receive back from those that wait for a request; (3) send the
//! replies still owed, each followed by a FIN, and linger for the peer's; (4) at the drain
//! timeout, cut those that still go on; (5) return the counts when nothing is in flight.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use lockstep_core::{Echo, Hi, Service};

use crate::chat::{Chat, Console};
use crate::listener::listen;
use lockstep_sys::counters::NetCounters;
use lockstep_sys::cpus::pin;

use crate::pinning::{cpus, share, steering, try_to_pin};
use crate::{
    AcceptPause, Backend, ConnectionLimit, Options, ServiceKind, Shard, Stats, Stop, Tracer,
    Unsupported,
};

/// What to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// How bytes are moved.
    pub backend: &'static dyn Backend,
    /// Where to listen; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// What is said.
    pub service: ServiceKind,
    /// The rest.
    pub options: Options,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The backend cannot run here.
    Unsupported(Unsupported),
    /// The processors cannot be pinned to.
    Pin(io::Error),
    /// Connections are to be steered to shards that are not pinned to one processor each.
    Steer,
    /// The address cannot be listened on.
    Listen(io::Error),
    /// Something else that the kernel refused; of [`Server::run`], also later.
    Other(io::Error),
}

impl From<io::Error> for StartError {
    /// A shard's trouble.
    fn from(error: io::Error) -> Self {
        error.downcast().map_or_else(Self::Other, Self::Unsupported)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(unsupported) => unsupported.fmt(f),
            Self::Steer => f.write_str("steering needs every shard pinned to one processor"),
            Self::Pin(error) | Self::Listen(error) | Self::Other(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// A running server. It is told to stop by [`drain`](Self::drain), and [`join`](Self::join) waits
/// until it has.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    /// Those that have a thread of their own.
    threads: Vec<JoinHandle<io::Result<Stats>>>,
}

/// What is the same for every shard.
#[derive(Debug)]
struct Shared {
    config: Config,
    addr: SocketAddr,
    shards: usize,
    steered: bool,
    stop: Arc<Stop>,
    accept_pause: Arc<AcceptPause>,
    limit: ConnectionLimit,
    console: Arc<Console>,
    tracer: Option<Tracer>,
    /// What had overflown before it listened.
    counters: Option<NetCounters>,
}

/// What a shard has for itself: its number, its listener, and its processors if it is pinned.
type Place = (usize, TcpListener, Vec<usize>);

/// How a shard has ended.
type Ended = thread::Result<io::Result<Stats>>;

impl Server {
    /// Starts every shard, each on a thread of its own. When it returns, the address can be
    /// connected to, and every shard has what it needs to serve.
    ///
    /// # Errors
    ///
    /// If the backend cannot run here, or not with so many shards; if the address cannot be had, or
    /// a thread cannot be started.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let stop = Arc::new(Stop::new(config.options.drain_timeout)?);
        let accept_pause = Arc::new(AcceptPause::new(config.options.accept_pause)?);
        let (server, places) = Self::listen(config, stop, accept_pause)?;
        let (server, readiness) = server.spawn(places)?;
        if are_ready(&readiness) {
            return Ok(server);
        }
        server.drain();
        let error = server.join().err();
        Err(error.unwrap_or_else(|| io::Error::other("a shard ended before it began")).into())
    }

    /// Starts every shard, the first on this thread, and returns when all have ended: a process
    /// with one shard has one thread. That is of use to each of its system calls, since the kernel
    /// counts no reference to a file while nobody shares the table of descriptors
    /// (`__fget_light`, fs/file.c).
    ///
    /// `stop` and `accept_pause` are for who has to tell it anything; `on_ready` is called when every shard
    /// has what it needs to serve. Where shards are pinned, this thread stays so.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and as [`join`](Self::join).
    pub fn run(
        config: &Config,
        stop: Arc<Stop>,
        accept_pause: Arc<AcceptPause>,
        on_ready: impl FnOnce(&Self),
    ) -> Result<Stats, StartError> {
        let (server, mut places) = Self::listen(config, stop, accept_pause)?;
        let first = places.remove(0);
        let (server, others) = server.spawn(places)?;
        let on_ready = Cell::new(Some(on_ready));
        // Where another shard is not ready, the server stops already.
        let is_ready = || {
            if let (true, Some(on_ready)) = (are_ready(&others), on_ready.take()) {
                on_ready(&server);
            }
        };
        // Nothing of a shard that panicked is looked at again.
        let first = catch_unwind(AssertUnwindSafe(|| server.shared.serve(first, &is_ready)));
        Ok(server.add_up(Some(first))?)
    }

    /// A server that listens, without its shards.
    fn listen(
        config: &Config,
        stop: Arc<Stop>,
        accept_pause: Arc<AcceptPause>,
    ) -> Result<(Self, Vec<Place>), StartError> {
        let options = &config.options;
        try_to_pin(&options.pin)?;
        let shards = shards(config.backend, config.service, options);
        config.backend.probe(shards).map_err(StartError::Unsupported)?;
        let pinned: Vec<_> = (0..shards).map(|shard| share(&options.pin, shard, shards)).collect();
        let steering = steering(options, &pinned)?;
        let counters = NetCounters::read().ok();
        let tracer = options.trace.then(|| Tracer::new("server"));
        let (reuse_port, backlog) = (options.reuse_port, options.backlog);
        let listeners = listen(config.listen, &steering, reuse_port, backlog, tracer.as_ref())
            .map_err(StartError::Listen)?;
        let shared = Shared {
            addr: listeners[0].local_addr().map_err(StartError::Listen)?,
            shards,
            steered: (shards > 1 || reuse_port) && steering[0].is_some(),
            console: Console::new(Arc::clone(&stop)),
            stop,
            accept_pause,
            limit: ConnectionLimit::new(options.conns_max),
            tracer,
            counters,
            config: config.clone(),
        };
        let places = listeners.into_iter().zip(pinned).enumerate();
        let places = places.map(|(number, (listener, cpus))| (number, listener, cpus)).collect();
        Ok((Self { shared: Arc::new(shared), threads: Vec::new() }, places))
    }

    /// Starts a thread for each of the shards, which says when its shard is ready.
    fn spawn(mut self, places: Vec<Place>) -> Result<(Self, Vec<Receiver<()>>), StartError> {
        let mut readiness = Vec::with_capacity(places.len());
        for place in places {
            let (shared, (ready, is_ready)) = (Arc::clone(&self.shared), channel());
            let thread = thread::Builder::new().name(format!("shard-{}", place.0));
            // A shard that ends before it is ready takes its end of the channel along.
            let serve = move || {
                let is_ready = || {
                    let _starting = ready.send(());
                };
                shared.serve(place, &is_ready)
            };
            match thread.spawn(serve) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    self.drain();
                    let _stats = self.join();
                    return Err(error.into());
                }
            }
            readiness.push(is_ready);
        }
        Ok((self, readiness))
    }

    /// Where it listens; the real port, also for port 0.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.shared.shards
    }

    /// Whether each connection goes to a shard on the processor that its packets are processed on.
    pub fn is_steered(&self) -> bool {
        self.shared.steered
    }

    /// What keeps it from accepting at first, for whoever has to open it from another thread.
    pub fn accept_pause(&self) -> Arc<AcceptPause> {
        Arc::clone(&self.shared.accept_pause)
    }

    /// Stops accepting and lets the conversations end in order.
    pub fn drain(&self) {
        self.shared.stop.drain();
    }

    /// Waits for every shard to end and adds up what they counted.
    ///
    /// # Errors
    ///
    /// The first shard's trouble that kept it from going on; the others were drained.
    pub fn join(self) -> io::Result<Stats> {
        self.add_up(None)
    }

    fn add_up(self, first: Option<Ended>) -> io::Result<Stats> {
        let mut stats = Stats::new();
        let mut trouble = None;
        for shard in first.into_iter().chain(self.threads.into_iter().map(JoinHandle::join)) {
            match shard {
                Ok(Ok(counted)) => {
                    stats.merge(&counted);
                    stats.accepted_per_shard.push(counted.accepted);
                }
                Ok(Err(error)) => trouble = trouble.or(Some(error)),
                Err(_panic) => trouble = Some(io::Error::other("a shard panicked")),
            }
        }
        let Shared { limit, counters, .. } = &*self.shared;
        stats.connections_peak = limit.peak();
        if let (Some(before), Ok(after)) = (counters, NetCounters::read()) {
            let increments = after.since(before);
            let count = |name| increments.get(name).map(|count| count.unsigned_abs());
            stats.listen_overflows = count("ListenOverflows");
            stats.listen_drops = count("ListenDrops");
        }
        debug_assert!(trouble.is_some() || stats.accepted == stats.closed.total());
        trouble.map_or(Ok(stats), Err)
    }
}

impl Shared {
    /// Runs a shard on this thread to its end.
    fn serve(&self, (_, listener, cpus): Place, is_ready: &dyn Fn()) -> io::Result<Stats> {
        // A shard that ends, for whatever reason, ends the others: a server that serves a part of
        // its connections is worse than none.
        let _ender = DrainOnDrop(&self.stop);
        if !cpus.is_empty() {
            pin(&cpus)?;
        }
        let ready = || {
            is_ready();
            self.accept_pause.wait(&self.stop) // nobody is accepted before, so no backend needs to know
        };
        let service = || -> Box<dyn Service> {
            match self.config.service {
                ServiceKind::Echo => Box::new(Echo),
                ServiceKind::Hi => Box::new(Hi),
                ServiceKind::Chat => Box::new(Chat::new(Arc::clone(&self.console))),
            }
        };
        self.config.backend.serve(Shard {
            listener,
            options: &self.config.options,
            stop: &self.stop,
            limit: &self.limit,
            tracer: self.tracer.as_ref(),
            ready: &ready,
            service: &service,
        })
    }
}

/// Waits until every one of those shards is ready, or one has ended before.
fn are_ready(shards: &[Receiver<()>]) -> bool {
    shards.iter().all(|shard| shard.recv().is_ok())
}

struct DrainOnDrop<'a>(&'a Stop);

impl Drop for DrainOnDrop<'_> {
    fn drop(&mut self) {
        self.0.drain();
    }
}

/// How many shards a server will have.
pub(crate) fn shards(backend: &dyn Backend, service: ServiceKind, options: &Options) -> usize {
    let one_person = service == ServiceKind::Chat;
    let default = if one_person { 1 } else { backend.default_shards(cpus(options)) };
    options.shards.unwrap_or(default).max(1)
}
