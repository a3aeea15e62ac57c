//! Accepting connections: the listener of an event loop, the limit on open connections, a pause
//! before the first accept, and what follows a failed one.

use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lockstep_sys::errno::{describe, is_exhaustion};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::io::write;
use rustix::net::{SocketFlags, accept_with};
use socket2::SockRef;

use crate::stop::wait_for;
use crate::trace::{Trace, Traced};
use crate::{Options, Stats, Stop};

/// True if accept(2) failed because of the listener, so that every later accept fails as well:
/// EINVAL after the socket was shut down or destroyed (`ss --kill`), EBADF, ENOTSOCK and EOPNOTSUPP
/// for a descriptor that is no listening socket, ENOSYS in a sandbox. The shard drains the server
/// and ends with [`listener_error`]. After any other failure it accepts again, after a delay
/// ([`AcceptBackoff`]).
pub(crate) fn is_permanent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::ENOSYS)
    )
}

/// The error of a shard whose listener has failed for good.
pub(crate) fn listener_error(listener: impl AsFd, error: &io::Error) -> io::Error {
    let addr = SockRef::from(&listener).local_addr().ok().and_then(|addr| addr.as_socket());
    let addr = addr.map_or_else(String::new, |addr| format!(" on {addr}"));
    io::Error::other(format!("cannot accept{addr}: {}", describe(error)))
}

/// The listener of a shard with an event loop. It accepts within the limits, and not before a delay
/// has passed.
#[derive(Debug)]
pub(crate) struct Acceptor<'a> {
    /// None once it is closed.
    listener: Option<TcpListener>,
    /// The error with which it failed for good.
    error: Option<io::Error>,
    backoff: AcceptBackoff,
    limit: &'a ConnectionLimit,
    stop: &'a Stop,
}

/// Result of [`Acceptor::accept`].
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A connection, in non-blocking mode.
    Connection(TcpStream),
    /// The listen queue is empty, or the listener has failed for good.
    Empty,
    /// None is possible before [`Acceptor::delayed_until`].
    Delayed,
    /// This one failed; the next may succeed.
    Failed,
}

impl<'a> Acceptor<'a> {
    /// Makes the listener non-blocking.
    pub(crate) fn new(
        listener: TcpListener,
        (options, limit, stop): (&Options, &'a ConnectionLimit, &'a Stop),
        trace: impl Trace,
    ) -> io::Result<Self> {
        let listener = Traced { socket: listener, trace };
        listener.call("ioctl", "FIONBIO, 1", |listener| listener.set_nonblocking(true))?;
        let backoff = AcceptBackoff::new(options.accept_delay);
        Ok(Self { listener: Some(listener.socket), error: None, backoff, limit, stop })
    }

    /// The listener; none once it is closed.
    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Time of the next accept; none if there is no delay.
    pub(crate) fn delayed_until(&self) -> Option<Instant> {
        self.backoff.until().filter(|_| self.listener.is_some())
    }

    /// Ends the delays that are over.
    pub(crate) fn expire(&mut self) {
        if self.backoff.until().is_some() {
            self.backoff.expire(Instant::now());
        }
    }

    /// Accepts a connection and counts it. If the server stops, the limit does not apply.
    pub(crate) fn accept(&mut self, stats: &mut Stats, trace: impl Trace) -> Accepted {
        let Some(listener) = self.listener.as_ref().filter(|_| self.error.is_none()) else {
            return Accepted::Empty;
        };
        if self.stop.is_draining() {
            self.limit.acquire();
        } else if self.backoff.until().is_some() {
            return Accepted::Delayed;
        } else if !self.limit.try_acquire() {
            // Another shard may release a slot; only another try shows it.
            self.backoff.start(Instant::now());
            return Accepted::Delayed;
        }
        stats.syscalls += 1;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || Ok(accept_with(listener, flags)?);
        let error = match trace.accept(listener, accept, AsRawFd::as_raw_fd) {
            Ok(socket) => {
                self.backoff.reset();
                self.limit.opened();
                stats.on_accepted();
                return Accepted::Connection(socket.into());
            }
            Err(error) => error,
        };
        self.limit.release();
        match error.kind() {
            ErrorKind::WouldBlock => return Accepted::Empty,
            ErrorKind::Interrupted => return Accepted::Failed,
            _ => stats.on_accept_error(&error),
        }
        if is_permanent(&error) {
            self.error = Some(listener_error(listener, &error));
            self.stop.drain();
            Accepted::Empty
        } else if is_exhaustion(&error) || !self.stop.is_draining() {
            self.backoff.start(Instant::now());
            Accepted::Delayed
        } else {
            Accepted::Failed
        }
    }

