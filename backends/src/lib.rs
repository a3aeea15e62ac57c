//! The lockstep server: one exchange, several I/O models.
//!
//! A [`Backend`] is given a [`Shard`] (a listener and what belongs to it) and owns its loop until
//! the server stops. A trait of single operations would make one I/O model impersonate another;
//! with a loop for each, the trait lies outside of what is measured. The protocol of a connection
//! is [`lockstep_core::Exchange`]; a backend only moves bytes and counts.
//!
//! [`Server`] runs any backend with any service, from this crate or another:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//!
//! use lockstep_backends::{Config, Options, Server, ServiceFactory, by_name};
//! use lockstep_core::Echo;
//!
//! let server = Server::start(&Config {
//!     backend: by_name("mio").unwrap(),
//!     listen: "127.0.0.1:0".parse().unwrap(),
//!     service: ServiceFactory::new(|_socket| Echo),
//!     options: Options::default(),
//! })?;
//!
//! let mut client = TcpStream::connect(server.addr())?;
//! client.write_all(b"hello")?;
//! let mut reply = [0; 5];
//! client.read_exact(&mut reply)?;
//! assert_eq!(&reply, b"hello");
//! drop(client);
//!
//! server.drain();
//! assert_eq!(server.join()?.exchanges, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("lockstep needs 64-bit Linux: epoll, io_uring, and keys of 56 bits in a token");

mod accept;
pub mod blocking;
pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
mod deadlines;
mod drive;
pub mod io_uring;
mod listener;
pub mod metrics;
pub mod mio;
mod options;
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "only the command bounds its output"))]
mod output;
mod pinning;
pub mod poll;
mod published;
mod scratch;
mod server;
mod slots;
mod stats;
mod stop;
mod terminal;
mod trace;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use lockstep_core::Service;

pub use accept::{AcceptPause, ConnectionLimit};
use io_uring::IoUring;
pub use options::Options;
pub use published::{Published, Publisher};
pub use server::{Config, Server, StartError};
pub use stats::{Closed, Stats};
pub use stop::Stop;
pub use trace::{Span, Tracer};

