//! Starting a server: its listeners, its shards and their end.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use lockstep_sys::counters::NetCounters;
use lockstep_sys::cpus::pin;
use lockstep_sys::memory;

use crate::listener::listen;
use crate::metrics::{self, Exporter, Source};
use crate::pinning::{cpus, share, steering, try_to_pin, union};
use crate::{
    AcceptPause, Backend, ConnectionLimit, Options, Published, ServiceFactory, Shard, Stats, Stop,
    Tracer, Unsupported,
};

/// Configuration of a server: any backend with any service.
#[derive(Clone, Debug)]
pub struct Config {
    /// I/O model.
    pub backend: &'static dyn Backend,
    /// Address to listen on; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Makes the service of each connection.
    pub service: ServiceFactory,
    /// Everything else.
    pub options: Options,
}

/// The reason why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The backend cannot run here.
    Unsupported(Unsupported),
    /// A shard cannot be pinned to [`Options::pin`].
    Pin(io::Error),
    /// [`Options::steer`] needs every shard pinned to one CPU.
    Steer,
    /// The address cannot be listened on.
    Listen(io::Error),
    /// The address of the metrics cannot be listened on.
    Metrics(io::Error),
    /// Another call failed; with [`Server::run`], also after the start.
    Other(io::Error),
}

impl From<io::Error> for StartError {
    /// Converts the error of a shard.
    fn from(error: io::Error) -> Self {
        error.downcast().map_or_else(Self::Other, Self::Unsupported)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(unsupported) => unsupported.fmt(f),
            Self::Steer => f.write_str("steering needs every shard pinned to one CPU"),
            Self::Pin(error) | Self::Listen(error) | Self::Metrics(error) | Self::Other(error) => {
                error.fmt(f)
            }
        }
    }
}

impl std::error::Error for StartError {}

/// A running server. [`drain`](Self::drain) stops it, [`join`](Self::join) waits for its end.
///
/// A server stops in five steps, the same with every backend:
///
/// 1. It accepts what is in the listen queue, then closes the listener: closing it first would
///    reset those connections.
/// 2. It drains every exchange, and cancels the receive of connections that wait for a request.
/// 3. It sends the replies still owed, each followed by a FIN, and lingers for the client's FIN.
/// 4. At the drain timeout it closes the connections that are still open.
/// 5. When none is open, it returns its counts.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    /// Shards with a thread of their own.
    threads: Vec<JoinHandle<io::Result<Stats>>>,
}

/// State shared by all shards.
#[derive(Debug)]
struct Shared {
    /// Dropped first: its thread uses `stop`.
    exporter: Option<Exporter>,
    config: Config,
    addr: SocketAddr,
    shards: usize,
    steered: bool,
    stop: Arc<Stop>,
    accept_pause: Arc<AcceptPause>,
    limit: Arc<ConnectionLimit>,
    tracer: Option<Tracer>,
    /// Counts of the running server, if it has metrics.
    published: Option<Arc<Published>>,
    /// Set when every shard is ready.
    ready: Arc<AtomicBool>,
    /// The kernel's counters before the server listened.
    counters: Option<NetCounters>,
}

/// A shard's number, its listener, and the CPUs that it is pinned to.
type Place = (usize, TcpListener, Vec<usize>);

/// Result of a shard's thread.
type Ended = thread::Result<io::Result<Stats>>;

