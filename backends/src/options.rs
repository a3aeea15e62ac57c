//! What a server can be told.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How a server listens and what it limits. The defaults are the command line's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// The listen queue asked of listen(2), per shard; the kernel caps it at
    /// `net.core.somaxconn`.
    pub backlog: u32,
    /// Whether to share the port with other servers of this user that do so, too; the kernel spreads
    /// connections over all of them.
    pub reuse_port: bool,
    /// Threads with a listener each; `None` lets the backend choose.
    pub shards: Option<usize>,
    /// Blocking backend: so many threads that each accept and serve one conversation at a time,
    /// in place of a thread per connection.
    pub threads: Option<usize>,
    /// Processors for the shards, one each in turn; empty pins nothing.
    pub pin: Vec<usize>,
    /// Whether a connection goes to a shard on the processor that its packets are processed on;
    /// `None`: if each shard has a processor of its own.
    pub steer: Option<bool>,
    /// Connections open at once, at most; more wait in the listen queue.
    pub conns_max: usize,
    /// How long to accept nothing at first, though the server listens; [`Duration::MAX`]: until
    /// [`AcceptPause::open`](crate::AcceptPause::open).
    pub accept_pause: Duration,
    /// How long to wait before each accept: of a shard, or of a thread where those accept.
    pub accept_delay: Duration,
    /// Whether every system call is told, on standard error.
    pub trace: bool,
    /// How long to poll before sleeping, at most; zero never does. The blocking backend has nothing
    /// to poll.
    pub spin: Duration,
    /// How long a connection may go without a byte moving.
    pub idle_timeout: Option<Duration>,
    /// How long conversations may take to end after the stop signal, before they are cut.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backlog: 1024,
            reuse_port: false,
            shards: None,
            threads: None,
            pin: Vec::new(),
            steer: None,
            conns_max: usize::MAX,
            accept_pause: Duration::ZERO,
            accept_delay: Duration::ZERO,
            trace: false,
            spin: Duration::ZERO,
            idle_timeout: None,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// What a server says: see the services of the same names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServiceKind {
    /// [`lockstep_core::Echo`]
    Echo,
    /// [`lockstep_core::Hi`]
    Hi,
    /// [`crate::chat::Chat`]
    Chat,
}

impl ServiceKind {
    /// Every service.
    pub const ALL: [Self; 3] = [Self::Echo, Self::Hi, Self::Chat];

    /// The name used in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Hi => "hi",
            Self::Chat => "chat",
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ServiceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("no service is called {text:?}; there are echo, hi and chat"))
    }
}
