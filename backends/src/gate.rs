//! The gate before accepting: a server that listens, and that accepts nothing yet.
//!
//! It is for looking at the listen queue, which fills up while nobody accepts.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, write};

use crate::Stop;

/// Shut for a time, or until somebody opens it; once open, it stays open.
#[derive(Debug)]
pub struct Gate {
    /// Readable when it has been opened; nobody reads it.
    event: OwnedFd,
    /// When it opens by itself; none if that is further away than the clock reaches.
    opens_at: Option<Instant>,
}

impl Gate {
    /// A gate that opens by itself after `pause`: at once for zero, never for [`Duration::MAX`].
    ///
    /// # Errors
    ///
    /// If the kernel has no descriptor for it (eventfd(2)).
    pub fn new(pause: Duration) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, opens_at: Instant::now().checked_add(pause) })
    }

    /// Lets everybody through. Later calls do nothing. A signal handler may call it (signal-safety(7)).
    pub fn open(&self) {
        // It can only fail when the counter is full, and then the descriptor is readable already.
        let _full = write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Waits until it is open, or until the server stops: then what waits in the listen queue is
    /// accepted all the same.
    pub(crate) fn pass(&self, stop: &Stop) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.event, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        loop {
            let left = self.opens_at.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }
}
