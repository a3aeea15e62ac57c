//! Busy-polling before a blocking wait: waking a sleeping CPU takes longer than many an exchange.

use std::time::{Duration, Instant};

/// Blocking waits in a row, at most, between two attempts that find nothing.
const SLEEPS_MAX: u32 = 64;

/// Decides before each wait whether to poll first, and for how long.
///
/// After an attempt that found nothing, the next wait blocks immediately, then the next two, four
/// and so on up to 64; an attempt that found something starts over. So a thread with
/// little to do sleeps.
#[derive(Debug)]
pub struct BusyPoll {
    length: Duration,
    /// Waits that block immediately before the next attempt.
    sleeps: u32,
    /// The value of `sleeps` after the next attempt that finds nothing.
    sleeps_next: u32,
    /// Time spent polling without finding anything, in all attempts.
    pub spun: Duration,
}

impl BusyPoll {
    /// Polls for up to `length` in each attempt; zero disables polling.
    pub const fn new(length: Duration) -> Self {
        Self { length, sleeps: 0, sleeps_next: 1, spun: Duration::ZERO }
    }

    /// True unless polling is disabled.
    #[inline]
    pub const fn is_enabled(&self) -> bool {
        !self.length.is_zero()
    }

    /// Begins an attempt that lasts no longer than `longest`; `None` if the wait is to block
    /// immediately.
    #[inline]
    pub fn begin(&mut self, longest: Duration) -> Option<Attempt> {
        if !self.is_enabled() {
            return None;
        }
        if self.sleeps > 0 {
            self.sleeps -= 1;
            return None;
        }
        Some(Attempt { start: None, length: self.length.min(longest), spun: Duration::ZERO })
    }

    /// Ends an attempt that has `found` something or not, and returns the time that it spent
    /// without finding anything.
    pub fn end(&mut self, attempt: Attempt, found: bool) -> Duration {
        self.spun += attempt.spun;
        if found {
            self.sleeps_next = 1;
        } else {
            self.sleeps = self.sleeps_next;
            self.sleeps_next = (self.sleeps_next * 2).min(SLEEPS_MAX);
        }
        attempt.spun
    }
}

/// One attempt.
#[derive(Debug)]
pub struct Attempt {
    /// The time of the first [`is_over`](Self::is_over). The poll before it does not count as
    /// spent: with io_uring it submits what is queued, which is work.
    start: Option<Instant>,
    length: Duration,
    /// Time from the start to the last `is_over`.
    spun: Duration,
}

impl Attempt {
    /// True if the attempt has lasted long enough. To be called after each poll that found nothing.
    pub fn is_over(&mut self) -> bool {
        match self.start {
            Some(start) => self.spun = start.elapsed(),
            None => self.start = Some(Instant::now()),
        }
        self.spun >= self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the waits that block immediately before the next attempt, which ends with `found`.
    fn sleeps(busy_poll: &mut BusyPoll, found: bool) -> u32 {
        for sleeps in 0.. {
            if let Some(attempt) = busy_poll.begin(Duration::MAX) {
                busy_poll.end(attempt, found);
                return sleeps;
            }
        }
        unreachable!()
    }

    #[test]
    fn attempts_back_off_while_they_find_nothing() {
        let mut busy_poll = BusyPoll::new(Duration::from_nanos(1));
        let expected = [0, 1, 2, 4, 8, 16, 32, 64, 64];
        assert_eq!(expected.map(|_| sleeps(&mut busy_poll, false)), expected);
        assert_eq!([(); 3].map(|()| sleeps(&mut busy_poll, true)), [64, 0, 0]);
        assert_eq!([(); 3].map(|()| sleeps(&mut busy_poll, false)), [0, 1, 2]);
    }

    #[test]
    fn attempt_ends_after_its_length_or_the_longest_allowed() {
        let (long, short) = (Duration::from_secs(3600), Duration::from_millis(1));
        for (length, longest) in [(long, short), (short, long)] {
            let mut busy_poll = BusyPoll::new(length);
            let mut attempt = busy_poll.begin(longest).unwrap();
            while !attempt.is_over() {}
            let spun = busy_poll.end(attempt, false);
            assert!(spun >= short && spun < long, "{spun:?}");
            assert_eq!(busy_poll.spun, spun);
        }
        let mut busy_poll = BusyPoll::new(long);
        assert!(busy_poll.begin(Duration::ZERO).unwrap().is_over());
    }

    #[test]
    fn first_poll_does_not_count_as_spent() {
        let mut busy_poll = BusyPoll::new(Duration::from_secs(60));
        let attempt = busy_poll.begin(Duration::MAX).unwrap();
        assert_eq!(busy_poll.end(attempt, true), Duration::ZERO);
    }

    #[test]
    fn zero_length_disables_polling() {
        let mut busy_poll = BusyPoll::new(Duration::ZERO);
        assert!(!busy_poll.is_enabled());
        assert!(busy_poll.begin(Duration::MAX).is_none());
    }
}