/// An I/O model: a way of moving bytes between sockets and exchanges.
///
/// A backend is a value whose fields are its tuning; a tuning that matters gets a name of its own,
/// so that a result is described by the name alone. A backend never falls back to another.
///
/// # Implementing a backend
///
/// [`serve`](Self::serve) runs once per shard, each time on a thread of its own, and does this:
///
/// 1. It sets up what it needs, then calls [`Shard::ready`] once, before the first accept.
/// 2. For each connection it acquires a slot of [`Shard::limit`], accepts, and calls
///    [`Stats::on_accepted`] and [`ConnectionLimit::opened`]. The connection gets an
///    [`Exchange`](lockstep_core::Exchange) and a service from [`Shard::service`].
/// 3. It performs the operations that the exchange asks for, and reports each to the exchange
///    and to [`Stats::on_received`] or [`Stats::on_sent`]. A failed operation is counted with
///    [`Stats::on_io_error`].
/// 4. When the exchange asks for the close, it calls [`Stats::on_closed`] with the cause: exactly
///    once for each accepted connection, or [`Server::join`] reports an error. After the causes
///    `Bye`, `Done` and `Drain` the client may still be sending, and closing a socket with unread
///    bytes resets the connection, which can destroy the last reply (RFC 2525, 2.17). So it sends
///    a FIN (shutdown(2)), discards what arrives, and closes when the client has closed, or after
///    one second. After close(2) it calls [`ConnectionLimit::closed`].
/// 5. When [`Shard::stop`] begins to drain, it accepts what is in the listen queue, even beyond the
///    limit, and closes the listener (closing it first would reset those connections). It drains
///    every exchange; a connection that waits for a request has one more receive that does not
///    block, so that a request sent before is answered. At [`Stop::deadline`] it closes the rest
///    with [`Cause::Drain`](lockstep_core::Cause::Drain) and adds them to [`Stats::drain_cut`].
///    It returns when no connection is open.
/// 6. It makes a [`Publisher`] for [`Shard::published`], and publishes its counts before it waits.
///
/// After a failed accept it tries again, not before some milliseconds have passed. If the listener
/// has failed for good (EINVAL, EBADF), it calls [`Stop::drain`], drains, and returns that error.
///
/// It also keeps [`Options::idle_timeout`] and [`Options::accept_delay`]. `backends/examples/`
/// has a complete backend in one file, which passes the same conformance suite as those here.
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::net::{Shutdown, TcpStream};
/// use std::time::Duration;
///
/// use lockstep_backends::{
///     Backend, Config, Options, Publisher, Server, ServiceFactory, Shard, Stats, Unsupported,
/// };
/// use lockstep_core::{Echo, Exchange, Op, RECV_MAX};
///
/// /// Serves one connection after the other. Ignores timeouts and the drain deadline.
/// #[derive(Debug)]
/// struct OneByOne;
///
/// impl Backend for OneByOne {
///     fn name(&self) -> &'static str {
///         "one-by-one"
///     }
///
///     fn probe(&self, _shards: usize) -> Result<String, Unsupported> {
///         Ok("one connection at a time".to_owned())
///     }
///
///     fn default_shards(&self, _cpus: usize) -> usize {
///         1
///     }
///
///     fn serve(&self, shard: Shard<'_>) -> io::Result<Stats> {
///         let mut stats = Stats::new();
///         let publisher = Publisher::new(shard.published);
///         shard.listener.set_nonblocking(true)?;
///         (shard.ready)()?;
///         loop {
///             let stopping = shard.stop.is_draining(); // before the last look at the queue
///             match shard.listener.accept() {
///                 Ok((stream, _)) => {
///                     shard.limit.acquire();
///                     shard.limit.opened();
///                     stats.on_accepted();
///                     converse(&shard, stream, &mut stats, &publisher)?;
///                     shard.limit.closed();
///                 }
///                 Err(_) if stopping => return Ok(stats),
///                 Err(_) => drop(shard.stop.wait(Duration::from_millis(1))),
///             }
///         }
///     }
/// }
///
/// fn converse(
///     shard: &Shard<'_>,
///     mut stream: TcpStream,
///     stats: &mut Stats,
///     publisher: &Publisher<'_>,
/// ) -> io::Result<()> {
///     stream.set_nonblocking(false)?;
///     let mut service = shard.service.make(&stream);
///     let (mut exchange, mut buffer) = (Exchange::new(), [0; RECV_MAX]);
///     let cause = loop {
///         if shard.stop.is_draining() {
///             exchange.drain();
///         }
///         publisher.publish(stats);
///         let _next = match exchange.op() {
///             Op::Recv => {
///                 let count = stream.read(&mut buffer)?;
///                 stats.on_received(count);
///                 exchange.received(&mut *service, &mut buffer, count)
///             }
///             Op::Send { start, end } => {
///                 let count = stream.write(&buffer[start.into()..end.into()])?;
///                 stats.on_sent(count, usize::from(end - start));
///                 exchange.sent(count)
///             }
///             Op::Close(cause) => break cause,
///         };
///     };
///     stats.on_closed(cause);
///     publisher.publish(stats);
///     stream.shutdown(Shutdown::Write)?;
///     Ok(drop(io::copy(&mut stream, &mut io::sink())?))
/// }
///
/// let server = Server::start(&Config {
///     backend: &OneByOne,
///     listen: "127.0.0.1:0".parse().unwrap(),
///     service: ServiceFactory::new(|_socket| Echo),
///     options: Options::default(),
/// })?;
/// let mut client = TcpStream::connect(server.addr())?;
/// client.write_all(b"hello")?;
/// client.shutdown(Shutdown::Write)?;
/// let mut reply = Vec::new();
/// client.read_to_end(&mut reply)?;
/// assert_eq!(reply, b"hello");
///
/// server.drain();
/// let stats = server.join()?;
/// assert_eq!((stats.accepted, stats.closed.total(), stats.exchanges), (1, 1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Backend: fmt::Debug + Sync {
    /// Stable name, `[a-z0-9-]+`, for flags and records.
    fn name(&self) -> &'static str;

    /// Other names that [`by_name`] and the commands understand.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// Describes in a few words how this machine runs `shards` shards of this backend. Called
    /// before any thread starts.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] if the kernel, a sandbox or a resource limit prevents it.
    fn probe(&self, shards: usize) -> Result<String, Unsupported>;

    /// Number of shards on `cpus` CPUs unless [`Options::shards`] is set.
    fn default_shards(&self, cpus: usize) -> usize;

    /// True if the backend busy-polls before it sleeps ([`Options::spin`]).
    fn can_busy_poll(&self) -> bool {
        false
    }

    /// True if each connection has a thread, whose number [`Options::threads`] can fix.
    fn thread_per_connection(&self) -> bool {
        false
    }

    /// Serves one shard on the calling thread until the server stops and every connection is
    /// closed; see [Implementing a backend](Self#implementing-a-backend).
    ///
    /// # Errors
    ///
    /// An error that keeps the shard from going on; [`Unsupported`], wrapped by
    /// [`io::Error::other`], if the backend cannot run here. It ends the whole server. An error of
    /// a connection is counted and ends that connection only.
    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats>;
}

