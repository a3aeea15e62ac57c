//! What a server counts. Plain integers, one writer: a shard's own thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use lockstep_core::Cause;
use serde::Serialize;

use crate::trace::Trace;
use lockstep_sys::errno;
use lockstep_sys::tcp_info::AcceptQueue;

/// The counts of one shard, or of a whole server after [`merge`](Self::merge).
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Stats {
    /// Connections taken from the listen queue.
    pub accepted: u64,
    /// The same, of each shard; only of a whole server.
    pub accepted_per_shard: Vec<u64>,
    /// Conversations ended, by cause.
    pub closed: Closed,
    /// Requests answered in full.
    pub exchanges: u64,
    /// Bytes of requests.
    pub bytes_received: u64,
    /// Bytes of replies.
    pub bytes_sent: u64,
    /// Sends of which the kernel took only a part, or nothing.
    pub sends_short: u64,
    /// Failures of accept(2), and of starting a thread for the accepted, by errno.
    pub accept_errors: BTreeMap<String, u64>,
    /// Failures of receives and sends, by errno; each ended its connection.
    pub io_errors: BTreeMap<String, u64>,
    /// Connections open at once, at most.
    pub connections_peak: u64,
    /// The most connections seen waiting in the accept queue of one shard, when it was about to
    /// accept. Who comes while a shard waits for somebody to come is not seen waiting.
    pub accept_queue_peak: u64,
    /// The limit of each shard's accept queue; it holds one more.
    pub accept_queue_limit: u64,
    /// How often a handshake found an accept queue full while the server ran: this server's or
    /// another's of this network namespace, for which the kernel counts (`ListenOverflows`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_overflows: Option<u64>,
    /// How often a handshake was not begun or not completed, for that or another reason: likewise
    /// of this network namespace (`ListenDrops`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_drops: Option<u64>,
    /// Conversations cut because they outlasted the drain timeout.
    pub drain_cut: u64,
    /// System calls made to accept, wait, receive, send and close.
    pub syscalls: u64,
    /// Microseconds spent polling instead of sleeping.
    pub spun_us: u64,
    /// Receives that io_uring could not give a buffer at once.
    pub buffers_starved: u64,
}

/// Conversations ended, by cause.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Closed(BTreeMap<&'static str, u64>);

impl Closed {
    /// How many ended with `cause`.
    pub fn count(&self, cause: Cause) -> u64 {
        self.0.get(cause.name()).copied().unwrap_or(0)
    }

    /// How many ended.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl Stats {
    /// Counts nothing yet; every cause is listed.
    pub fn new() -> Self {
        let closed = Closed(Cause::ALL.iter().map(|cause| (cause.name(), 0)).collect());
        Self { closed, ..Self::default() }
    }

    /// Adds what another shard or conversation counted.
    pub fn merge(&mut self, other: &Self) {
        self.accepted += other.accepted;
        for (cause, count) in &other.closed.0 {
            *self.closed.0.entry(cause).or_default() += count;
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
        // Shards share one count of the open connections, so its peak is the largest they saw.
        self.connections_peak = self.connections_peak.max(other.connections_peak);
        self.accept_queue_peak = self.accept_queue_peak.max(other.accept_queue_peak);
        self.accept_queue_limit = self.accept_queue_limit.max(other.accept_queue_limit);
        self.drain_cut += other.drain_cut;
        self.syscalls += other.syscalls;
        self.spun_us += other.spun_us;
        self.buffers_starved += other.buffers_starved;
    }

    /// System calls per exchange; absent before the first.
    pub fn syscalls_per_exchange(&self) -> Option<f64> {
        (self.exchanges > 0).then(|| self.syscalls as f64 / self.exchanges as f64)
    }

    /// Bytes received and sent.
    #[inline]
    pub(crate) fn bytes_moved(&self) -> u64 {
        self.bytes_received + self.bytes_sent
    }

    /// Counts a request of `count` bytes.
    #[inline]
    pub(crate) fn on_received(&mut self, count: usize) {
        self.bytes_received += count as u64;
    }

    /// Counts `count` bytes sent of the `offered`.
    #[inline]
    pub(crate) fn on_sent(&mut self, count: usize, offered: usize) {
        self.bytes_sent += count as u64;
        if count == offered {
            self.exchanges += 1;
        } else {
            self.sends_short += 1;
        }
    }

    /// Looks at the accept queue; it is worth a look when there is somebody to accept.
    pub(crate) fn look_at_queue(&mut self, listener: impl AsFd, trace: impl Trace) {
        self.syscalls += 1;
        let fd = listener.as_fd().as_raw_fd();
        let name_and_args = format_args!("getsockopt({fd}, TCP_INFO)");
        let look = || AcceptQueue::of(listener);
        let shown = |queue: &AcceptQueue| {
            format!("0, {} in the accept queue, limit {}", queue.waiting, queue.limit)
        };
        let Ok(queue) = trace.call_for(fd, name_and_args, look, shown) else { return };
        self.accept_queue_peak = self.accept_queue_peak.max(queue.waiting.into());
        self.accept_queue_limit = queue.limit.into();
    }

    /// Counts the end of a conversation.
    pub(crate) fn on_closed(&mut self, cause: Cause) {
        *self.closed.0.entry(cause.name()).or_default() += 1;
    }

    /// Counts a failed receive or send.
    pub(crate) fn on_io_error(&mut self, error: &io::Error) {
        *self.io_errors.entry(errno::name_of(error)).or_default() += 1;
    }

    /// Counts a failed accept.
    pub(crate) fn on_accept_error(&mut self, error: &io::Error) {
        *self.accept_errors.entry(errno::name_of(error)).or_default() += 1;
    }
}
