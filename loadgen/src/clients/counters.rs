//! Counters of one load-generating thread, and their sum over all threads.

use hdrhistogram::Histogram;
use lockstep_results::Sent;

use crate::clients::clock::NEVER;
use crate::clients::connection::Connection;
use crate::clients::control::Control;
use crate::clients::failures::{Failures, Kind};
use crate::clients::intervals::{
    IntervalCounts, add, count, growing, histogram, interval_at, interval_end,
};
use crate::clients::pacer::Due;
use crate::clients::plan::{Plan, ThreadLoad};
use crate::clients::spacing::Spacing;
use crate::machine::usage::{self, Usage};

/// Counts of one thread, or of all after [`merge`](Self::merge), except those that are kept by
/// interval: see [`IntervalCounts`].
#[derive(Debug)]
pub struct Totals {
    /// From connect(2) to an established connection.
    pub connect: Histogram<u64>,
    /// From the first send on a new connection to its whole reply.
    pub first_exchange: Histogram<u64>,
    /// Verified exchanges, including first ones and those of the warm-up.
    pub exchanges: u64,
    /// Instant from which the thread, or the last one, could send the load, nanoseconds.
    pub begun_ns: u64,
    /// Instant of the last measured reply, nanoseconds.
    pub last_reply_ns: u64,
    /// Connections that were tried.
    pub attempted: u64,
    /// Connections that were established.
    pub connected: u64,
    /// Connections that were tried and never got a whole reply.
    pub unserved: u64,
    /// Requests sent.
    pub sent: Sent,
    /// Requests without a reply when the run ended.
    pub outstanding: u64,
    /// Longest time that one of them had waited.
    pub longest_wait_ns: u64,
    /// Latencies that are lower bounds: of those requests, and of requests that timed out.
    pub unanswered: u64,
    /// Measured exchanges of each connection that was tried.
    pub per_connection: Vec<u64>,
    /// Failed connections by kind.
    pub failures: Failures,
    /// Resource usage in the measured window; of several threads, the sum.
    pub usage: Option<Usage>,
    /// Time in the measured window that was spent polling without finding anything.
    pub spun_ns: u64,
    /// Times of each thread in the measured window.
    pub threads: Vec<ThreadTimes>,
    /// Counts of an open loop.
    pub open: Option<OpenTotals>,
}

/// Times of one thread, as shares of the measured window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThreadTimes {
    /// Number of the thread.
    pub thread: usize,
    /// On a CPU, without polling in vain.
    pub busy: f64,
    /// Runnable, but without a CPU.
    pub waiting: f64,
}

/// Counts of the requests that an open loop planned in the measured window.
#[derive(Debug)]
pub struct OpenTotals {
    /// Lateness caused by the generator itself, without the wait for an idle connection.
    pub own_lateness: Histogram<u64>,
    /// Requests planned.
    pub planned: u64,
    /// Requests sent before the window's end.
    pub sent_in_time: u64,
    /// Requests never sent.
    pub unsent: u64,
    /// Requests that found no idle connection when they were due.
    pub waited: u64,
    /// Instant of the last send.
    pub last_sent_ns: u64,
    /// End of the plan: the window's end, or the instant at which the request after the last would
    /// be due.
    pub plan_end_ns: u64,
    /// Distances between sends, by thread.
    pub spacing: Vec<Spacing>,
}

impl OpenTotals {
    fn new(spacing: Option<Spacing>, own_lateness: Histogram<u64>) -> Self {
        Self {
            own_lateness,
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
        add(&mut self.own_lateness, &other.own_lateness);
        self.planned += other.planned;
        self.sent_in_time += other.sent_in_time;
        self.unsent += other.unsent;
        self.waited += other.waited;
        self.last_sent_ns = self.last_sent_ns.max(other.last_sent_ns);
        self.plan_end_ns = self.plan_end_ns.min(other.plan_end_ns);
        self.spacing.extend(other.spacing);
    }
}

impl Totals {
    /// Number of connections without an exchange in the measured window.
    pub fn silent(&self) -> u64 {
        self.per_connection.iter().filter(|&&exchanges| exchanges == 0).count() as u64
    }

