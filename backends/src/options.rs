//! Options of a server.

use std::net::SocketAddr;
use std::time::Duration;

/// Options of a server; the defaults are those of the command line.
///
/// The server itself applies those that concern listening, pinning, metrics and tracing. A backend
/// applies [`accept_delay`](Self::accept_delay) and [`idle_timeout`](Self::idle_timeout), and,
/// depending on its model, [`threads`](Self::threads) and [`spin`](Self::spin).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Length of each shard's listen queue, as asked of listen(2); the kernel caps it at
    /// `net.core.somaxconn`.
    pub backlog: u32,
    /// Share the port with other servers of the same user that also share it; the kernel spreads
    /// connections over all of them.
    pub reuse_port: bool,
    /// Number of threads with a listener each; `None` lets the backend choose.
    pub shards: Option<usize>,
    /// Number of threads that each accept and serve one connection at a time, in place of a thread
    /// per connection. For backends with a [thread per
    /// connection](crate::Backend::thread_per_connection).
    pub threads: Option<usize>,
    /// CPUs for the shards, shared out in turn; empty pins nothing.
    pub pin: Vec<usize>,
    /// Send each connection to the shard on the CPU where its packets are processed, in place of
    /// spreading connections by hash. If some of these CPUs process no packets of clients, their
    /// shards get no connection.
    pub steer: bool,
    /// Largest number of open connections; more wait in the listen queue.
    pub conns_max: usize,
    /// Pause between listening and the first accept; [`Duration::MAX`] lasts until
    /// [`AcceptPause::end`](crate::AcceptPause::end).
    pub accept_pause: Duration,
    /// Delay before each accept of a shard, or of each of its [`threads`](Self::threads).
    pub accept_delay: Duration,
    /// Address at which the server serves its [metrics](crate::metrics); port 0 lets the kernel
    /// choose.
    pub metrics: Option<SocketAddr>,
    /// Print every system call on standard error.
    pub trace: bool,
    /// Longest busy-poll before sleeping; zero never polls. For backends that
    /// [can](crate::Backend::can_busy_poll).
    pub spin: Duration,
    /// Time without a byte moved after which a connection is closed.
    pub idle_timeout: Option<Duration>,
    /// Time after the stop signal at which connections still open are closed.
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
            steer: false,
            conns_max: usize::MAX,
            accept_pause: Duration::ZERO,
            accept_delay: Duration::ZERO,
            metrics: None,
            trace: false,
            spin: Duration::ZERO,
            idle_timeout: None,
            drain_timeout: Duration::from_secs(10),
        }
    }
}
