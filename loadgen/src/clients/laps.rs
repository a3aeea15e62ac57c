//! The measured window in intervals: what each thread counts in one, and how it gets to the main
//! thread.
//!
//! A thread records into a lap of its own. When the interval is over it puts the lap into its
//! mailbox and goes on with an empty one from there; so an exchange costs one comparison more,
//! and neither the merging nor its memory is the thread's. The main thread adds up the laps of all
//! threads: histograms, never percentiles.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use lockstep_results::Interval;

use crate::clients::tally::{add, histogram};

/// What is counted in one interval, by one thread or by all.
#[derive(Debug)]
pub struct Lap {
    /// From a send in the measured window to the whole reply; the service time of an open loop.
    pub exchange: Histogram<u64>,
    /// What only an open loop times.
    pub open: Option<OpenLap>,
    /// Verified exchanges completed in the measured window.
    pub exchanges: u64,
    /// Failures since the measured window began.
    pub errors: u64,
}

/// The requests planned in the measured window of an open loop.
#[derive(Debug)]
pub struct OpenLap {
    /// From the planned instant to the whole reply.
    pub response: Histogram<u64>,
    /// From the planned instant to the send.
    pub lateness: Histogram<u64>,
}

impl Lap {
    /// Counts nothing yet. All memory that counting needs is taken here.
    pub fn new(open: bool) -> Self {
        let open = open.then(|| OpenLap { response: histogram(), lateness: histogram() });
        Self { exchange: histogram(), open, exchanges: 0, errors: 0 }
    }

    /// The latency that the interval is known by: the response of an open loop, else the exchange.
    pub fn main(&self) -> &Histogram<u64> {
        self.open.as_ref().map_or(&self.exchange, |open| &open.response)
    }

