//! How many connections are open, over all shards: the one number they share. It is touched when
//! a connection opens or closes, never for an exchange.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The bound on open connections. Those who find no place wait in the listen queue.
///
/// But where accept(2) itself waits, as in a blocking acceptor, one waits accepted. And where one
/// accept is for all who come, as in a ring, it empties the queue before it can be taken back: as
/// many as the queue has room for wait accepted, with a descriptor each, and the queue fills again.
#[derive(Debug)]
pub struct Admission {
    taken: AtomicUsize,
    open: AtomicUsize,
    peak: AtomicUsize,
    limit: usize,
}

impl Admission {
    /// Has `limit` places, at least one.
    pub fn new(limit: usize) -> Self {
        let [taken, open, peak] = [const { AtomicUsize::new(0) }; 3];
        Self { taken, open, peak, limit: limit.max(1) }
    }

    /// Takes a place, if one is free.
    pub fn try_enter(&self) -> bool {
        let more = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Takes a place beyond the limit: for those found waiting when the server stops.
    pub fn enter(&self) {
        self.taken.fetch_add(1, Relaxed);
    }

    /// Gives back a place for which nobody came.
    pub fn leave(&self) {
        let taken = self.taken.fetch_sub(1, Relaxed);
        debug_assert!(taken > 0, "left without having entered");
    }

    /// A connection was accepted for a place taken.
    pub fn open(&self) {
        let open = self.open.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(open, Relaxed);
    }

    /// The connection is closed, and its place free.
    pub fn close(&self) {
        self.open.fetch_sub(1, Relaxed);
        self.leave();
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// The most connections that were open at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed) as u64
    }
}

/// How long to leave the listener alone: before each accept, if the server is told to be slow; and
/// after one that failed for want of descriptors, memory or a free place: 10 ms, doubling to 200 ms
/// while it goes on.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    until: Option<Instant>,
    length: Duration,
    /// Before each accept.
    delay: Duration,
    delayed_until: Option<Instant>,
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(200);

    /// The pause before the first accept has begun, where there is one before each.
    pub(crate) fn new(delay: Duration) -> Self {
        let mut pause = Self { delay, ..Self::default() };
        pause.reset();
        pause
    }

    /// Begins a pause after a failure, or a longer one; returns its length.
    pub(crate) fn begin(&mut self, now: Instant) -> Duration {
        self.length = (self.length * 2).clamp(Self::FIRST, Self::LONGEST);
        self.until = Some(now + self.length);
        self.length
    }

    /// Ends the pause after a failure: something that was wanted came back. The next is as long as
    /// this one was.
    pub(crate) fn end(&mut self) {
        self.until = None;
    }

    /// Ends what is over by now.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.until.take_if(|until| *until <= now);
        self.delayed_until.take_if(|until| *until <= now);
    }

    /// Ends it for good: the server stops, and accepts what waits without delay.
    pub(crate) fn abolish(&mut self) {
        *self = Self::default();
    }

    /// An accept succeeded: the next pause after a failure is short again, and the delay begins.
    pub(crate) fn reset(&mut self) {
        (self.until, self.length) = (None, Duration::ZERO);
        if !self.delay.is_zero() {
            self.delayed_until = Instant::now().checked_add(self.delay);
        }
    }

    /// When accepting may be tried again; none when it is not paused.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until.max(self.delayed_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact_and_the_peak_is_remembered() {
        let admission = Admission::new(2);
        assert!(admission.try_enter() && admission.try_enter() && !admission.try_enter());
        assert_eq!(admission.peak(), 0, "nobody has come yet");
        admission.enter();
        (0..3).for_each(|_| admission.open());
        admission.close();
        assert!(!admission.try_enter());
        admission.close();
        assert!(admission.try_enter());
        admission.leave();
        assert_eq!(admission.peak(), 3);
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_start_over() {
        let now = Instant::now();
        let mut pause = Pause::default();
        let lengths: Vec<_> = (0..6).map(|_| pause.begin(now).as_millis()).collect();
        assert_eq!(lengths, [10, 20, 40, 80, 160, 200]);
        pause.reset();
        assert_eq!(pause.until(), None);
        assert_eq!(pause.begin(now), Pause::FIRST);
    }

    #[test]
    fn the_delay_is_there_before_each_accept_and_no_closing_ends_it() {
        let delay = Duration::from_secs(1);
        let mut pause = Pause::new(delay);
        for _accept in 0..3 {
            let until = pause.until().unwrap();
            pause.begin(until - delay);
            pause.end();
            assert_eq!(pause.until(), Some(until));
            pause.expire(until - Duration::from_nanos(1));
            assert_eq!(pause.until(), Some(until));
            pause.expire(until);
            assert_eq!(pause.until(), None);
            pause.reset();
        }
        pause.abolish();
        pause.reset();
        assert_eq!(pause.until(), None);
    }
}
