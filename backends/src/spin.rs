//! Polling for a while before sleeping: to wake a sleeping processor takes longer than many an
//! exchange.

use std::time::{Duration, Instant};

/// Whether to poll before a sleep, and for how long.
///
/// A loop that has polled in vain sleeps at once the next time, then the next two, four and so on
/// up to 64 times, and begins anew when polling was worth it: with little to do, it sleeps.
#[derive(Debug)]
pub(crate) struct Spin {
    length: Duration,
    /// How many of the next waits sleep at once, and how many do after the next time in vain.
    sleeps: u32,
    sleeps_next: u32,
    /// All the time that was polled.
    pub(crate) spun: Duration,
}

/// One time of polling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spinning {
    start: Instant,
    until: Instant,
}

const SLEEPS_MAX: u32 = 64;

impl Spin {
    /// Polls for `length` at a time, at most; never, if that is zero.
    pub(crate) const fn new(length: Duration) -> Self {
        Self { length, sleeps: 0, sleeps_next: 1, spun: Duration::ZERO }
    }

    /// Whether it is ever polled.
    #[inline]
    pub(crate) const fn is_on(&self) -> bool {
        !self.length.is_zero()
    }

    /// Begins to poll, until `deadline` at the latest; none if it is better to sleep.
    pub(crate) fn begin(&mut self, deadline: Option<Instant>) -> Option<Spinning> {
        if !self.is_on() {
            return None;
        }
        if self.sleeps > 0 {
            self.sleeps -= 1;
            return None;
        }
        let start = Instant::now();
        let until = start + self.length;
        Some(Spinning { start, until: deadline.map_or(until, |deadline| deadline.min(until)) })
    }

    /// Ends it; `found` says whether it was worth it.
    pub(crate) fn end(&mut self, spinning: Spinning, found: bool) {
        self.spun += spinning.start.elapsed();
        if found {
            self.sleeps_next = 1;
        } else {
            self.sleeps = self.sleeps_next;
            self.sleeps_next = (self.sleeps_next * 2).min(SLEEPS_MAX);
        }
    }
}

impl Spinning {
    /// Whether it has been long enough.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many sleeps there are until it is polled again.
    fn sleeps(spin: &mut Spin, found: bool) -> u32 {
        for sleeps in 0.. {
            if let Some(spinning) = spin.begin(None) {
                spin.end(spinning, found);
                return sleeps;
            }
        }
        unreachable!()
    }

    #[test]
    fn who_polls_in_vain_sleeps_more_and_more_often() {
        let mut spin = Spin::new(Duration::from_micros(1));
        let in_vain = [0, 1, 2, 4, 8, 16, 32, 64, 64];
        assert_eq!(in_vain.map(|_| sleeps(&mut spin, false)), in_vain);
        assert_eq!([(); 3].map(|()| sleeps(&mut spin, true)), [64, 0, 0]);
        assert_eq!([(); 3].map(|()| sleeps(&mut spin, false)), [0, 1, 2]);
    }

    #[test]
    fn it_ends_at_the_deadline_and_never_begins_when_off() {
        let mut spin = Spin::new(Duration::from_secs(3600));
        assert!(spin.begin(Some(Instant::now())).unwrap().is_over());
        assert!(!spin.begin(None).unwrap().is_over());
        assert!(Spin::new(Duration::ZERO).begin(None).is_none());
    }
}
