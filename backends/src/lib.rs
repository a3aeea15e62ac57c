//! The lockstep server: one exchange, several I/O models.
//!
//! The seam is [`Backend`]: a backend is given a [`Shard`] and owns its loop until it is told to
//! stop. An operation-level seam would make one I/O model impersonate the other; here it lies
//! outside of what is measured. Everything a conversation decides is in `lockstep-core`; a backend
//! only moves bytes and counts.
//!
//! ```no_run
//! use lockstep_backends::{Config, Options, Server, ServiceKind, by_name};
//!
//! let backend = by_name("mio").unwrap();
//! let listen = "127.0.0.1:0".parse().unwrap();
//! let config = Config { backend, listen, service: ServiceKind::Echo, options: Options::default() };
//! let server = Server::start(&config).unwrap();
//! println!("{}", server.addr());
//! server.drain();
//! println!("{:?}", server.join().unwrap());
//! ```

mod accept;
pub mod blocking;
pub mod chat;
pub mod cli;
mod deadlines;
mod drive;
pub mod io_uring;
mod listener;
pub mod mio;
mod options;
mod pinning;
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

use lockstep_core::Service;

pub use accept::{AcceptPause, ConnectionLimit};

use io_uring::IoUring;
pub use options::{Options, ServiceKind};
pub use server::{Config, Server, StartError};
pub use stats::{Closed, Stats};
pub use stop::Stop;
pub use trace::{Span, Tracer};

/// One way of moving bytes between sockets and exchanges.
///
/// A backend is a value whose fields are its tuning; a different tuning that matters is a
/// different name, so that a result row says all there is to say. A backend never falls back to
/// another one.
pub trait Backend: fmt::Debug + Sync {
    /// The stable name, `[a-z0-9-]+`, for flags and records.
    fn name(&self) -> &'static str;

    /// Whether this machine can run so many shards of it; if so, how, in a few words. Called before
    /// any thread starts.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    fn probe(&self, shards: usize) -> Result<String, Unsupported>;

    /// How many shards to run where the user does not say, on `cpus` processors.
    fn default_shards(&self, cpus: usize) -> usize;

    /// Serves one shard on the calling thread until it is told to stop and its conversations have
    /// ended.
    ///
    /// # Errors
    ///
    /// Only if the shard cannot go on. Trouble with a connection is counted and ends that
    /// connection.
    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats>;
}

/// Every backend, the one that `auto` prefers first.
pub static BACKENDS: &[&dyn Backend] = &[&IoUring::DEFAULT, &mio::Mio, &blocking::Blocking];

/// The backend of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Backend> {
    BACKENDS.iter().copied().find(|backend| backend.name() == name)
}

/// What a backend is given. Shards share nothing but the stop signal and the count of open
/// connections.
pub struct Shard<'a> {
    /// Its own socket: bound, listening, in blocking mode.
    pub listener: TcpListener,
    /// What the server was told.
    pub options: &'a Options,
    /// When to stop.
    pub stop: &'a Stop,
    /// How many may be open.
    pub limit: &'a ConnectionLimit,
    /// Who is told of the system calls, if anybody.
    pub tracer: Option<&'a Tracer>,
    /// To be called once, when nothing but connections is missing: tells that this shard has what
    /// it needs, and waits until it may accept, or has to stop.
    pub ready: &'a dyn Fn() -> io::Result<()>,
    /// Makes what the server says, for this thread or, where a backend has a thread for each, for
    /// one conversation.
    pub service: &'a (dyn Fn() -> Box<dyn Service> + Sync),
}

/// Why a backend cannot run here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unsupported {
    /// The cause, in words, with the errno's name.
    pub cause: String,
    /// What could be done about it.
    pub hint: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Unsupported {}