    /// Every latency by its name in records.
    pub fn latencies(&self) -> Vec<(&'static str, &Histogram<u64>)> {
        match &self.open {
            None => vec![("exchange", &self.exchange)],
            Some(OpenLap { response, lateness }) => {
                vec![("response", response), ("service", &self.exchange), ("lateness", lateness)]
            }
        }
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        add([(&mut self.exchange, &other.exchange)]);
        if let (Some(ours), Some(theirs)) = (&mut self.open, &other.open) {
            add([(&mut ours.response, &theirs.response), (&mut ours.lateness, &theirs.lateness)]);
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

/// Where a thread leaves its laps.
#[derive(Debug)]
pub struct Mailbox(Mutex<Post>);

#[derive(Debug)]
struct Post {
    /// The interval the thread is in.
    present: u64,
    over: Vec<(u64, Lap)>,
    empty: Vec<Lap>,
}

impl Mailbox {
    /// For a thread that has not begun.
    pub fn new(open: bool) -> Self {
        let empty = vec![Lap::new(open)];
        Self(Mutex::new(Post { present: 0, over: Vec::new(), empty }))
    }

    /// The thread goes from one interval to a later one. Never waits for long: the main thread
    /// only takes out what it finds.
    pub fn hand_over(&self, from: u64, to: u64, lap: &mut Lap) {
        let mut post = self.lock();
        post.present = to;
        if !lap.is_empty() {
            // There is none only when the main thread was kept from looking for an interval.
            let empty = post.empty.pop().unwrap_or_else(|| Lap::new(lap.open.is_some()));
            post.over.push((from, std::mem::replace(lap, empty)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Post> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An interval that is over.
#[derive(Debug)]
pub struct Over<'a> {
    /// As it stands in the record.
    pub interval: &'a Interval,
    /// What all threads counted in it.
    pub lap: &'a Lap,
    /// When the measured window began, in the calendar.
    pub started: std::time::SystemTime,
}

/// The main thread's side: adds up what the threads hand over.
#[derive(Debug)]
pub struct Laps {
    length_ns: u64,
    /// Laps that not all threads are through with: the interval, whose it was, and the counts.
    pending: Vec<(u64, usize, Lap)>,
    /// Intervals that are over.
    pub intervals: Vec<Interval>,
    /// The sum of them.
    pub sum: Lap,
    /// Exchanges of all laps that were handed over.
    pub exchanges: u64,
    /// What was counted where nothing was.
    blank: Lap,
    taken: Vec<(u64, Lap)>,
}

impl Laps {
    /// Of intervals of that length.
    pub fn new(length_ns: u64, open: bool) -> Self {
        Self {
            length_ns,
            pending: Vec::new(),
            intervals: Vec::new(),
            sum: Lap::new(open),
            exchanges: 0,
            blank: Lap::new(open),
            taken: Vec::new(),
        }
    }

    /// Where the first interval ends that is not over, since the window's start.
    pub fn next_end_ns(&self) -> u64 {
        (self.intervals.len() as u64 + 1).saturating_mul(self.length_ns)
    }

    /// Takes what the threads have handed over, and says which interval all of them have reached.
    pub fn collect(&mut self, mailboxes: &[Mailbox]) -> u64 {
        let mut reached = u64::MAX;
        for (thread, mailbox) in mailboxes.iter().enumerate() {
            let mut post = mailbox.lock();
            reached = reached.min(post.present);
            std::mem::swap(&mut post.over, &mut self.taken);
            drop(post);
            for (interval, mut lap) in self.taken.drain(..) {
                self.exchanges += lap.exchanges;
                match self.pending.iter_mut().find(|(number, ..)| *number == interval) {
                    None => self.pending.push((interval, thread, lap)),
                    Some((_, _, sum)) => {
                        sum.merge(&lap);
                        lap.clear();
                        mailbox.lock().empty.push(lap);
                    }
                }
            }
        }
        reached
    }

    /// Ends every interval before that number, in order, of a window of that length so far.
    pub fn end(
        &mut self,
        before: u64,
        window_ns: u64,
        mailboxes: &[Mailbox],
        mut over: impl FnMut(&Interval, &Lap),
    ) {
        while (self.intervals.len() as u64) < before {
            let number = self.intervals.len() as u64;
            let found = self.pending.iter().position(|&(pending, ..)| pending == number);
            let start_ns = number * self.length_ns;
            let length_ns = window_ns.saturating_sub(start_ns).min(self.length_ns);
            match found.map(|index| self.pending.swap_remove(index)) {
                Some((_, thread, mut lap)) => {
                    let interval = interval(start_ns, length_ns, &lap);
                    over(&interval, &lap);
                    self.intervals.push(interval);
                    self.sum.merge(&lap);
                    lap.clear();
                    mailboxes[thread].lock().empty.push(lap);
                }
                None => {
                    let interval = interval(start_ns, length_ns, &self.blank);
                    over(&interval, &self.blank);
                    self.intervals.push(interval);
                }
            }
        }
    }

    /// Ends all intervals of a window that is over. What came after its end belongs to the last.
    pub fn finish(
        &mut self,
        window_ns: u64,
        mailboxes: &[Mailbox],
        over: impl FnMut(&Interval, &Lap),
    ) {
        let count = window_ns.div_ceil(self.length_ns).max(self.intervals.len() as u64);
        let Some(last) = count.checked_sub(1) else { return };
        let (late, mut pending): (Vec<_>, Vec<_>) =
            self.pending.drain(..).partition(|&(number, ..)| number > last);
        for (_, thread, lap) in late {
            match pending.iter_mut().find(|(number, ..)| *number == last) {
                Some((_, _, sum)) => sum.merge(&lap),
                None => pending.push((last, thread, lap)),
            }
        }
        self.pending = pending;
        self.end(count, window_ns, mailboxes, over);
        // A number of exchanges may be done just before the end of an interval that was told.
        if let Some(interval) = self.intervals.last_mut() {
            let left_ns = window_ns.saturating_sub(last * self.length_ns).min(self.length_ns);
            interval.length_s = left_ns as f64 / 1e9;
        }
    }
}

fn interval(start_ns: u64, length_ns: u64, lap: &Lap) -> Interval {
    let main = lap.main();
    let quantile = |share| (!main.is_empty()).then(|| main.value_at_quantile(share));
    Interval {
        start_s: start_ns as f64 / 1e9,
        length_s: length_ns as f64 / 1e9,
        exchanges: lap.exchanges,
        errors: lap.errors,
        p50_ns: quantile(0.5),
        p90_ns: quantile(0.9),
        p99_ns: quantile(0.99),
        max_ns: (!main.is_empty()).then(|| main.max()),
    }
}
