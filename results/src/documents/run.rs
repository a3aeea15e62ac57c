//! The record of one run: what was asked, what was measured, and where.
//!
//! One type serves `loadgen --json`, the stored files and the comparison. A key that does not
//! apply is absent, never zero. Units stand last in the names. A change that a reader of old
//! files would trip over raises [`SCHEMA`].

mod bars;
mod costs;
mod fairness;
pub(crate) mod notes;
pub(crate) mod page;
pub(crate) mod table;
pub(crate) mod text;
mod timeline;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::environment::circumstances::Circumstance;
use crate::{Document, Environment, Floor, Header, Latencies, format};

/// One measured run.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Record {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// Whether the numbers may be quoted as the subject's.
    pub valid: bool,
    /// Why not; empty when valid. Each begins with a word for programs and a colon, such as
    /// `generator-full: `, and goes on in words for people.
    pub invalid_reasons: Vec<String>,
    /// What a reader should know all the same, in the same form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether a signal cut the run short.
    pub interrupted: bool,
    /// The server under test.
    pub subject: Subject,
    /// How requests are timed: `closed`, as fast as the replies come; `open`, when they are due.
    pub load: String,
    /// In an open loop, what was due and what became of it.
    pub rate: Option<Rate>,
    /// Connections asked for.
    pub conns: u32,
    /// Bytes in a request.
    pub size: u32,
    /// Load-generating threads.
    pub threads: u32,
    /// Their system calls: `epoll` or `io-uring`.
    #[serde(default = "epoll")]
    pub engine: String,
    /// In a closed loop, how long the generator looks for replies before it sleeps, at most; its
    /// cost is the client's. Absent where it sleeps at once.
    pub spin_ns: Option<u64>,
    /// Seconds between the last connection's opening and the measured window.
    pub warmup_s: f64,
    /// How a warm-up ended that was watched: `steady`, the load having settled, or `bound`, having
    /// taken as long as it may. Absent where its length was given.
    pub warmup_end: Option<String>,
    /// Seconds actually measured; the divisor of every rate.
    pub duration_s: f64,
    /// Exchanges completed in the measured window, each verified byte for byte; of a run of a given
    /// number, those that began in it.
    pub exchanges: u64,
    /// `exchanges / duration_s`.
    pub throughput_per_s: f64,
    /// The sum of `errors[].count`, over the whole run.
    pub errors_total: u64,
    /// Failures by kind and errno.
    pub errors: Vec<ErrorCount>,
    /// Connections that never got a whole reply.
    pub unserved: u64,
    /// Latency by what was timed.
    pub latency: Latencies,
    /// The measured window in pieces, in order and without gaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<Interval>,
    /// What the generator itself cost in the measured window.
    pub client: Cost,
    /// What the server cost in the measured window, where it could be read.
    pub server: Option<Cost>,
    /// Whose processors were full: `server`, `client`, `both`, `neither` or `unknown`.
    pub limit: String,
    /// What the run was to be held against, and whether it held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<Threshold>,
    /// How evenly the connections were served in the measured window.
    pub fairness: Option<Fairness>,
    /// How the sides lay, where the server's processors are known: `apart`, on processors of their
    /// own; `steered`, on the same, each connection served on the processor of its client;
    /// `shared`, on the same otherwise.
    pub placement: Option<String>,
    /// An embedded server's own statistics, as it printed them when it stopped; whole run.
    pub server_statistics: Option<serde_json::Value>,
    /// What this machine can do at all, as measured before the run.
    pub floor: Option<Floor>,
    /// Where it ran.
    pub environment: Environment,
}

impl Document for Record {
    fn header(&self) -> &Header {
        &self.header
    }

    fn environment(&self) -> &Environment {
        &self.environment
    }

    fn stem(&self) -> String {
        format!("{}-{}x{}", self.subject.name, self.conns, self.size)
    }

    /// `mio, 1,000 connections x 64 bytes: 78.8k exchanges/s, p99 20.8ms`.
    fn title(&self) -> String {
        let doubt = if self.valid { "" } else { "INVALID: " };
        let (name, load) = (&self.subject.name, crate::text::load(self.conns, self.size));
        let rate = format::count(self.throughput_per_s);
        let p99 = self.latency.main().map(|it| format!(", p99 {}", format::duration(it.p99_ns)));
        format!("{doubt}{name}, {load}: {rate} exchanges/s{}", p99.unwrap_or_default())
    }

    fn text(&self) -> String {
        text::text(self)
    }

    fn circumstances(&self) -> Vec<Circumstance> {
        notes::circumstances(self)
    }
}

/// What the generator used before there was another engine.
fn epoll() -> String {
    "epoll".to_owned()
}

/// The server under test.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Subject {
    /// The backend's name for an embedded server, else the target address.
    pub name: String,
    /// The backend that ran, never the one that was wished for.
    pub backend: Option<String>,
    /// What was asked of it: `echo` or `hi`.
    pub service: String,
    /// The address connected to.
    pub addr: String,
    /// Threads with a listener each.
    pub shards: Option<u32>,
    /// The listen queue asked for, per shard.
    pub backlog: Option<u32>,
    /// How long an embedded server polls before it sleeps, nanoseconds; absent where it does not.
    pub spin_ns: Option<u64>,
}

/// Failures of one kind.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorCount {
    /// `connect`, `send`, `receive`, `eof`, `timeout`, `mismatch` or `surplus`.
    pub kind: String,
    /// The errno's name, such as `ECONNRESET`, where there was one.
    pub errno: Option<String>,
    /// How many.
    pub count: u64,
    /// The first one in words.
    pub first: String,
}

