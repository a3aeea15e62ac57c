//! What one load-generating thread counts, and the sum over all threads.

use hdrhistogram::Histogram;

use crate::clients::failures::Failures;
use crate::clients::spacing::Spacing;
use crate::machine::procfs::Usage;

/// The longest latency that is told apart from longer ones: an hour.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// The counts of one thread, or of all after [`merge`](Self::merge), other than those that are
/// kept by interval: see [`Lap`](crate::clients::laps::Lap).
#[derive(Debug)]
pub struct Tally {
    /// From connect(2) to an established connection.
    pub connect: Histogram<u64>,
    /// From the first send on a new connection to its whole reply.
    pub first_exchange: Histogram<u64>,
    /// Verified exchanges, first ones and warm-up included.
    pub total: u64,
    /// When the last measured reply was complete, nanoseconds.
    pub last_reply_ns: u64,
    /// Connections that were tried.
    pub attempted: u64,
    /// Connections that were established.
    pub connected: u64,
    /// Connections tried that never got a whole reply.
    pub unserved: u64,
    /// Measured exchanges of each connection that was established.
    pub per_connection: Vec<u64>,
    /// What went wrong.
    pub failures: Failures,
    /// What the thread used in the measured window; of several threads, the sum.
    pub usage: Option<Usage>,
    /// How long the clock or the sockets were watched in the measured window, and nothing came.
    pub spun_ns: u64,
    /// The part of the measured window that the thread was on a processor, other than to watch
    /// these; of several threads, the busiest.
    pub busy: f64,
    /// The part of the measured window that the thread could have run but had no processor; of
    /// several threads, the one that waited most.
    pub waiting: f64,
    /// What only an open loop counts.
    pub open: Option<OpenTally>,
}

/// What an open loop counts, of the requests planned in the measured window.
#[derive(Debug)]
pub struct OpenTally {
    /// The part of the lateness that is the generator's own, without the wait for a connection.
    pub own_lateness: Histogram<u64>,
    /// How many there were.
    pub planned: u64,
    /// How many of them were begun before the window's end.
    pub sent_in_time: u64,
    /// How many were not begun at all.
    pub unsent: u64,
    /// How many found no idle connection when they were due.
    pub waited: u64,
    /// When the last one was begun.
    pub last_sent_ns: u64,
    /// Where the plan ends: at the window's end, or where the request after the last would be due.
    pub plan_end_ns: u64,
    /// How far apart they were, by thread.
    pub spacing: Vec<Spacing>,
}

impl OpenTally {
    /// Counts nothing yet.
    pub fn new(spacing: Option<Spacing>) -> Self {
        Self {
            own_lateness: histogram(),
            planned: 0,
            sent_in_time: 0,
            unsent: 0,
            waited: 0,
            last_sent_ns: 0,
            plan_end_ns: u64::MAX,
            spacing: spacing.into_iter().collect(),
        }
    }

    fn merge(&mut self, other: Self) {
        add([(&mut self.own_lateness, &other.own_lateness)]);
        self.planned += other.planned;
        self.sent_in_time += other.sent_in_time;
        self.unsent += other.unsent;
        self.waited += other.waited;
        self.last_sent_ns = self.last_sent_ns.max(other.last_sent_ns);
        self.plan_end_ns = self.plan_end_ns.min(other.plan_end_ns);
        self.spacing.extend(other.spacing);
    }
}

/// Of nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are valid and constant")
}

pub(crate) fn add<const N: usize>(histograms: [(&mut Histogram<u64>, &Histogram<u64>); N]) {
    for (ours, theirs) in histograms {
        ours.add(theirs).expect("all have the same bounds");
    }
}

impl Tally {
    /// Counts nothing yet. All memory that counting needs is taken here.
    pub fn new() -> Self {
        Self {
            connect: histogram(),
            first_exchange: histogram(),
            total: 0,
            last_reply_ns: 0,
            attempted: 0,
            connected: 0,
            unserved: 0,
            per_connection: Vec::new(),
            failures: Failures::default(),
            usage: None,
            spun_ns: 0,
            busy: 0.0,
            waiting: 0.0,
            open: None,
        }
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: Tally) {
        let histograms = [
            (&mut self.connect, &other.connect),
            (&mut self.first_exchange, &other.first_exchange),
        ];
        add(histograms);
        self.total += other.total;
        self.last_reply_ns = self.last_reply_ns.max(other.last_reply_ns);
        self.attempted += other.attempted;
        self.connected += other.connected;
        self.unserved += other.unserved;
        self.per_connection.extend(other.per_connection);
        self.failures.merge(other.failures);
        self.usage = self.usage.into_iter().chain(other.usage).reduce(Usage::plus);
        self.spun_ns += other.spun_ns;
        self.busy = self.busy.max(other.busy);
        self.waiting = self.waiting.max(other.waiting);
        if let Some(theirs) = other.open {
            self.open.get_or_insert_with(|| OpenTally::new(None)).merge(theirs);
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up_and_the_busiest_counts() {
        let mut sum = Tally::new();
        for (value, busy) in [(1_000, 0.5), (3_000, 0.9), (2_000, 0.2)] {
            let mut tally = Tally::new();
            tally.connect.saturating_record(value);
            tally.total = 1;
            tally.last_reply_ns = value;
            tally.per_connection.push(value);
            tally.busy = busy;
            sum.merge(tally);
        }
        assert_eq!((sum.total, sum.last_reply_ns, sum.busy), (3, 3_000, 0.9));
        assert_eq!(sum.per_connection, [1_000, 3_000, 2_000]);
        // Three digits: values are told apart to a thousandth.
        assert!((3_000..=3_003).contains(&sum.connect.max()));
        assert_eq!(sum.connect.len(), 3);
    }

    #[test]
    fn a_latency_beyond_the_range_still_counts() {
        let mut tally = Tally::new();
        tally.connect.saturating_record(u64::MAX);
        assert_eq!(tally.connect.len(), 1);
        assert!(tally.connect.max() >= LATENCY_MAX_NS);
    }
}
