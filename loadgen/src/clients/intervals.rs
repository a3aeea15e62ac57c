//! Counts by interval of the measured window, and their way from the threads to the main thread.
//!
//! A thread counts into [`IntervalCounts`] of its own. When the interval is over, it puts them into
//! its [`IntervalQueue`] and takes empty ones from there. So an exchange costs one more comparison,
//! and the thread neither merges nor allocates. The main thread adds up the counts of all threads
//! in [`Intervals`]: histograms, never percentiles.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use hdrhistogram::Histogram;
use lockstep_results::Interval;

use crate::clients::clock::NEVER;

/// Longest latency that is distinguished from longer ones: an hour.
pub(crate) const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// Largest number of intervals, so that a record can be read. The last one lasts to the end of the
/// window.
pub const INTERVALS_MAX: u64 = 100_000;

/// Number of the interval at a time since the window's start.
pub(crate) fn interval_at(since_ns: u64, length_ns: u64) -> u64 {
    (since_ns / length_ns).min(INTERVALS_MAX - 1)
}

/// End of an interval, from the window's start.
pub(crate) fn interval_end(number: u64, length_ns: u64) -> u64 {
    match number + 1 {
        INTERVALS_MAX.. => NEVER,
        next => next.saturating_mul(length_ns),
    }
}

/// Returns an empty histogram of nanoseconds, for the latencies of all threads.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are valid and constant")
}

/// Returns an empty histogram that grows with the latencies recorded: of a thread, of which there
/// may be thousands.
pub(crate) fn growing() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are valid")
}

/// Counts a latency.
#[inline]
pub(crate) fn count(histogram: &mut Histogram<u64>, ns: u64) {
    histogram.record(ns.min(LATENCY_MAX_NS)).expect("a growing histogram takes all");
}

/// Adds one histogram of nanoseconds to another.
pub(crate) fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("no latency is above the bound");
}

/// Counts of one interval, of one thread or of all.
#[derive(Debug)]
pub struct IntervalCounts {
    /// From a send in the measured window to the whole reply; the service time of an open loop.
    pub exchange: Histogram<u64>,
    /// Latencies that only an open loop has.
    pub open: Option<OpenLatencies>,
    /// Verified exchanges completed in the measured window.
    pub exchanges: u64,
    /// Failures since the measured window began.
    pub errors: u64,
}

/// Latencies of the requests that an open loop planned in the measured window.
#[derive(Debug)]
pub struct OpenLatencies {
    /// From the planned instant to the whole reply.
    pub response: Histogram<u64>,
    /// From the planned instant to the send.
    pub lateness: Histogram<u64>,
}

impl IntervalCounts {
    /// Returns zero counts of a closed or an open loop, of all threads.
    pub fn new(open: bool) -> Self {
        Self::with(open, histogram)
    }

    /// Returns zero counts of one thread.
    pub(crate) fn of_thread(open: bool) -> Self {
        Self::with(open, growing)
    }

    fn with(open: bool, empty: fn() -> Histogram<u64>) -> Self {
        let open = open.then(|| OpenLatencies { response: empty(), lateness: empty() });
        Self { exchange: empty(), open, exchanges: 0, errors: 0 }
    }

    /// The latency shown for an interval: the response of an open loop, else the exchange.
    pub fn main(&self) -> &Histogram<u64> {
        self.open.as_ref().map_or(&self.exchange, |open| &open.response)
    }