    /// Returns zero counts for all threads.
    pub fn new() -> Self {
        Self::with(histogram)
    }

    fn with(empty: fn() -> Histogram<u64>) -> Self {
        Self {
            connect: empty(),
            first_exchange: empty(),
            exchanges: 0,
            begun_ns: 0,
            last_reply_ns: 0,
            attempted: 0,
            connected: 0,
            unserved: 0,
            sent: Sent::default(),
            outstanding: 0,
            longest_wait_ns: 0,
            unanswered: 0,
            per_connection: Vec::new(),
            failures: Failures::default(),
            usage: None,
            spun_ns: 0,
            threads: Vec::new(),
            open: None,
        }
    }

    /// Adds the counts of another thread.
    pub fn merge(&mut self, other: Totals) {
        add(&mut self.connect, &other.connect);
        add(&mut self.first_exchange, &other.first_exchange);
        self.exchanges += other.exchanges;
        self.begun_ns = self.begun_ns.max(other.begun_ns);
        self.last_reply_ns = self.last_reply_ns.max(other.last_reply_ns);
        self.attempted += other.attempted;
        self.connected += other.connected;
        self.unserved += other.unserved;
        self.sent.add(other.sent);
        self.outstanding += other.outstanding;
        self.longest_wait_ns = self.longest_wait_ns.max(other.longest_wait_ns);
        self.unanswered += other.unanswered;
        self.per_connection.extend(other.per_connection);
        self.failures.merge(other.failures);
        self.usage = self.usage.into_iter().chain(other.usage).reduce(Usage::plus);
        self.spun_ns += other.spun_ns;
        self.threads.extend(other.threads);
        if let Some(theirs) = other.open {
            self.open.get_or_insert_with(|| OpenTotals::new(None, histogram())).merge(theirs);
        }
    }
}

impl Default for Totals {
    fn default() -> Self {
        Self::new()
    }
}

/// Position of a thread relative to the measured window.
#[derive(Clone, Copy)]
enum Window {
    Ahead,
    /// The readings at the window's start.
    Inside {
        clock_ns: u64,
        usage: Option<Usage>,
    },
    Over,
}

/// Counters of one running thread: its totals, and the counts of the current interval, which go to
/// the main thread when the interval is over.
pub(crate) struct Counters<'a> {
    control: &'a Control,
    thread: usize,
    /// False if a number of exchanges was asked for.
    unlimited: bool,
    interval_ns: u64,
    pub(crate) totals: Totals,
    interval: IntervalCounts,
    interval_number: u64,
    interval_end_ns: u64,
    window: Window,
}

impl<'a> Counters<'a> {
    pub(crate) fn new(plan: &Plan, control: &'a Control, load: ThreadLoad) -> Self {
        let mut totals = Totals::with(growing);
        totals.open = plan.open.map(|open| {
            let seed = open.seed.wrapping_add(load.thread as u64);
            let mean_ns = open.mean_gap_ns(plan.share, plan.threads);
            OpenTotals::new(Some(Spacing::new(open.arrivals, mean_ns, seed)), growing())
        });
        Self {
            control,
            thread: load.thread,
            unlimited: load.requests == u64::MAX,
            interval_ns: plan.interval_ns,
            totals,
            interval: IntervalCounts::of_thread(plan.open.is_some()),
            interval_number: 0,
            interval_end_ns: NEVER,
            window: Window::Ahead,
        }
    }

    /// Counts an established connection.
    pub(crate) fn connected(&mut self, latency_ns: u64) {
        self.totals.connected += 1;
        count(&mut self.totals.connect, latency_ns);
    }

    /// Counts a request of an open loop that is sent now, on a connection that has been idle since
    /// `idle_ns`.
    #[inline]
    pub(crate) fn planned(&mut self, due: Due, idle_ns: u64, now: u64) {
        let Some(open) = &mut self.totals.open else { return };
        if due.measured {
            let own_ns = now - idle_ns.clamp(due.planned_ns, now);
            open.planned += 1;
            open.sent_in_time += u64::from(now < self.control.end_ns());
            open.waited += u64::from(idle_ns > due.planned_ns);
            open.last_sent_ns = now;
            count(&mut open.own_lateness, own_ns);
            for spacing in &mut open.spacing {
                spacing.note(due.planned_ns + own_ns);
            }
        }
    }

