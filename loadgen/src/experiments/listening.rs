//! Shared by the experiments on listening: waiting for sockets, the depth of an accept queue over
//! time, and the kernel's settings.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use lockstep_results::backlog::{Depth, Kernel};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::system::uname;
use rustix::time::Timespec;
use socket2::Socket;

/// Most events taken at a time.
const EVENTS: usize = 512;

/// An epoll instance (epoll(7)).
#[derive(Debug)]
pub(super) struct Poller(OwnedFd);

impl Poller {
    /// Creates an instance.
    ///
    /// # Errors
    ///
    /// `EMFILE` if the process is out of descriptors.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Registers a socket, edge-triggered, for everything. Its events carry `key`.
    ///
    /// # Errors
    ///
    /// `ENOSPC` at the user's limit of registered descriptors (epoll(7)).
    pub(super) fn add(&self, socket: &Socket, key: u64) -> io::Result<()> {
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.0, socket, EventData::new_u64(key), interest)?)
    }

    /// Waits for events for up to `longest`; returns the key and the flags of each.
    ///
    /// # Errors
    ///
    /// Those of epoll_wait(2) except `EINTR`.
    pub(super) fn wait(&self, longest: Duration) -> io::Result<Vec<(u64, EventFlags)>> {
        // Every kernel's epoll accepts whole milliseconds; rounded up, the wait is not too short.
        let wait_ms = longest.as_nanos().div_ceil(1_000_000) as i64;
        let timeout = Timespec { tv_sec: wait_ms / 1000, tv_nsec: wait_ms % 1000 * 1_000_000 };
        let mut events = Vec::<epoll::Event>::with_capacity(EVENTS);
        match epoll::wait(&self.0, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events.iter().map(|event| (event.data.u64(), event.flags)).collect())
    }
}

/// The values without duplicates, in order.
pub(super) fn unique<T: Clone + PartialEq>(values: &[T]) -> Vec<T> {
    let mut unique = Vec::new();
    for value in values {
        if !unique.contains(value) {
            unique.push(value.clone());
        }
    }
    unique
}

/// Records a depth of the accept queues if it differs from the last one.
pub(super) fn record_depth(depths: &mut Vec<Depth>, at: Duration, depth: u32) {
    if depths.last().is_none_or(|last| last.depth != depth) {
        depths.push(Depth { at_s: at.as_secs_f64(), depth });
    }
}

/// Reads the settings of this network namespace that determine how a listener behaves. Settings
/// that cannot be read are absent.
pub(super) fn kernel_settings() -> Kernel {
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).ok();
    let number = |name: &str| setting(name)?.trim().parse().ok();
    Kernel {
        release: uname().release().to_string_lossy().into_owned(),
        somaxconn: number("core/somaxconn"),
        syncookies: number("ipv4/tcp_syncookies"),
        abort_on_overflow: number("ipv4/tcp_abort_on_overflow"),
        max_syn_backlog: number("ipv4/tcp_max_syn_backlog"),
        syn_retries: number("ipv4/tcp_syn_retries"),
        syn_linear_timeouts: number("ipv4/tcp_syn_linear_timeouts"),
    }
}