/// What an open loop planned in the measured window, and what became of it.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rate {
    /// The rate asked for, requests a second.
    pub planned_per_s: f64,
    /// The rate at which they were sent, counting those that were sent before the window's end.
    pub achieved_per_s: f64,
    /// How the planned instants lie: `constant`, at equal distances; `poisson`, at random.
    pub arrivals: String,
    /// Requests planned.
    pub planned: u64,
    /// Those of them that were not sent at all.
    pub unsent: u64,
    /// Those of them that found no idle connection when they were due, and waited for one.
    pub waited: u64,
    /// The 99th percentile of that part of the lateness that is the generator's own: without the
    /// wait for an idle connection. Absent when nothing was sent.
    pub own_lateness_p99_ns: Option<u64>,
    /// How long before a request was due the clock was watched, at most; its cost is the client's.
    pub spin_ns: u64,
}

/// A piece of the measured window.
///
/// Percentiles are of `response` in an open loop, else of `exchange`; they are absent when nothing
/// was timed. An exchange belongs to the interval in which its reply was complete; what completed
/// after the window's end belongs to none of the counts, and its latency to the last interval.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interval {
    /// Seconds from the start of the measured window.
    pub start_s: f64,
    /// Seconds; the last may be shorter than the others.
    pub length_s: f64,
    /// Exchanges completed in it.
    pub exchanges: u64,
    /// Failures noticed in it.
    pub errors: u64,
    /// Half were faster.
    pub p50_ns: Option<u64>,
    /// Nine of ten were faster.
    pub p90_ns: Option<u64>,
    /// 99 of 100 were faster.
    pub p99_ns: Option<u64>,
    /// The slowest.
    pub max_ns: Option<u64>,
}

/// What a run was to be held against.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Threshold {
    /// What must not be, as it was asked: `p99>5ms`.
    pub expression: String,
    /// What was measured: nanoseconds, exchanges a second, failures, or a share of one. Absent when
    /// it was not.
    pub value: Option<f64>,
    /// Whether the threshold was held; what was not measured is missed.
    pub held: bool,
}

/// What one side of the exchange cost in the measured window.
///
/// Times are of the processors, from the kernel's accounting of the whole process: the sum from its
/// clock (clock_getcpuclockid(3)), the division from `/proc/PID/stat` (proc_pid_stat(5)).
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cost {
    /// User and system time.
    pub cpu_us_per_exchange: f64,
    /// Time in the program.
    pub user_us_per_exchange: f64,
    /// Time in the kernel on its behalf.
    pub system_us_per_exchange: f64,
    /// Voluntary and involuntary switches of its threads; absent where these were too many to be
    /// read without disturbing the run.
    pub context_switches_per_exchange: Option<f64>,
    /// Processor time over the window's length times the processors it may use: 1 is full.
    pub busy: f64,
    /// The processors it may use, as a kernel CPU list such as `0,2-3`.
    pub cpus: String,
    /// System calls an exchange, where the side counts them (over its whole life).
    pub syscalls_per_exchange: Option<f64>,
}

/// How evenly the connections were served: exchanges per connection.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fairness {
    /// The fewest a connection completed.
    pub min: u64,
    /// The most.
    pub max: u64,
    /// Jain's index (Jain, Chiu, Hawe 1984): 1 when all are equal, 1/n when one has everything.
    pub jain: f64,
}

impl Threshold {
    /// The value with its unit, which the metric's name tells; `None` if it was not measured.
    pub fn shown(&self) -> Option<String> {
        let metric = self.expression.split(['<', '>']).next().unwrap_or_default().trim();
        let value = self.value?;
        Some(match metric {
            "throughput" => format::count(value.round()) + "/s",
            "errors" => format::count(value),
            "error_rate" => format!("{:.3}%", value * 100.0),
            _ => format::duration(value.round() as u64),
        })
    }
}

impl Fairness {
    /// Sums up the exchanges each connection completed; `None` when there were none at all.
    pub fn from_counts(exchanges: impl IntoIterator<Item = u64>) -> Option<Fairness> {
        let (mut connections, mut sum, mut squares) = (0u64, 0f64, 0f64);
        let (mut min, mut max) = (u64::MAX, 0);
        for count in exchanges {
            connections += 1;
            sum += count as f64;
            squares += (count as f64).powi(2);
            min = min.min(count);
            max = max.max(count);
        }
        (max > 0).then(|| Fairness { min, max, jain: sum * sum / (connections as f64 * squares) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_is_shown_in_the_unit_of_its_metric() {
        for (expression, value, shown) in [
            ("p99>5ms", 7_900_000.0, "7.90ms"),
            ("service.p99.9 <= 300us", 95_000.0, "95.0us"),
            ("throughput<50k", 241_900.0, "241.9k/s"),
            ("errors>0", 3.0, "3"),
            ("error_rate>0.1%", 0.006, "0.600%"),
            ("server_cpu>5us", 4_120.0, "4.12us"),
        ] {
            let threshold =
                Threshold { expression: expression.into(), value: Some(value), held: false };
            assert_eq!(threshold.shown().as_deref(), Some(shown));
        }
    }

    #[test]
    fn from_equal_shares_to_one_taking_all() {
        let fairness = Fairness::from_counts([5, 5, 5, 5]).unwrap();
        assert_eq!(fairness, Fairness { min: 5, max: 5, jain: 1.0 });
        let fairness = Fairness::from_counts([0, 8, 0, 0]).unwrap();
        assert_eq!(fairness, Fairness { min: 0, max: 8, jain: 0.25 });
        assert_eq!(Fairness::from_counts([]), None);
        assert_eq!(Fairness::from_counts([0, 0]), None);
    }
}