/// All backends; `auto` takes the first that this machine supports.
pub static BACKENDS: &[&dyn Backend] =
    &[&IoUring::DEFAULT, &mio::Mio, &blocking::Blocking, &poll::Poll];

/// Returns the backend with this name or alias.
///
/// ```
/// use lockstep_backends::by_name;
///
/// assert_eq!(by_name("epoll").unwrap().name(), "mio");
/// assert!(by_name("kqueue").is_none());
/// ```
pub fn by_name(name: &str) -> Option<&'static dyn Backend> {
    let is_named = |it: &&dyn Backend| it.name() == name || it.aliases().contains(&name);
    BACKENDS.iter().copied().find(is_named)
}

/// One listener and everything that a backend needs to serve it. Shards share the stop signal, the
/// connection limit, the tracer and the published counts, and nothing else.
pub struct Shard<'a> {
    /// The shard's own listener, in blocking mode.
    pub listener: TcpListener,
    /// Options of the server.
    pub options: &'a Options,
    /// Stop signal.
    pub stop: &'a Stop,
    /// Limit on open connections.
    pub limit: &'a ConnectionLimit,
    /// Prints system calls; none unless [`Options::trace`] is set.
    pub tracer: Option<&'a Tracer>,
    /// Counts of the running server; none unless [`Options::metrics`] is set.
    pub published: Option<&'a Published>,
    /// To be called once, after everything that can fail has been set up. It reports that the shard
    /// is ready, and returns when the shard may accept ([`Options::accept_pause`]), or has to stop.
    pub ready: &'a dyn Fn() -> io::Result<()>,
    /// Makes the service of a connection.
    pub service: &'a ServiceFactory,
}

/// Makes a service for each connection.
///
/// The closure gets the connection's socket, for what may be asked of it, such as its peer's
/// address. State that connections share is captured by the closure; what is in the service is the
/// connection's own, and dropped when it ends.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// use lockstep_backends::ServiceFactory;
/// use lockstep_core::{RECV_MAX, Reply, Service};
///
/// /// Answers each request with its number, over all connections.
/// struct Numbered(Arc<AtomicU64>);
///
/// impl Service for Numbered {
///     fn reply(&mut self, buffer: &mut [u8; RECV_MAX], _count: usize) -> Reply {
///         let reply = self.0.fetch_add(1, Relaxed).to_string();
///         buffer[..reply.len()].copy_from_slice(reply.as_bytes());
///         Reply::Send(reply.len() as u16)
///     }
/// }
///
/// let requests = Arc::new(AtomicU64::new(1));
/// let factory = ServiceFactory::new(move |_socket| Numbered(Arc::clone(&requests)));
/// ```
#[derive(Clone)]
pub struct ServiceFactory {
    make: Arc<MakeService>,
    name: &'static str,
}

type MakeService = dyn Fn(BorrowedFd<'_>) -> Box<dyn Service> + Send + Sync;

impl ServiceFactory {
    /// Makes services by calling `make` for each connection.
    pub fn new<S: Service + 'static>(
        make: impl Fn(BorrowedFd<'_>) -> S + Send + Sync + 'static,
    ) -> Self {
        Self { make: Arc::new(move |socket| Box::new(make(socket))), name: "custom" }
    }

    /// Names the service in the [metrics], where it is `custom` otherwise.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Name of the service.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Makes the service of the connection on `socket`.
    #[inline]
    pub fn make(&self, socket: impl AsFd) -> Box<dyn Service> {
        (self.make)(socket.as_fd())
    }
}

impl fmt::Debug for ServiceFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceFactory({})", self.name)
    }
}

/// The reason why a backend cannot run on this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unsupported {
    /// Cause in words, with the name of the errno.
    pub cause: String,
    /// Remedy, in one line.
    pub hint: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Unsupported {}