    /// Counts the requests of an open loop that were never sent, of a plan that ends at
    /// `plan_end_ns`.
    pub(crate) fn unsent(&mut self, count: u64, plan_end_ns: u64) {
        if let Some(open) = &mut self.totals.open {
            (open.unsent, open.plan_end_ns) = (count, plan_end_ns);
            open.planned += count;
        }
    }

    /// Counts the send of a request.
    #[inline]
    pub(crate) fn sent(&mut self, connection: &Connection) {
        let sent = &mut self.totals.sent;
        sent.total += 1;
        *match connection.since_ns {
            _ if !connection.served => &mut sent.first_exchanges,
            now if now < self.control.start_ns() => &mut sent.warmup,
            now if now < self.control.end_ns() => &mut sent.window,
            _ => &mut sent.after,
        } += 1;
        if let Some(open) = &mut self.interval.open
            && connection.measured
        {
            count(&mut open.lateness, connection.since_ns - connection.planned_ns);
        }
    }

    /// Counts an exchange whose whole reply was here at `replied_ns`.
    ///
    /// Throughput counts the exchanges that end in the window, wherever they began: as many enter
    /// at its start as leave at its end. Latency is of those that begin in it, however late they
    /// end, and of those that outlast it: otherwise the longest would be dropped. A number of
    /// exchanges that was asked for is of those that begin in it.
    #[inline]
    pub(crate) fn replied(&mut self, connection: &mut Connection, replied_ns: u64) {
        self.enter_interval(replied_ns);
        self.record_latency(connection, replied_ns);
        self.totals.exchanges += 1;
        let began_inside = std::mem::take(&mut connection.measured);
        let window = self.control.start_ns()..self.control.end_ns();
        if window.contains(&replied_ns) && (began_inside || self.unlimited) {
            connection.exchanges += 1;
            self.interval.exchanges += 1;
            self.totals.last_reply_ns = replied_ns;
        }
        if !connection.served {
            connection.served = true;
            count(&mut self.totals.first_exchange, replied_ns - connection.since_ns);
        }
    }

    /// Counts the failure of a connection; `describe` is called for the first of its kind.
    pub(crate) fn failed(
        &mut self,
        connection: &Connection,
        kind: Kind,
        errno: Option<i32>,
        now: u64,
        describe: impl FnOnce() -> String,
    ) {
        self.enter_interval(now);
        self.interval.errors += u64::from(now >= self.control.start_ns());
        if kind == Kind::Timeout {
            // It took at least this long: without it the longest waits would be in no percentile.
            self.totals.unanswered += u64::from(self.record_latency(connection, now));
        }
        self.totals.failures.count(kind, errno, now, describe);
    }

    /// Counts an exchange that has no reply when the run ends.
    pub(crate) fn outstanding(&mut self, connection: &Connection, now: u64) {
        let start_ns = self.control.start_ns();
        if connection.measured || (connection.since_ns < start_ns && start_ns < now) {
            self.enter_interval(now);
            self.record(connection, now);
            self.totals.unanswered += 1;
            self.totals.outstanding += 1;
            let waited_ns = now - connection.since_ns;
            self.totals.longest_wait_ns = self.totals.longest_wait_ns.max(waited_ns);
        }
    }

    /// Records the latency of an exchange that began in the window, or before it and outlasted it.
    /// False for any other.
    #[inline]
    fn record_latency(&mut self, connection: &Connection, until_ns: u64) -> bool {
        let outlasted = |control: &Control| {
            until_ns >= control.end_ns()
                && connection.since_ns < control.start_ns()
                && connection.served
        };
        let counts = connection.measured || outlasted(self.control);
        if counts {
            self.record(connection, until_ns);
        }
        counts
    }