    /// Every latency, by its name in records.
    pub fn latencies(&self) -> Vec<(&'static str, &Histogram<u64>)> {
        match &self.open {
            None => vec![("exchange", &self.exchange)],
            Some(OpenLatencies { response, lateness }) => {
                vec![("response", response), ("service", &self.exchange), ("lateness", lateness)]
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        add(&mut self.exchange, &other.exchange);
        if let (Some(ours), Some(theirs)) = (&mut self.open, &other.open) {
            add(&mut ours.response, &theirs.response);
            add(&mut ours.lateness, &theirs.lateness);
        }
        self.exchanges += other.exchanges;
        self.errors += other.errors;
    }

    fn is_empty(&self) -> bool {
        let Self { exchange, open, exchanges, errors } = self;
        let sent = open.as_ref().is_some_and(|open| !open.lateness.is_empty());
        exchange.is_empty() && !sent && *exchanges == 0 && *errors == 0
    }

    fn clear(&mut self) {
        // `clear` would keep the largest value.
        self.exchange.reset();
        if let Some(open) = &mut self.open {
            open.response.reset();
            open.lateness.reset();
        }
        self.exchanges = 0;
        self.errors = 0;
    }
}

/// Finished counts of one thread, on their way to the main thread, and empty ones on their way
/// back.
#[derive(Debug)]
pub struct IntervalQueue(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    /// Number of the interval that the thread is in.
    current: u64,
    finished: Vec<(u64, IntervalCounts)>,
    empty: Vec<IntervalCounts>,
}

impl IntervalQueue {
    /// Returns the queue of a thread that has not begun.
    pub fn new(open: bool) -> Self {
        let empty = vec![IntervalCounts::of_thread(open)];
        Self(Mutex::new(Queue { current: 0, finished: Vec::new(), empty }))
    }

    /// Moves the thread from one interval to a later one, and replaces its counts by empty ones.
    /// The main thread holds the lock only to take what it finds.
    pub fn push(&self, from: u64, to: u64, counts: &mut IntervalCounts) {
        let mut queue = self.lock();
        queue.current = to;
        if !counts.is_empty() {
            // There are none only if the main thread has not looked for an interval.
            let empty = queue
                .empty
                .pop()
                .unwrap_or_else(|| IntervalCounts::of_thread(counts.open.is_some()));
            queue.finished.push((from, std::mem::replace(counts, empty)));
        }
    }

    fn recycle(&self, mut counts: IntervalCounts) {
        counts.clear();
        self.lock().empty.push(counts);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An interval that is over.
#[derive(Debug)]
pub struct FinishedInterval<'a> {
    /// The interval as in the record.
    pub interval: &'a Interval,
    /// Counts of all threads.
    pub counts: &'a IntervalCounts,
    /// Wall-clock time at which the measured window began.
    pub started: SystemTime,
}

/// Intervals of a run: the sum over all threads.
#[derive(Debug)]
pub struct Intervals {
    length_ns: u64,
    /// Counts of intervals that are not over: number, thread that the memory belongs to, counts.
    pending: Vec<(u64, usize, IntervalCounts)>,
    /// Intervals that are over, in order.
    pub finished: Vec<Interval>,
    /// Sum over the intervals that are over.
    pub total: IntervalCounts,
    /// Exchanges of all counts that were collected.
    pub exchanges: u64,
}

impl Intervals {
    /// Returns no intervals yet, of this length, of a closed or an open loop.
    pub fn new(length_ns: u64, open: bool) -> Self {
        let total = IntervalCounts::new(open);
        Self { length_ns, pending: Vec::new(), finished: Vec::new(), total, exchanges: 0 }
    }

    /// End of the first interval that is not over, from the window's start.
    pub fn next_end_ns(&self) -> u64 {
        interval_end(self.finished.len() as u64, self.length_ns)
    }

    /// Takes the counts out of the queues and returns the number of the interval that all threads
    /// have reached.
    pub fn collect(&mut self, queues: &[IntervalQueue]) -> u64 {
        let mut reached = u64::MAX;
        for (thread, queue) in queues.iter().enumerate() {
            let mut shared = queue.lock();
            reached = reached.min(shared.current);
            let finished: Vec<_> = shared.finished.drain(..).collect();
            drop(shared);
            for (interval, counts) in finished {
                self.exchanges += counts.exchanges;
                match self.pending.iter_mut().find(|(number, ..)| *number == interval) {
                    None => self.pending.push((interval, thread, counts)),
                    Some((_, _, sum)) => {
                        sum.merge(&counts);
                        queue.recycle(counts);
                    }
                }
            }
        }
        reached
    }

    /// Ends all intervals with lower numbers, in order, of a window that has lasted `window_ns`.
    pub fn end(
        &mut self,
        before: u64,
        window_ns: u64,
        queues: &[IntervalQueue],
        mut on_end: impl FnMut(&Interval, &IntervalCounts),
    ) {
        let empty = IntervalCounts::new(self.total.open.is_some());
        for number in self.finished.len() as u64..before {
            let found = self.pending.iter().position(|&(pending, ..)| pending == number);
            let found = found.map(|index| self.pending.swap_remove(index));
            let counts = found.as_ref().map_or(&empty, |(_, _, counts)| counts);
            let start_ns = number * self.length_ns;
            let end_ns = interval_end(number, self.length_ns).min(window_ns);
            let interval = interval(start_ns, end_ns.saturating_sub(start_ns), counts);
            on_end(&interval, counts);
            self.finished.push(interval);
            if let Some((_, thread, counts)) = found {
                self.total.merge(&counts);
                queues[thread].recycle(counts);
            }
        }
    }

    /// Ends all intervals of a window that is over. Counts after its end go to the last interval.
    pub fn finish(
        &mut self,
        window_ns: u64,
        queues: &[IntervalQueue],
        on_end: impl FnMut(&Interval, &IntervalCounts),
    ) {
        let count = window_ns.div_ceil(self.length_ns).min(INTERVALS_MAX);
        let count = count.max(self.finished.len() as u64);
        let Some(last) = count.checked_sub(1) else { return };
        let (late, mut pending): (Vec<_>, Vec<_>) =
            self.pending.drain(..).partition(|&(number, ..)| number > last);
        for (_, thread, counts) in late {
            match pending.iter_mut().find(|(number, ..)| *number == last) {
                Some((_, _, sum)) => sum.merge(&counts),
                None => pending.push((last, thread, counts)),
            }
        }
        self.pending = pending;
        self.end(count, window_ns, queues, on_end);
        // A number of exchanges may be done before the end of an interval that was reported.
        if let Some(interval) = self.finished.last_mut() {
            let end_ns = interval_end(last, self.length_ns).min(window_ns);
            interval.length_s = end_ns.saturating_sub(last * self.length_ns) as f64 / 1e9;
        }
    }
}

fn interval(start_ns: u64, length_ns: u64, counts: &IntervalCounts) -> Interval {
    let main = counts.main();
    let quantile = |share| (!main.is_empty()).then(|| main.value_at_quantile(share));
    Interval {
        start_s: start_ns as f64 / 1e9,
        length_s: length_ns as f64 / 1e9,
        exchanges: counts.exchanges,
        errors: counts.errors,
        p50_ns: quantile(0.5),
        p90_ns: quantile(0.9),
        p99_ns: quantile(0.99),
        max_ns: (!main.is_empty()).then(|| main.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_of_too_many_intervals_lasts_to_the_end() {
        let length_ns = 10;
        let last = INTERVALS_MAX - 1;
        for (since_ns, number) in [(0, 0), (9, 0), (10, 1), (last * 10, last), (u64::MAX, last)] {
            assert_eq!(interval_at(since_ns, length_ns), number);
        }
        assert_eq!((interval_end(0, 10), interval_end(last - 1, 10)), (10, last * 10));
        assert_eq!((interval_end(last, 10), interval_end(1, u64::MAX)), (NEVER, NEVER));

        let queues = [IntervalQueue::new(false)];
        let mut intervals = Intervals::new(length_ns, false);
        let window_ns = 3 * INTERVALS_MAX * length_ns;
        for at_ns in [5, last * length_ns - 1, last * length_ns, window_ns - 1] {
            let mut counts = IntervalCounts::new(false);
            counts.exchanges = 1;
            queues[0].push(interval_at(at_ns, length_ns), NEVER, &mut counts);
        }
        intervals.collect(&queues);
        let mut reported = 0;
        intervals.finish(window_ns, &queues, |_, _| reported += 1);
        assert_eq!((reported, intervals.finished.len() as u64), (INTERVALS_MAX, INTERVALS_MAX));
        let exchanges = |number: u64| intervals.finished[number as usize].exchanges;
        assert_eq!([0, last - 1, last].map(exchanges), [1, 1, 2]);
        let end = intervals.finished.last().unwrap();
        assert_eq!((end.start_s + end.length_s) * 1e9, window_ns as f64);
    }

    #[test]
    fn memory_of_a_thread_grows_with_its_latencies() {
        let mut latencies = growing();
        let counts = |histogram: &Histogram<u64>| histogram.distinct_values();
        assert!(counts(&latencies) <= 2048);
        count(&mut latencies, 1_000_000);
        assert!(counts(&latencies) <= 16 * 1024 && counts(&histogram()) > 30 * 1024);
    }

    #[test]
    fn latency_beyond_the_range_still_counts() {
        let mut counts = IntervalCounts::of_thread(false);
        count(&mut counts.exchange, u64::MAX);
        count(&mut counts.exchange, 0);
        assert_eq!(counts.exchange.len(), 2);
        assert!(counts.exchange.max() >= LATENCY_MAX_NS);
        let mut all = IntervalCounts::new(false);
        all.merge(&counts);
        assert_eq!((all.exchange.len(), all.exchange.max()), (2, counts.exchange.max()));
    }
}
