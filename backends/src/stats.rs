//! Counts of a server. Plain integers with one writer, a shard's own thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use lockstep_core::Cause;
use serde::{Serialize, Serializer};

use crate::Tracer;
use crate::trace::Trace;
use lockstep_sys::errno;
use lockstep_sys::tcp::AcceptQueue;

/// Counts of one shard or, after [`merge`](Self::merge), of a whole server.
///
/// A backend counts with the methods whose names begin with `on_`, which cost an addition each, and
/// adds to [`drain_cut`](Self::drain_cut), [`syscalls`](Self::syscalls) and the fields of its own
/// I/O model itself.
///
/// ```
/// use lockstep_backends::Stats;
/// use lockstep_core::Cause;
///
/// let mut stats = Stats::new();
/// stats.on_accepted();
/// stats.on_received(100); // a request
/// stats.on_sent(60, 100); // a short send
/// stats.on_sent(40, 40); // the rest of the reply
/// stats.on_closed(Cause::Eof);
/// assert_eq!((stats.exchanges, stats.sends_short, stats.bytes_sent), (1, 1, 100));
/// assert_eq!(stats.accepted, stats.closed.total());
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Stats {
    /// Connections taken from the listen queue.
    pub accepted: u64,
    /// The same for each shard; only of a whole server.
    pub accepted_per_shard: Vec<u64>,
    /// Connections ended, by cause.
    pub closed: Closed,
    /// Requests answered in full.
    pub exchanges: u64,
    /// Bytes of requests.
    pub bytes_received: u64,
    /// Bytes of replies.
    pub bytes_sent: u64,
    /// Sends of which the kernel took only a part, or nothing.
    pub sends_short: u64,
    /// Failed accepts, and failures to start a thread for an accepted connection, by errno.
    pub accept_errors: BTreeMap<String, u64>,
    /// Failed receives and sends, by errno; each ended its connection.
    pub io_errors: BTreeMap<String, u64>,
    /// Largest number of connections open at the same time.
    pub connections_peak: u64,
    /// Largest number of connections seen in the accept queue of a shard that was about to accept.
    /// Connections that arrive while the shard is blocked in accept are not counted.
    pub accept_queue_peak: u64,
    /// Limit of each shard's accept queue; the kernel admits one more.
    pub accept_queue_limit: u64,
    /// Handshakes that found an accept queue full while the server ran: this server's or another's
    /// in the same network namespace, for which the kernel counts (`ListenOverflows`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_overflows: Option<u64>,
    /// Handshakes that were not begun or not completed for that or another reason, also counted per
    /// network namespace (`ListenDrops`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_drops: Option<u64>,
    /// Connections closed at the drain timeout.
    pub drain_cut: u64,
    /// System calls made to accept, wait, receive, send and close.
    pub syscalls: u64,
    /// Microseconds of busy-polling.
    pub spun_us: u64,
    /// Receives of io_uring that had to wait for a buffer.
    pub buffers_starved: u64,
}

/// Connections ended, by cause.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Closed(pub(crate) [u64; Cause::ALL.len()]);

impl Closed {
    /// Number of connections that ended with `cause`.
    pub const fn count(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    /// Number of connections that ended.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Serialize for Closed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Cause::ALL.map(|cause| (cause.name(), self.count(cause))))
    }
}

impl Stats {
    /// All counts are zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the counts of another shard or connection.
    pub fn merge(&mut self, other: &Self) {
        self.accepted += other.accepted;
        for (count, more) in self.closed.0.iter_mut().zip(other.closed.0) {
            *count += more;
        }
        self.exchanges += other.exchanges;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.sends_short += other.sends_short;
        for (errors, more) in [
            (&mut self.accept_errors, &other.accept_errors),
            (&mut self.io_errors, &other.io_errors),
        ] {
            for (errno, count) in more {
                *errors.entry(errno.clone()).or_default() += count;
            }
        }
        self.connections_peak = self.connections_peak.max(other.connections_peak);
        self.accept_queue_peak = self.accept_queue_peak.max(other.accept_queue_peak);
        self.accept_queue_limit = self.accept_queue_limit.max(other.accept_queue_limit);
        self.drain_cut += other.drain_cut;
        self.syscalls += other.syscalls;
        self.spun_us += other.spun_us;
        self.buffers_starved += other.buffers_starved;
    }

    /// System calls per exchange; none before the first exchange.
    pub fn syscalls_per_exchange(&self) -> Option<f64> {
        (self.exchanges > 0).then(|| self.syscalls as f64 / self.exchanges as f64)
    }

    /// Bytes received and sent.
    #[inline]
    pub(crate) fn bytes_moved(&self) -> u64 {
        self.bytes_received + self.bytes_sent
    }

    /// Counts an accepted connection.
    pub fn on_accepted(&mut self) {
        self.accepted += 1;
    }

    /// Counts a request of `count` bytes.
    #[inline]
    pub fn on_received(&mut self, count: usize) {
        self.bytes_received += count as u64;
    }

    /// Counts a send that took `count` of the `offered` bytes of a reply.
    #[inline]
    pub fn on_sent(&mut self, count: usize, offered: usize) {
        self.bytes_sent += count as u64;
        if count == offered {
            self.exchanges += 1;
        } else {
            self.sends_short += 1;
        }
    }

    /// Counts the end of a connection. Exactly one for each accepted connection.
    pub fn on_closed(&mut self, cause: Cause) {
        self.closed.0[cause as usize] += 1;
    }

    /// Counts a failed receive or send.
    pub fn on_io_error(&mut self, error: &io::Error) {
        *self.io_errors.entry(errno::name_of(error)).or_default() += 1;
    }

    /// Counts a failed accept.
    pub fn on_accept_error(&mut self, error: &io::Error) {
        *self.accept_errors.entry(errno::name_of(error)).or_default() += 1;
    }

    /// Reads the length of the accept queue, which is of interest before an accept that will find
    /// something. One system call.
    pub fn observe_queue(&mut self, listener: impl AsFd, tracer: Option<&Tracer>) {
        self.syscalls += 1;
        let fd = listener.as_fd().as_raw_fd();
        let call = format_args!("getsockopt({fd}, TCP_INFO)");
        let read = || AcceptQueue::of(listener);
        let printed = |queue: &AcceptQueue| {
            format!("0, {} in the accept queue, limit {}", queue.waiting, queue.limit)
        };
        let Ok(queue) = tracer.call_for(fd, call, read, printed) else { return };
        self.accept_queue_peak = self.accept_queue_peak.max(queue.waiting.into());
        self.accept_queue_limit = queue.limit.into();
    }
}
