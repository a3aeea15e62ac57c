//! Floor of a machine: limits for the numbers of a run.
//!
//! There is no event loop or I/O model here: sockets are read when the data is known to be there,
//! or polled. No server of this exchange costs less than [`one_thread`](Floor::one_thread), and no
//! server and generator on a CPU each reach more than [`two_threads`](Floor::two_threads).

mod text;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::{Document, Environment, Header, Record, format};

/// Ratio of two floors from which on the machine has changed its speed.
const CHANGED: f64 = 1.05;

/// Measurements, each the median of several interleaved rounds with the lowest and the highest.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Floor {
    /// Start of the measurement, RFC 3339, UTC.
    pub measured: String,
    /// Length of the measurement including connecting, seconds.
    pub duration_s: f64,
    /// Rounds behind each median.
    pub rounds: u32,
    /// Bytes in a request, and in its reply.
    pub size: u32,
    /// CPU of the forms with one thread, and of the client in those with two; absent where threads
    /// cannot be pinned.
    pub client_cpu: Option<u32>,
    /// CPU of the server in the forms with two threads; absent if there is only one.
    pub server_cpu: Option<u32>,
    /// TCP connections that were opened in the network namespace of the run, where the kernel
    /// counts them with all others; 0 if the floor had a namespace of its own.
    pub connections: u32,
    /// A whole exchange in one thread: the client's send, the server's receive and send, the
    /// client's receive, over loopback TCP, without waiting. CPU time of both sides.
    pub one_thread: Vec<Exchange>,
    /// The same between two spinning threads on two CPUs, with a request in flight on every
    /// connection. The time between two replies: with one connection a round trip, with many the
    /// reciprocal of the throughput. Absent if other programs used the CPUs in every round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub two_threads: Vec<Exchange>,
    /// Round trip on one connection between two threads that sleep in recv(2), on two CPUs: it adds
    /// the cost of waking.
    pub blocking_ns: Option<Spread>,
    /// Calls that an event loop makes.
    pub calls: Option<Calls>,
}

/// A floor with its machine, as its file holds it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FloorReport {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// A signal ended it early.
    #[serde(default)]
    pub interrupted: bool,
    /// Measurements.
    pub floor: Floor,
    /// Machine and build.
    pub environment: Environment,
}

impl Document for FloorReport {
    fn header(&self) -> &Header {
        &self.header
    }

    fn environment(&self) -> &Environment {
        &self.environment
    }

    fn stem(&self) -> String {
        format!("floor-{}", self.floor.size)
    }

    fn title(&self) -> String {
        format!("Floor of this machine, requests of {} bytes", self.floor.size)
    }

    fn text(&self) -> String {
        self.floor.text(self.interrupted)
    }
}

/// Time of an exchange with a number of connections in rotation.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exchange {
    /// Connections, each with its buffers in the kernel: many do not fit the caches.
    pub conns: u32,
    /// Nanoseconds for each exchange.
    pub ns: Spread,
}

/// Cost of calls that an exchange needs or might need, nanoseconds of CPU time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Calls {
    /// Reading the monotonic clock (clock_gettime(2)).
    pub clock_ns: Spread,
    /// A system call that does next to nothing (getppid(2)).
    pub syscall_ns: Spread,
    /// A receive that finds nothing (recv(2), `EAGAIN`).
    pub recv_nothing_ns: Spread,
    /// epoll_wait(2) with a timeout of zero that finds nothing.
    pub epoll_nothing_ns: Spread,
}