    /// Reports that a socket has been closed, which frees a descriptor and a slot.
    pub(crate) fn closed(&mut self) {
        self.limit.closed();
        self.backoff.end();
    }

    /// Ends all delays: a stopping server accepts its listen queue without any.
    pub(crate) fn end_delays(&mut self) {
        self.backoff.disable();
    }

    /// Closes the listener.
    pub(crate) fn close(&mut self, trace: impl Trace) {
        if let Some(listener) = self.listener.take() {
            trace.close(listener);
        }
    }

    /// Returns the error with which the listener failed for good.
    pub(crate) fn into_error(self) -> Option<io::Error> {
        self.error
    }
}

/// Limit on open connections, shared by all shards. Connections beyond it wait in the listen queue.
///
/// A backend acquires a slot for each connection it accepts, reports the connection with
/// [`opened`](Self::opened) and, after it has closed the socket, with [`closed`](Self::closed),
/// which releases the slot. It is used when a connection opens or closes, never for an exchange.
///
/// The limit can be exceeded by accepted connections that are not served yet: one per blocking
/// acceptor, and up to a full listen queue with multishot accept.
///
/// ```
/// use lockstep_backends::ConnectionLimit;
///
/// let limit = ConnectionLimit::new(1);
/// assert!(limit.try_acquire()); // before accept(2)
/// limit.opened(); // accept(2) has returned a connection
/// assert!(!limit.try_acquire(), "the only slot is taken");
/// limit.closed(); // after close(2)
///
/// assert!(limit.try_acquire());
/// limit.release(); // accept(2) would block
/// assert_eq!(limit.peak(), 1);
/// ```
#[derive(Debug)]
pub struct ConnectionLimit {
    acquired: AtomicUsize,
    open: AtomicUsize,
    peak: AtomicUsize,
    limit: usize,
}

impl ConnectionLimit {
    /// Returns a limit of `limit` connections, at least one.
    pub fn new(limit: usize) -> Self {
        let [acquired, open, peak] = [const { AtomicUsize::new(0) }; 3];
        Self { acquired, open, peak, limit: limit.max(1) }
    }

    /// Acquires a slot; returns false if none is free. No notification follows when one becomes
    /// free on another shard: try again after some milliseconds.
    pub fn try_acquire(&self) -> bool {
        let next = |acquired| (acquired < self.limit).then_some(acquired + 1);
        self.acquired.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// Acquires a slot even beyond the limit, for a connection found in the listen queue when the
    /// server stops.
    pub fn acquire(&self) {
        self.acquired.fetch_add(1, Relaxed);
    }

    /// Releases a slot for which no connection was accepted.
    pub fn release(&self) {
        let acquired = self.acquired.fetch_sub(1, Relaxed);
        debug_assert!(acquired > 0, "released a slot that was not acquired");
    }

    /// Counts a connection accepted for an acquired slot.
    pub fn opened(&self) {
        let open = self.open.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(open, Relaxed);
    }

    /// Counts a closed connection and releases its slot.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
        self.release();
    }

    /// Number of open connections.
    pub fn count(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Largest number of connections open at the same time.
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed) as u64
    }
}

/// Pause before the first accept: the server listens, and its listen queue fills up. It ends after
/// a fixed time or when [`end`](Self::end) is called.
///
/// A backend does not use it: [`Shard::ready`](crate::Shard::ready) returns after the pause.
#[derive(Debug)]
pub struct AcceptPause {
    /// Readable after `end`; never read.
    event: OwnedFd,
    /// End of the pause; none if it is further away than the clock reaches.
    until: Option<Instant>,
}

