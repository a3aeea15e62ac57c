//! The stop signal of a server, and waiting with poll(2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, write};

/// Delay before a wait is tried again that has failed for lack of memory.
pub(crate) const WAIT_RETRY: Duration = Duration::from_millis(10);

/// Waits with poll(2), for at most `timeout`. Returns early after a signal and, with false, after
/// [`WAIT_RETRY`] if the call fails (ENOMEM): the caller checks what it waits for and loops.
pub(crate) fn wait_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> bool {
    let timespec = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let polled = matches!(poll(fds, timespec.as_ref()), Ok(_) | Err(Errno::INTR));
    if !polled {
        thread::sleep(WAIT_RETRY.min(timeout.unwrap_or(WAIT_RETRY)));
    }
    polled
}

/// Stop signal of a server: a state that changes once, and a descriptor to wait on.
///
/// The descriptor becomes readable when draining begins and stays so; it is never read. A backend
/// waits on it together with its sockets, or blocks in [`wait`](Self::wait).
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use lockstep_backends::Stop;
///
/// let stop = Stop::new(Duration::from_secs(10))?;
/// assert!(!stop.wait(Duration::from_millis(1)));
/// stop.drain();
/// assert!(stop.wait(Duration::MAX));
/// assert!(stop.deadline().unwrap() <= Instant::now() + Duration::from_secs(10));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Stop {
    made: Instant,
    /// Start of draining, in nanoseconds since `made`; zero before.
    drained_after_ns: AtomicU64,
    event: OwnedFd,
    drain_timeout: Duration,
}

impl Stop {
    /// Returns a signal that is not given yet. Connections will have `drain_timeout` to end.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE` if no descriptor is left (eventfd(2)).
    pub fn new(drain_timeout: Duration) -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (made, drained_after_ns) = (Instant::now(), AtomicU64::new(0));
        Ok(Self { made, drained_after_ns, event, drain_timeout })
    }

    /// Begins to drain: the server stops accepting, and each connection ends with the reply it is
    /// owed. Later calls have no effect.
    ///
    /// Async-signal-safe (signal-safety(7)): it never waits for another caller, which could be what
    /// the signal interrupted.
    pub fn drain(&self) {
        let now_ns = self.made.elapsed().as_nanos() as u64; // enough for 584 years
        let (release, relaxed) = (Ordering::Release, Ordering::Relaxed);
        let drained_after_ns = &self.drained_after_ns;
        let _later = drained_after_ns.compare_exchange(0, now_ns.max(1), release, relaxed);
        // Fails only when the counter is full, and then the descriptor is readable already.
        let _full = write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Start of draining.
    fn draining_since(&self) -> Option<Instant> {
        match self.drained_after_ns.load(Ordering::Acquire) {
            0 => None,
            after => Some(self.made + Duration::from_nanos(after)),
        }
    }

    /// True once draining has begun.
    pub fn is_draining(&self) -> bool {
        self.draining_since().is_some()
    }

    /// Time at which connections still open are closed; none while the server runs, or if it is
    /// further away than the clock reaches.
    pub fn deadline(&self) -> Option<Instant> {
        self.draining_since()?.checked_add(self.drain_timeout)
    }

    /// Waits for draining to begin, for at most `timeout`; returns true if it has begun. A zero
    /// timeout does not wait.
    pub fn wait(&self, timeout: Duration) -> bool {
        if timeout.is_zero() {
            return self.is_draining();
        }
        let until = Instant::now().checked_add(timeout);
        while !self.is_draining() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return false;
            }
            wait_for(&mut [PollFd::new(&self.event, PollFlags::IN)], left);
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
    fn deadline_counts_from_the_first_call() {
        let stop = Stop::new(Duration::from_secs(60)).unwrap();
        assert_eq!((stop.is_draining(), stop.deadline()), (false, None));
        assert!(!stop.wait(Duration::from_millis(1)));
        let before = Instant::now();
        stop.drain();
        let deadline = stop.deadline().unwrap();
        assert!(deadline >= before + stop.drain_timeout, "not before the call");
        assert!(deadline <= Instant::now() + stop.drain_timeout);
        stop.drain();
        assert_eq!(stop.deadline(), Some(deadline));
        assert!(stop.wait(stop.drain_timeout), "the descriptor is readable");
    }
}
