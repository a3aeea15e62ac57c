//! Telling every shard of a server to stop, once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, write};

/// A server's stop signal: a phase that only goes forward, and a descriptor to wait on.
///
/// The descriptor becomes readable when draining begins and stays readable: nobody reads it.
#[derive(Debug)]
pub struct Stop {
    made: Instant,
    /// When draining began, in nanoseconds since it was made; zero before.
    drained_after_ns: AtomicU64,
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
        let (made, drained_after_ns) = (Instant::now(), AtomicU64::new(0));
        Ok(Self { made, drained_after_ns, event, drain_timeout })
    }

    /// Stop accepting; let each conversation end with the reply it is owed. Later calls do nothing.
    ///
    /// It may be called by a signal handler (signal-safety(7)): it never waits for another caller,
    /// which could be what the signal interrupted.
    pub fn drain(&self) {
        let now_ns = self.made.elapsed().as_nanos() as u64; // enough for 584 years
        let (release, relaxed) = (Ordering::Release, Ordering::Relaxed);
        let drained_after_ns = &self.drained_after_ns;
        let _later = drained_after_ns.compare_exchange(0, now_ns.max(1), release, relaxed);
        // It can only fail when the counter is full, and then the descriptor is readable already.
        let _full = write(&self.event, &1_u64.to_ne_bytes());
    }

    /// When draining began.
    fn draining_since(&self) -> Option<Instant> {
        match self.drained_after_ns.load(Ordering::Acquire) {
            0 => None,
            after => Some(self.made + Duration::from_nanos(after)),
        }
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.draining_since().is_some()
    }

    /// When conversations that still go on are cut; none while the server runs, or when that is
    /// further away than the clock reaches.
    pub fn deadline(&self) -> Option<Instant> {
        self.draining_since()?.checked_add(self.drain_timeout)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_counts_from_the_first_call() {
        let stop = Stop::new(Duration::from_secs(60)).unwrap();
        assert_eq!((stop.is_draining(), stop.deadline()), (false, None));
        assert!(!stop.wait(Duration::from_millis(1)));
        let before = Instant::now();
        stop.drain();
        let deadline = stop.deadline().unwrap();
        assert!(deadline >= before + stop.drain_timeout, "not before it was told");
        assert!(deadline <= Instant::now() + stop.drain_timeout);
        stop.drain();
        assert_eq!(stop.deadline(), Some(deadline));
        assert!(stop.wait(stop.drain_timeout), "the descriptor says so, too");
    }
}