impl AcceptPause {
    /// Starts a pause of the given length: zero is none, [`Duration::MAX`] lasts until
    /// [`end`](Self::end).
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE` if no descriptor is left (eventfd(2)).
    pub fn new(length: Duration) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, until: Instant::now().checked_add(length) })
    }

    /// Ends the pause. Later calls have no effect. Async-signal-safe (signal-safety(7)).
    pub fn end(&self) {
        // Fails only when the counter is full, and then the descriptor is readable already.
        let _full = write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Waits until the pause ends or the server stops: a stopping server still accepts what is in
    /// its listen queue.
    pub(crate) fn wait(&self, stop: &Stop) {
        let mut fds = [PollFd::new(&self.event, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        loop {
            let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            wait_for(&mut fds, left);
            if left == Some(Duration::ZERO) || fds.iter().any(|fd| !fd.revents().is_empty()) {
                return;
            }
        }
    }
}

/// Delay before the next accept: the fixed one of `--accept-delay`, and one after an accept failed,
/// or found no free slot: 10 ms, doubling up to 200 ms.
#[derive(Debug, Default)]
pub(crate) struct AcceptBackoff {
    /// End and length of the delay after a failure.
    until: Option<Instant>,
    length: Duration,
    /// Fixed delay before each accept.
    delay: Duration,
    delayed_until: Option<Instant>,
}

impl AcceptBackoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(200);

    /// Starts the fixed delay before the first accept.
    pub(crate) fn new(delay: Duration) -> Self {
        let mut backoff = Self { delay, ..Self::default() };
        backoff.reset();
        backoff
    }

    /// Starts a delay after a failure, twice the last one; returns its length.
    pub(crate) fn start(&mut self, now: Instant) -> Duration {
        self.length = (self.length * 2).clamp(Self::FIRST, Self::LONGEST);
        self.until = Some(now + self.length);
        self.length
    }

    /// Ends the delay after a failure, because a descriptor or slot was freed. The next one is not
    /// shorter for it.
    pub(crate) fn end(&mut self) {
        self.until = None;
    }

    /// Ends the delays that are over.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.until.take_if(|until| *until <= now);
        self.delayed_until.take_if(|until| *until <= now);
    }

    /// Ends all delays: a stopping server accepts its listen queue without any.
    pub(crate) fn disable(&mut self) {
        *self = Self::default();
    }

    /// After a successful accept: the next delay after a failure is short again, and the fixed
    /// delay starts.
    pub(crate) fn reset(&mut self) {
        (self.until, self.length) = (None, Duration::ZERO);
        if !self.delay.is_zero() {
            self.delayed_until = Instant::now().checked_add(self.delay);
        }
    }

    /// Time of the next accept; none if there is no delay.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until.max(self.delayed_until)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::net::{Shutdown, shutdown};

    use super::*;

    #[test]
    fn listener_that_was_shut_down_has_failed_for_good() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        shutdown(&listener, Shutdown::Both).unwrap();
        let error = listener.accept().unwrap_err();
        assert!(is_permanent(&error));
        let error = listener_error(&listener, &error).to_string();
        assert_eq!(error, format!("cannot accept on {addr}: invalid argument (EINVAL)"));
    }

    #[test]
    fn errors_of_clients_firewalls_and_exhaustion_are_transient() {
        use libc::{
            EAGAIN, ECONNABORTED, EMFILE, ENETDOWN, ENFILE, ENOBUFS, ENOMEM, EPERM, EPROTO,
        };
        for code in [EAGAIN, ECONNABORTED, EMFILE, ENETDOWN, ENFILE, ENOBUFS, ENOMEM, EPERM, EPROTO]
        {
            assert!(!is_permanent(&io::Error::from_raw_os_error(code)), "errno {code}");
        }
    }

    #[test]
    fn connection_limit_is_exact_and_keeps_its_peak() {
        let limit = ConnectionLimit::new(2);
        assert!(limit.try_acquire() && limit.try_acquire() && !limit.try_acquire());
        assert_eq!(limit.peak(), 0, "no connection is open yet");
        limit.acquire();
        (0..3).for_each(|_| limit.opened());
        limit.closed();
        assert!(!limit.try_acquire());
        limit.closed();
        assert!(limit.try_acquire());
        limit.release();
        assert_eq!((limit.count(), limit.peak()), (1, 3));
    }

    #[test]
    fn backoff_doubles_up_to_a_limit_and_starts_over() {
        let now = Instant::now();
        let mut backoff = AcceptBackoff::default();
        let lengths: Vec<_> = (0..6).map(|_| backoff.start(now).as_millis()).collect();
        assert_eq!(lengths, [10, 20, 40, 80, 160, 200]);
        backoff.reset();
        assert_eq!(backoff.until(), None);
        assert_eq!(backoff.start(now), AcceptBackoff::FIRST);
    }

    #[test]
    fn accept_delay_comes_before_each_accept_whatever_closes() {
        let delay = Duration::from_secs(1);
        let mut backoff = AcceptBackoff::new(delay);
        for _accept in 0..3 {
            let until = backoff.until().unwrap();
            backoff.start(until - delay);
            backoff.end();
            assert_eq!(backoff.until(), Some(until));
            backoff.expire(until - Duration::from_nanos(1));
            assert_eq!(backoff.until(), Some(until));
            backoff.expire(until);
            assert_eq!(backoff.until(), None);
            backoff.reset();
        }
        backoff.disable();
        backoff.reset();
        assert_eq!(backoff.until(), None);
    }
}
