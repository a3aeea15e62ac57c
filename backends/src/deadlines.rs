//! Deadlines that all lie one constant after their start: then the order of starts is the order of
//! deadlines, and a doubly linked list over the slot indexes does what a timer wheel would.

use std::time::{Duration, Instant};

/// One timeout for many slots. Without a timeout it holds nothing and costs nothing.
#[derive(Debug)]
pub(crate) struct Deadlines {
    timeout: Option<Duration>,
    links: Vec<Link>,
    first: u32,
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    since: Instant,
    previous: u32,
    next: u32,
    listed: bool,
}

const NONE: u32 = u32::MAX;

impl Deadlines {
    pub(crate) const fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, links: Vec::new(), first: NONE, last: NONE }
    }

    /// Starts the slot's time, or starts it again.
    ///
    /// It reads the clock itself: a turn can be long (a service may wait for a person), and a
    /// time taken at its beginning would make a slot look idle that has just moved.
    #[inline]
    pub(crate) fn start(&mut self, index: u32) {
        if self.timeout.is_some() {
            self.start_at(index, Instant::now());
        }
    }

    fn start_at(&mut self, index: u32, since: Instant) {
        self.stop(index);
        let unlisted = Link { since, previous: NONE, next: NONE, listed: false };
        if self.links.len() <= index as usize {
            self.links.resize(index as usize + 1, unlisted);
        }
        self.links[index as usize] = Link { previous: self.last, listed: true, ..unlisted };
        match self.last {
            NONE => self.first = index,
            last => self.links[last as usize].next = index,
        }
        self.last = index;
    }

    /// Stops the slot's time, if it runs.
    #[inline]
    pub(crate) fn stop(&mut self, index: u32) {
        let Some(&Link { previous, next, listed: true, .. }) = self.links.get(index as usize)
        else {
            return;
        };
        match previous {
            NONE => self.first = next,
            previous => self.links[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => self.links[next as usize].previous = previous,
        }
        self.links[index as usize].listed = false;
    }

    /// Whether the slot's time runs.
    pub(crate) fn runs(&self, index: u32) -> bool {
        self.links.get(index as usize).is_some_and(|link| link.listed)
    }

    /// Takes out a slot whose time is over at `now`, the longest over first.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<u32> {
        if self.next()? > now {
            return None;
        }
        let index = self.first;
        self.stop(index);
        Some(index)
    }

    /// When the next slot's time will be over; none when that is further away than the clock
    /// reaches.
    pub(crate) fn next(&self) -> Option<Instant> {
        let link = self.links.get(self.first as usize)?; // NONE is no index
        link.since.checked_add(self.timeout?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn slots_expire_in_the_order_of_their_last_start() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::new(Some(TIMEOUT));
        for (index, since) in [(0, 0), (1, 1), (2, 2), (0, 3)] {
            deadlines.start_at(index, at(since));
        }
        deadlines.stop(2);
        deadlines.stop(2);
        assert_eq!(deadlines.next(), Some(at(6)));
        assert_eq!(deadlines.expired(at(5)), None);
        assert_eq!(deadlines.expired(at(6)), Some(1));
        assert_eq!(deadlines.expired(at(7)), None);
        assert_eq!(deadlines.expired(at(8)), Some(0));
        assert_eq!((deadlines.expired(at(99)), deadlines.next()), (None, None));
    }

    #[test]
    fn without_a_timeout_nothing_is_kept() {
        let mut deadlines = Deadlines::new(None);
        deadlines.start(1000);
        assert!(deadlines.links.is_empty());
        assert_eq!(deadlines.next(), None);
    }
}
