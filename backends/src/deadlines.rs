//! Deadlines that all lie one constant after their start. The order of starts is then the order of
//! deadlines, and a doubly linked list over the slot indexes replaces a timer wheel.

use std::time::{Duration, Instant};

/// One timeout for many slots. Without a timeout it stores nothing and costs nothing.
#[derive(Debug)]
pub(crate) struct Deadlines {
    timeout: Option<Duration>,
    made: Instant,
    links: Vec<Link>,
    first: u32,
    last: u32,
}

/// 16 bytes for each connection.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Start, in nanoseconds since the list was made.
    since_ns: u64,
    /// [`UNLISTED`] if the slot's time is stopped.
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;
const UNLISTED: u32 = u32::MAX - 1;

impl Deadlines {
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, made: Instant::now(), links: Vec::new(), first: NONE, last: NONE }
    }

    /// Starts or restarts the slot's time.
    ///
    /// It reads the clock itself: an iteration can be long (a chat waits for its operator), and
    /// with a time taken at its beginning, a slot that has just moved would look idle.
    #[inline]
    pub(crate) fn start(&mut self, index: u32) {
        if self.timeout.is_some() {
            self.start_at(index, Instant::now());
        }
    }

    fn start_at(&mut self, index: u32, since: Instant) {
        self.stop(index);
        if self.links.len() <= index as usize {
            let unlisted = Link { since_ns: 0, previous: UNLISTED, next: NONE };
            self.links.resize(index as usize + 1, unlisted);
        }
        let since_ns = since.saturating_duration_since(self.made).as_nanos() as u64; // 584 years
        self.links[index as usize] = Link { since_ns, previous: self.last, next: NONE };
        match self.last {
            NONE => self.first = index,
            last => self.links[last as usize].next = index,
        }
        self.last = index;
    }

    /// Stops the slot's time. No effect if it is stopped already.
    #[inline]
    pub(crate) fn stop(&mut self, index: u32) {
        if !self.runs(index) {
            return;
        }
        let Link { previous, next, .. } = self.links[index as usize];
        match previous {
            NONE => self.first = next,
            previous => self.links[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => self.links[next as usize].previous = previous,
        }
        self.links[index as usize].previous = UNLISTED;
    }

    /// True if the slot's time is not stopped.
    pub(crate) fn runs(&self, index: u32) -> bool {
        self.links.get(index as usize).is_some_and(|link| link.previous != UNLISTED)
    }

    /// Stops and returns the slot with the earliest deadline, if that is over at `now`.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<u32> {
        if self.next()? > now {
            return None;
        }
        let index = self.first;
        self.stop(index);
        Some(index)
    }

    /// Earliest deadline; none if it is further away than the clock reaches.
    pub(crate) fn next(&self) -> Option<Instant> {
        let link = self.links.get(self.first as usize)?; // NONE is no index
        self.made.checked_add(Duration::from_nanos(link.since_ns))?.checked_add(self.timeout?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn slots_expire_in_the_order_of_their_last_start() {
        let mut deadlines = Deadlines::new(Some(TIMEOUT));
        let start = deadlines.made;
        let at = |seconds| start + Duration::from_secs(seconds);
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
    fn without_a_timeout_nothing_is_stored() {
        let mut deadlines = Deadlines::new(None);
        deadlines.start(1000);
        assert!(deadlines.links.is_empty());
        assert_eq!(deadlines.next(), None);
    }
}