impl Server {
    /// Starts every shard on a thread of its own. When it returns, the address can be connected to,
    /// and every shard has what it needs to serve.
    ///
    /// # Errors
    ///
    /// Any [`StartError`].
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let stop = Arc::new(Stop::new(config.options.drain_timeout)?);
        let accept_pause = Arc::new(AcceptPause::new(config.options.accept_pause)?);
        let (server, places) = Self::listen(config, stop, accept_pause)?;
        let (server, readiness) = server.spawn(places)?;
        if are_ready(&readiness) {
            server.shared.ready.store(true, Relaxed);
            return Ok(server);
        }
        server.drain();
        let error = server.join().err();
        Err(error.unwrap_or_else(|| io::Error::other("a shard ended before it was ready")).into())
    }

    /// Starts every shard, the first on this thread, and returns when all have ended: a process
    /// with one shard has one thread. That makes each of its system calls cheaper, since the kernel
    /// takes no reference to a file while the table of descriptors is not shared (`__fget_light`,
    /// fs/file.c).
    ///
    /// `stop` and `accept_pause` control the running server from elsewhere, such as a signal
    /// handler. `on_ready` is called when every shard is ready. If shards are pinned, this thread
    /// stays pinned.
    ///
    /// # Errors
    ///
    /// Any [`StartError`], and the first error of a shard as [`StartError::Other`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::Duration;
    ///
    /// use lockstep_backends::{
    ///     AcceptPause, Config, Options, Server, ServiceFactory, Stop, by_name,
    /// };
    /// use lockstep_core::Hi;
    ///
    /// let config = Config {
    ///     backend: by_name("blocking").unwrap(),
    ///     listen: "127.0.0.1:0".parse().unwrap(),
    ///     service: ServiceFactory::new(|_socket| Hi),
    ///     options: Options::default(),
    /// };
    /// let stop = Arc::new(Stop::new(Duration::from_secs(10))?);
    /// let accept_pause = Arc::new(AcceptPause::new(Duration::ZERO)?);
    /// let stats = Server::run(&config, Arc::clone(&stop), accept_pause, |server| {
    ///     println!("listening on {}", server.addr());
    ///     stop.drain(); // a real server does this on SIGTERM
    /// })?;
    /// assert_eq!(stats.accepted, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
        // If another shard is not ready, the server is stopping already.
        let is_ready = || {
            if let (true, Some(on_ready)) = (are_ready(&others), on_ready.take()) {
                server.shared.ready.store(true, Relaxed);
                on_ready(&server);
            }
        };
        // The state of a shard that panicked is not used again.
        let first = catch_unwind(AssertUnwindSafe(|| server.shared.serve(first, &is_ready)));
        Ok(server.add_up(Some(first))?)
    }

    /// Listens; the shards are still to be started.
    fn listen(
        config: &Config,
        stop: Arc<Stop>,
        accept_pause: Arc<AcceptPause>,
    ) -> Result<(Self, Vec<Place>), StartError> {
        let options = &config.options;
        try_to_pin(&options.pin)?;
        let shards = shards(config.backend, options);
        let pinned: Vec<_> = (0..shards).map(|shard| share(&options.pin, shard, shards)).collect();
        let steering = steering(options, &pinned)?;
        let counters = NetCounters::read().ok();
        let tracer = options.trace.then(|| Tracer::new("server"));
        let (reuse_port, backlog) = (options.reuse_port, options.backlog);
        let listeners = listen(config.listen, &steering, reuse_port, backlog, tracer.as_ref())
            .map_err(StartError::Listen)?;
        let addr = listeners[0].local_addr().map_err(StartError::Listen)?;
        let limit = Arc::new(ConnectionLimit::new(options.conns_max));
        let (published, ready) = (Arc::new(Published::new()), Arc::new(AtomicBool::new(false)));
        let mut exporter = None;
        if let Some(at) = options.metrics {
            let source = Source {
                backend: config.backend.name(),
                service: config.service.name(),
                shards,
                pinned: union(&pinned),
                published: Arc::clone(&published),
                limit: Arc::clone(&limit),
                ready: Arc::clone(&ready),
                stop: Arc::clone(&stop),
                addr,
                listeners: metrics::inodes(&listeners),
            };
            let clients = metrics::listen_at(at).map_err(StartError::Metrics)?;
            exporter = Some(Exporter::start(clients, source)?);
        }
        let shared = Shared {
            published: exporter.is_some().then_some(published),
            exporter,
            addr,
            shards,
            steered: (shards > 1 || reuse_port) && steering[0].is_some(),
            stop,
            accept_pause,
            limit,
            tracer,
            ready,
            counters,
            config: config.clone(),
        };
        let places = listeners.into_iter().zip(pinned).enumerate();
        let places = places.map(|(number, (listener, cpus))| (number, listener, cpus)).collect();
        Ok((Self { shared: Arc::new(shared), threads: Vec::new() }, places))
    }

    /// Starts a thread for each of the shards; returns a channel for each, which receives a message
    /// when the shard is ready and closes when it ends.
    fn spawn(mut self, places: Vec<Place>) -> Result<(Self, Vec<Receiver<()>>), StartError> {
        let mut readiness = Vec::with_capacity(places.len());
        for place in places {
            let (shared, (ready, is_ready)) = (Arc::clone(&self.shared), channel());
            let thread = memory::thread(format!("shard-{}", place.0));
            let serve = move || {
                let is_ready = || {
                    let _starting = ready.send(());
                };
                shared.serve(place, &is_ready)
            };
            match thread.and_then(|thread| thread.spawn(serve)) {
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

    /// Address it listens on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Address of its [metrics](crate::metrics), with the real port.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.shared.exporter.as_ref().map(Exporter::addr)
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shared.shards
    }

    /// True if each connection goes to the shard on the CPU where its packets are processed.
    pub fn is_steered(&self) -> bool {
        self.shared.steered
    }

    /// The pause before the first accept, to be ended by another thread.
    pub fn accept_pause(&self) -> Arc<AcceptPause> {
        Arc::clone(&self.shared.accept_pause)
    }

    /// Begins to stop, see [above](Self); does not wait.
    pub fn drain(&self) {
        self.shared.stop.drain();
    }

    /// Waits for every shard to end and adds up their counts.
    ///
    /// # Errors
    ///
    /// The first error of a shard, after which the others were drained; or an error that names the
    /// backend if it did not count one close for each accepted connection.
    pub fn join(self) -> io::Result<Stats> {
        self.add_up(None)
    }

    fn add_up(self, first: Option<Ended>) -> io::Result<Stats> {
        let mut stats = Stats::new();
        let mut result = Ok(());
        for shard in first.into_iter().chain(self.threads.into_iter().map(JoinHandle::join)) {
            match shard {
                Ok(Ok(counted)) => {
                    stats.merge(&counted);
                    stats.accepted_per_shard.push(counted.accepted);
                }
                Ok(Err(error)) => result = result.and(Err(error)),
                Err(_panic) => result = Err(io::Error::other("a shard panicked")),
            }
        }
        result?;
        let Shared { limit, counters, config, .. } = &*self.shared;
        let (accepted, closed) = (stats.accepted, stats.closed.total());
        if accepted != closed {
            let name = config.backend.name();
            return Err(io::Error::other(format!(
                "backend {name} counted {accepted} connections accepted and {closed} closed"
            )));
        }
        stats.connections_peak = limit.peak();
        if let (Some(before), Ok(after)) = (counters, NetCounters::read()) {
            let increments = after.since(before);
            let count = |name| increments.get(name).map(|count| count.unsigned_abs());
            stats.listen_overflows = count("ListenOverflows");
            stats.listen_drops = count("ListenDrops");
        }
        Ok(stats)
    }
}

impl Shared {
    /// Runs a shard on this thread to its end.
    fn serve(&self, (_, listener, cpus): Place, is_ready: &dyn Fn()) -> io::Result<Stats> {
        // A shard that ends, for whatever reason, ends the others: a server that serves only some
        // of its connections is worse than none.
        let _drain = DrainOnDrop(&self.stop);
        if !cpus.is_empty() {
            pin(&cpus)?;
        }
        let ready = || {
            is_ready();
            self.accept_pause.wait(&self.stop);
            Ok(())
        };
        self.config.backend.serve(Shard {
            listener,
            options: &self.config.options,
            stop: &self.stop,
            limit: &self.limit,
            tracer: self.tracer.as_ref(),
            published: self.published.as_deref(),
            ready: &ready,
            service: &self.config.service,
        })
    }
}

/// Waits until all shards are ready; returns false if one ended before.
fn are_ready(shards: &[Receiver<()>]) -> bool {
    shards.iter().all(|shard| shard.recv().is_ok())
}

struct DrainOnDrop<'a>(&'a Stop);

impl Drop for DrainOnDrop<'_> {
    fn drop(&mut self) {
        self.0.drain();
    }
}

/// Number of shards that a server will have.
pub(crate) fn shards(backend: &dyn Backend, options: &Options) -> usize {
    options.shards.unwrap_or_else(|| backend.default_shards(cpus(options))).max(1)
}