    #[inline]
    fn record(&mut self, connection: &Connection, until_ns: u64) {
        count(&mut self.interval.exchange, until_ns - connection.since_ns);
        if let Some(open) = &mut self.interval.open {
            count(&mut open.response, until_ns - connection.planned_ns);
        }
    }

    /// Counts time that was spent polling for nothing from `from_ns` on.
    pub(crate) fn spun(&mut self, from_ns: u64, spun_ns: u64) {
        if (self.control.start_ns()..self.control.end_ns()).contains(&from_ns) {
            self.totals.spun_ns += spun_ns;
        }
    }

    /// Publishes the thread's progress, with this many connections being opened, and takes what is
    /// due at the edges of intervals and of the measured window.
    pub(crate) fn publish(&mut self, opening: usize, now: u64) {
        if matches!(self.window, Window::Ahead) {
            // The window is set some iterations before it starts.
            self.interval_end_ns = self.control.start_ns().saturating_add(self.interval_ns);
        }
        self.enter_interval(now);
        match self.window {
            Window::Ahead if now >= self.control.start_ns() => {
                self.window = Window::Inside { clock_ns: now, usage: usage::thread_usage() };
            }
            Window::Inside { .. } if now >= self.control.end_ns() => self.end_window(),
            _ => {}
        }
        let opened = self.totals.attempted - opening as u64;
        self.control.publish(self.thread, opened, self.totals.exchanges);
    }

    /// Goes on to the interval of that instant if the current one is over.
    #[inline]
    fn enter_interval(&mut self, at_ns: u64) {
        if at_ns >= self.interval_end_ns {
            self.next_interval(at_ns);
        }
    }

    #[cold]
    fn next_interval(&mut self, at_ns: u64) {
        let start_ns = self.control.start_ns();
        let number = interval_at(at_ns.saturating_sub(start_ns), self.interval_ns);
        self.hand_over(number);
        self.interval_end_ns = start_ns.saturating_add(interval_end(number, self.interval_ns));
    }

    fn hand_over(&mut self, next: u64) {
        let queue = &self.control.queues()[self.thread];
        queue.push(self.interval_number, next, &mut self.interval);
        self.interval_number = next;
    }

    fn end_window(&mut self) {
        if let Window::Inside { clock_ns, usage } = self.window {
            let window_ns = self.control.clock.now().saturating_sub(clock_ns).max(1) as f64;
            let usage = usage::thread_usage().zip(usage).map(|(now, before)| now.since(before));
            let used_ns = usage.map_or(0, |usage| usage.cpu_ns);
            let waited_ns = usage.and_then(|usage| usage.waited_ns).unwrap_or(0);
            self.totals.usage = usage;
            self.totals.threads.push(ThreadTimes {
                thread: self.thread,
                busy: used_ns.saturating_sub(self.totals.spun_ns) as f64 / window_ns,
                waiting: waited_ns as f64 / window_ns,
            });
        }
        self.window = Window::Over;
    }

    /// Ends the window if it has not ended, and hands over the last interval.
    pub(crate) fn finish(&mut self) {
        self.end_window();
        self.hand_over(NEVER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_adds_counts_and_keeps_every_thread() {
        let mut sum = Totals::new();
        let times = |thread, busy| ThreadTimes { thread, busy, waiting: 0.0 };
        for (value, busy) in [(1_000, 0.5), (3_000, 0.9), (2_000, 0.2)] {
            let mut totals = Totals::new();
            totals.connect.saturating_record(value);
            totals.exchanges = 1;
            totals.last_reply_ns = value;
            totals.per_connection.push(value);
            totals.threads.push(times(value as usize, busy));
            sum.merge(totals);
        }
        assert_eq!((sum.exchanges, sum.last_reply_ns), (3, 3_000));
        assert_eq!(sum.threads, [times(1_000, 0.5), times(3_000, 0.9), times(2_000, 0.2)]);
        assert_eq!(sum.per_connection, [1_000, 3_000, 2_000]);
        // Three digits: values differ by at most a thousandth.
        assert!((3_000..=3_003).contains(&sum.connect.max()));
        assert_eq!(sum.connect.len(), 3);
    }
}