/// Values of the rounds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Spread of one value for each round; `None` without values.
    pub fn of(values: &[f64]) -> Option<Spread> {
        Some(Spread {
            median: crate::statistics::median(values)?,
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

impl Spread {
    /// Ratio of this median to another one, if the values of the rounds do not overlap and differ
    /// clearly: then the machine changed its speed in between.
    pub(crate) fn changed_from(&self, before: &Spread) -> Option<f64> {
        let apart = self.low > before.high || self.high < before.low;
        let ratio = self.median / before.median;
        (apart && !(1.0 / CHANGED..CHANGED).contains(&ratio)).then_some(ratio)
    }
}

impl Floor {
    /// Exchange in one thread, with the measured number of connections that is nearest to a run's.
    pub fn one_thread_ns(&self, conns: u32) -> Option<f64> {
        self.one_thread_spread(conns).map(|ns| ns.median)
    }

    /// Values of all rounds behind [`one_thread_ns`](Self::one_thread_ns).
    pub(crate) fn one_thread_spread(&self, conns: u32) -> Option<Spread> {
        nearest(&self.one_thread, conns)
    }

    /// Most exchanges a second between two threads on two CPUs, likewise.
    pub fn two_threads_per_s(&self, conns: u32) -> Option<f64> {
        nearest(&self.two_threads, conns).map(|ns| 1e9 / ns.median)
    }
}

/// The measurement with the number of connections that is nearest as a ratio.
fn nearest(measured: &[Exchange], conns: u32) -> Option<Spread> {
    let distance = |exchange: &&Exchange| {
        (f64::from(exchange.conns.max(1)) / f64::from(conns.max(1))).ln().abs()
    };
    let nearest = measured.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    (nearest.ns.median > 0.0).then_some(nearest.ns)
}

impl Record {
    /// Sentence that compares the run with its [`floor`](Record::floor).
    pub fn against_floor(&self) -> Option<String> {
        let floor = self.floor.as_ref()?;
        let least_ns = floor.one_thread_ns(self.conns)?;
        let mut text =
            format!("an exchange in one thread takes {} here", format::duration(least_ns as u64));
        let Some(server) = self.server.as_ref().filter(|_| self.exchanges > 0) else {
            return Some(text);
        };
        let used_us = self.client.cpu_us_per_exchange + server.cpu_us_per_exchange;
        let used_ns = used_us * 1e3;
        text += &format!(
            "; this run used {} of both sides' CPU, {:.1}x",
            format::duration(used_ns as u64),
            used_ns / least_ns
        );
        // A planned rate is no share of the possible rate; and two CPUs are no bound for
        // connections with both ends on one.
        let bounded =
            self.rate.is_none() && self.placement.as_deref().is_none_or(|it| it == "apart");
        if let Some(most) = floor.two_threads_per_s(self.conns).filter(|_| bounded) {
            text += &format!(
                "; two spinning threads reach {}/s, this run {:.0} % of it",
                format::count(most),
                self.throughput_per_s / most * 100.0
            );
            if self.throughput_per_s > most {
                text += ": it saves calls by handling several exchanges at a time, or the machine \
                         was faster during the run";
            }
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(conns: u32, ns: f64) -> Exchange {
        Exchange { conns, ns: Spread { median: ns, low: ns, high: ns } }
    }

    #[test]
    fn spread_has_its_median_between_its_ends() {
        assert_eq!(Spread::of(&[]), None);
        let spread = Spread::of(&[3.0, 1.0, 2.0, 9.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, low: 1.0, high: 9.0 });
    }

    #[test]
    fn nearest_number_of_connections_is_used() {
        let measured = [exchange(1, 10.0), exchange(64, 20.0), exchange(1000, 30.0)];
        for (conns, ns) in
            [(1, 10.0), (7, 10.0), (9, 20.0), (64, 20.0), (252, 20.0), (254, 30.0), (9000, 30.0)]
        {
            let found = nearest(&measured, conns).map(|found| found.median);
            assert_eq!(found, Some(ns), "{conns}");
        }
        assert_eq!(nearest(&[], 1), None);
        assert_eq!(nearest(&[exchange(1, 0.0)], 1), None, "nothing is divided by zero");
    }

    #[test]
    fn changed_speed_is_more_than_the_spread_of_the_rounds() {
        let spread = |low, median, high| Spread { median, low, high };
        let before = spread(95.0, 100.0, 106.0);
        for (after, ratio) in [
            (spread(104.0, 120.0, 125.0), None), // they overlap
            (spread(107.0, 120.0, 125.0), Some(1.2)),
            (spread(80.0, 80.0, 81.0), Some(0.8)),
            (spread(90.0, 96.0, 94.0), None), // next to nothing
        ] {
            assert_eq!(after.changed_from(&before), ratio, "{after:?}");
        }
    }

    fn floor() -> Floor {
        let spread = |ns| Spread { median: ns, low: ns - 1.0, high: ns + 1.0 };
        Floor {
            measured: "2026-11-23T12:24:05Z".into(),
            duration_s: 5.0,
            rounds: 7,
            size: 64,
            client_cpu: Some(1),
            server_cpu: Some(0),
            connections: 1007,
            one_thread: vec![exchange(1, 4000.0), exchange(1000, 5000.0)],
            two_threads: vec![exchange(1, 7000.0), exchange(1000, 4000.0)],
            blocking_ns: Some(spread(87_000.0)),
            calls: Some(Calls {
                clock_ns: spread(22.3),
                syscall_ns: spread(108.0),
                recv_nothing_ns: spread(170.0),
                epoll_nothing_ns: spread(107.0),
            }),
        }
    }

    #[test]
    fn floor_text_names_every_measurement() {
        let text = floor().text(false);
        for words in [
            "| exchange in 1 thread, 1 connection      | 4.00us | 4.00us | 4.00us |",
            "| 2 spinning threads, 1,000 connections   | 4.00us |",
            "| 2 blocking threads, 1 connection        | 87.0us |",
            "| clock_gettime(CLOCK_MONOTONIC)          | 22.3ns | 21.3ns | 23.3ns |",
            "one thread:         at most 250.0k/s",
            "waking a thread on another CPU:                   40.0us each time",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let one = Floor { server_cpu: None, two_threads: vec![], blocking_ns: None, ..floor() };
        assert!(one.text(false).contains("there is only one CPU"), "{}", one.text(false));
        let disturbed = Floor { two_threads: vec![], ..floor() };
        assert!(disturbed.text(false).contains("other programs"), "{}", disturbed.text(false));
        let interrupted = disturbed.text(true);
        assert!(interrupted.ends_with("\ninterrupted: incomplete\n"), "{interrupted}");
        assert!(!interrupted.contains("other programs"), "{interrupted}");
    }
}
