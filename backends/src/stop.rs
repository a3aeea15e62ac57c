//! Telling every shard of a server to stop, once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, write};

/// A server's stop signal: a phase that only goes forward, and a descriptor to wait on.
///
/// The descriptor becomes readable when draining begins and stays readable: nobody reads it.
#[derive(Debug)]
pub struct Stop {
    draining_since: OnceLock<Instant>,
    event: OwnedFd,
    drain_timeout: Duration,
}

impl Stop {
    /// A server that runs, and that will give its conversations `drain_timeout` to end.
    ///
    /// # Errors
    ///
    /// If the kernel has no descriptor for it (eventfd(2)).
    pub fn new(drain_timeout: Duration) -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { draining_since: OnceLock::new(), event, drain_timeout })
    }

    /// Stop accepting; let each conversation end with the reply it is owed. Later calls do nothing.
    pub fn drain(&self) {
        self.draining_since.get_or_init(Instant::now);
        // It can only fail when the counter is full, and then the descriptor is readable already.
        let _full = write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.draining_since.get().is_some()
    }

    /// When conversations that still go on are cut; none while the server runs, or when that is
    /// further away than the clock reaches.
    pub fn deadline(&self) -> Option<Instant> {
        self.draining_since.get()?.checked_add(self.drain_timeout)
    }

    /// Waits until draining begins, at most for `timeout`; says whether it has. Without a timeout
    /// it is but a look.
    pub fn wait(&self, timeout: Duration) -> bool {
        if timeout.is_zero() {
            return self.is_draining();
        }
        let until = Instant::now() + timeout;
        while !self.is_draining() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return self.is_draining(),
            }
        }
        true
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
