//! The record of one run.
//!
//! One type serves `loadgen --json`, the stored files and comparisons. A key that does not apply is
//! absent, never zero. Units stand last in the names.

mod bars;
mod charts;
pub(crate) mod merge;
pub(crate) mod notes;
pub(crate) mod page;
pub(crate) mod rank;
pub(crate) mod table;
pub(crate) mod text;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::environment::circumstances::Circumstance;
use crate::{Document, Environment, Floor, Header, Latencies, Merge, Rank, RankRow, format};

/// Share of the window for which a quota keeps a side from the CPUs, from which on it counts as
/// used up: it then affects one exchange in a hundred, and so the 99th percentile.
const THROTTLED: f64 = 0.01;

/// Longest part of a file's name before the run and the rank, in characters.
const SHORT_STEM_MAX: usize = 40;

/// One measured run.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Record {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// True if the numbers may be quoted as the subject's.
    pub valid: bool,
    /// Reasons for an invalid run; empty if valid. Each begins with a word for programs and a
    /// colon, such as `generator-full: `.
    pub invalid_reasons: Vec<String>,
    /// Warnings, in the same form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// True if a signal cut the run short.
    pub interrupted: bool,
    /// Place of the record among those of its run; absent if one process generated the whole load.
    pub rank: Option<Rank>,
    /// Ranks whose records were added to this one, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankRow>,
    /// Common properties of these ranks.
    pub merge: Option<Merge>,
    /// Server under test.
    pub subject: Subject,
    /// Timing of requests: `closed`, as soon as the reply has arrived; `open`, on a schedule.
    pub load: String,
    /// Plan of an open loop, and what became of it.
    pub rate: Option<Rate>,
    /// Number of connections asked for.
    pub conns: u32,
    /// Source addresses of the connections, in the order of use; absent without a route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Bytes in a request.
    pub size: u32,
    /// Load-generating threads.
    pub threads: u32,
    /// I/O of the load generator: `epoll` or `io-uring`.
    #[serde(default = "epoll")]
    pub engine: String,
    /// Longest busy-poll of the generator for replies in a closed loop, nanoseconds; its cost is
    /// the client's. Absent if it sleeps at once.
    pub spin_ns: Option<u64>,
    /// Seconds between the last connection's opening and the measured window.
    pub warmup_s: f64,
    /// End of a warm-up of variable length: `steady`, the load has settled; `bound`, it took as
    /// long as it may. Absent for a fixed length.
    pub warmup_end: Option<String>,
    /// Seconds measured; the divisor of every rate.
    pub duration_s: f64,
    /// Exchanges completed in the measured window, each verified byte for byte. Of a run of a given
    /// number of exchanges: those that began in it.
    pub exchanges: u64,
    /// `exchanges / duration_s`.
    pub throughput_per_s: f64,
    /// Sum of `errors[].count`, over the whole run.
    pub errors_total: u64,
    /// Failures by kind and errno.
    pub errors: Vec<ErrorCount>,
    /// Connections that never got a whole reply.
    pub unserved: u64,
    /// Requests that had no whole reply when the run ended. Each counts in the latency with the
    /// time that it had waited; see [`Latency::unanswered`](crate::Latency::unanswered). Absent if
    /// every request had its reply or has failed.
    pub outstanding: Option<u64>,
    /// Connections without an exchange in the measured window; absent if there are none.
    pub conns_without_exchange: Option<u64>,
    /// Requests sent in all.
    pub sent: Option<Sent>,
    /// Latency by what was timed.
    pub latency: Latencies,
    /// Intervals of the measured window, in order and without gaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<Interval>,
    /// Cost of the generator in the measured window.
    pub client: Cost,
    /// Cost of the server in the measured window, where it could be read.
    pub server: Option<Cost>,
    /// Processes of the server that are counted in its cost: those that used CPU in the window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_processes: Vec<ServerProcess>,
    /// Side whose CPUs were full, or that had used up its CPU quota: `server`, `client`, `both`,
    /// `neither` or `unknown`.
    pub limit: String,
    /// Thresholds of the run, met or missed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<Threshold>,
    /// Fairness between the connections in the measured window.
    pub fairness: Option<Fairness>,
    /// Placement of the sides, if the server's CPUs are known: `apart`, on CPUs of their own;
    /// `steered`, on the same CPUs, each connection served on the CPU of its client; `shared`, on
    /// the same CPUs otherwise.
    pub placement: Option<String>,
    /// Statistics of an embedded server, as it printed them at its end; of the whole run.
    pub server_statistics: Option<serde_json::Value>,
    /// Floor of the machine, measured before the run.
    pub floor: Option<Floor>,
    /// Machine and build.
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
        let stem = format!("{}-{}x{}", self.subject.name, self.conns, self.size);
        // A long name of a target must not displace what follows.
        let short = || stem.chars().take(SHORT_STEM_MAX).collect::<String>();
        match (&self.rank, &self.merge) {
            (Some(Rank { index, count, run_id, .. }), _) if *count > 1 => {
                format!("{}-{run_id}-rank{index}of{count}", short())
            }
            (_, Some(merge)) => {
                format!("{}-{}-{}ranks", short(), merge.run_id, self.ranks.len())
            }
            _ => stem,
        }
    }

    /// `mio, 1,000 connections x 64 bytes: 78.8k exchanges/s, p99 20.8ms`.
    fn title(&self) -> String {
        let doubt = if self.valid { "" } else { "INVALID: " };
        let (name, load) = (&self.subject.name, crate::text::load(self.conns, self.size));
        let rate = format::count(self.throughput_per_s);
        let p99 = self.latency.main().map(|it| format!(", p99 {}", it.shown(0.99, it.p99_ns)));
        format!("{doubt}{name}, {load}: {rate} exchanges/s{}", p99.unwrap_or_default())
    }

    fn text(&self) -> String {
        text::text(self)
    }

    fn circumstances(&self) -> Vec<Circumstance> {
        notes::circumstances(self)
    }
}

impl Record {
    /// Line about one of several ranks: its place, its result, and the delay of its start.
    pub fn rank_line(&self) -> Option<String> {
        let rank = self.rank.as_ref()?;
        let errors = match self.errors_total {
            0 => String::new(),
            total => format!("; {}", crate::text::plural(total, "error")),
        };
        let punctuality = rank.punctuality().map(|it| format!("; {it}")).unwrap_or_default();
        Some(format!("{}: {}{errors}{punctuality}\n", rank.place(), self.title()))
    }
}

/// The only engine of the first versions.
fn epoll() -> String {
    "epoll".to_owned()
}

/// Requests sent, by the phase in which they were sent. If none has failed, their sum is the number
/// of requests that the server has received.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Sent {
    /// First request of each connection.
    pub first_exchanges: u64,
    /// Between the first exchanges and the measured window.
    pub warmup: u64,
    /// In the measured window.
    pub window: u64,
    /// After it: requests of an open loop that were due before.
    pub after: u64,
    /// In all.
    pub total: u64,
}

impl Sent {
    /// Adds other requests.
    pub fn add(&mut self, other: Self) {
        self.first_exchanges += other.first_exchanges;
        self.warmup += other.warmup;
        self.window += other.window;
        self.after += other.after;
        self.total += other.total;
    }
}

/// Server under test.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Subject {
    /// Name of the backend of an embedded server, else the target address.
    pub name: String,
    /// Backend that ran; never one that was asked for and fell back.
    pub backend: Option<String>,
    /// Service: `echo` or `hi`.
    pub service: String,
    /// Command that started the server on another host, or in a namespace; absent if `loadgen`
    /// started it itself or not at all.
    pub via: Option<String>,
    /// Address connected to.
    pub addr: String,
    /// Threads with a listener each.
    pub shards: Option<u32>,
    /// Listen queue asked for, per shard.
    pub backlog: Option<u32>,
    /// Busy-poll time of an embedded server before it sleeps, nanoseconds; absent if it does not
    /// busy-poll.
    pub spin_ns: Option<u64>,
}

/// Failures of one kind.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorCount {
    /// `connect`, `send`, `receive`, `eof`, `timeout`, `mismatch` or `surplus`.
    pub kind: String,
    /// Name of the errno, such as `ECONNRESET`, if there was one.
    pub errno: Option<String>,
    /// Number of failures.
    pub count: u64,
    /// The first of them in words.
    pub first: String,
}

impl ErrorCount {
    /// Cause of the first failure, with the name of its errno: `connection refused (ECONNREFUSED)`.
    pub fn cause(&self) -> String {
        let cause = self.first.split_once(": ").map_or(self.first.as_str(), |(_, cause)| cause);
        let errno = self.errno.as_ref().map(|errno| format!(" ({errno})")).unwrap_or_default();
        cause.to_owned() + &errno
    }
}

/// Plan of an open loop in the measured window, and what became of it.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rate {
    /// Rate asked for, requests a second.
    pub planned_per_s: f64,
    /// Rate of sending, counting requests sent before the window's end.
    pub achieved_per_s: f64,
    /// Distribution of the planned instants: `constant`, at equal distances; `poisson`, at random.
    pub arrivals: String,
    /// Requests planned.
    pub planned: u64,
    /// Planned requests that were not sent at all.
    pub unsent: u64,
    /// Planned requests that found no idle connection when they were due, and waited for one.
    pub waited: u64,
    /// 99th percentile of the generator's own part of the lateness, without the wait for an idle
    /// connection. Absent if nothing was sent.
    pub own_lateness_p99_ns: Option<u64>,
    /// Longest busy-poll before a request is due, nanoseconds; its cost is the client's.
    pub spin_ns: u64,
}

/// An interval of the measured window.
///
/// Percentiles are of the [main latency](crate::Latencies::main); absent if nothing was timed. An
/// exchange belongs to the interval in which its reply was complete. What completed after the
/// window's end is in none of the counts, and its latency in the last interval.
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
    /// Median.
    pub p50_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// Maximum.
    pub max_ns: Option<u64>,
}

/// A condition that fails the run.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Threshold {
    /// The condition as it was written: `p99>5ms`.
    pub expression: String,
    /// Measured value: nanoseconds, exchanges a second, failures, or a share of one. Absent if it
    /// was not measured.
    pub value: Option<f64>,
    /// True if the condition was not met; false if its value was not measured, or does not decide.
    pub held: bool,
    /// Reason why the samples do not decide the condition; absent if they do.
    pub undecided: Option<String>,
}

/// Cost of one side of the exchange in the measured window.
///
/// CPU times are the kernel's accounting of the whole process: the sum from its clock
/// (clock_getcpuclockid(3)), the division from `/proc/PID/stat` (proc_pid_stat(5)). A server on
/// another machine publishes them itself.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cost {
    /// User and system time.
    pub cpu_us_per_exchange: f64,
    /// User time; absent if a server publishes only the sum.
    pub user_us_per_exchange: Option<f64>,
    /// System time; absent if a server publishes only the sum.
    pub system_us_per_exchange: Option<f64>,
    /// Voluntary and involuntary context switches of its threads; absent if there are too many
    /// threads to be read without disturbing the run.
    pub context_switches_per_exchange: Option<f64>,
    /// CPU time over the window's length times the CPUs it may use: 1 is full. A CPU quota does not
    /// count here. Absent if a server does not publish its CPUs.
    pub busy: Option<f64>,
    /// CPUs it may use, as a kernel CPU list such as `0,2-3`; absent if a server does not publish
    /// them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cpus: String,
    /// System calls for each exchange, if the side counts them: over its whole life, or
    /// between the readings of the source.
    pub syscalls_per_exchange: Option<f64>,
    /// CPU quota of its control group; absent if there is none.
    pub quota: Option<Quota>,
    /// Metrics page of the server that the cost was read from, such as
    /// `http://10.0.0.2:9100/metrics`, a little before and after the measured window. Absent if the
    /// kernel of this machine was read.
    pub source: Option<String>,
    /// Side whose number of exchanges between the two readings of the source is the divisor:
    /// `server`, or `generator` if the server publishes no number. Absent without a source.
    pub counted_by: Option<String>,
}

/// A process of the server.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerProcess {
    /// Its number.
    pub pid: i32,
    /// Its name, as proc_pid_comm(5).
    pub name: String,
}

/// CPU quota of a side's control group, or of a group around it (cgroups(7)).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Quota {
    /// CPUs' worth of time.
    pub cpus: f64,
    /// Share of the measured window for which the side was kept from the CPUs, because the group
    /// had used up the quota.
    pub throttled: f64,
    /// True if the group contains both sides.
    pub shared: bool,
}

impl Quota {
    /// True if the side was kept from the CPUs.
    pub fn is_used_up(&self) -> bool {
        self.throttled >= THROTTLED
    }

    /// `CPU quota of 0.5`.
    pub fn words(&self) -> String {
        format!("CPU quota of {}", (self.cpus * 1e3).round() / 1e3)
    }
}

/// Fairness between connections, by their numbers of exchanges.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fairness {
    /// Fewest exchanges of a connection.
    pub min: u64,
    /// Most exchanges of a connection.
    pub max: u64,
    /// Jain's index (Jain, Chiu, Hawe 1984): 1 if all are equal, 1/n if one has everything.
    pub jain: f64,
}

impl Threshold {
    /// True if the condition is met, or its value was not measured.
    pub fn missed(&self) -> bool {
        !self.held && self.undecided.is_none()
    }

    /// Reason for an invalid run, if the condition is undecided.
    pub fn doubt(&self) -> Option<String> {
        let reason = self.undecided.as_ref()?;
        Some(format!("undecided: {}: {reason}; measure longer", self.expression))
    }

    /// Value with the unit of its metric; `None` if it was not measured.
    pub fn shown(&self) -> Option<String> {
        let metric = self.expression.split(['<', '>']).next().unwrap_or_default().trim();
        let value = self.value?;
        Some(match metric {
            "throughput" => format::count(value) + "/s",
            "errors" => format::count(value),
            "error_rate" => format!("{:.3}%", value * 100.0),
            _ => format::duration(value.round() as u64),
        })
    }
}

impl Fairness {
    /// Fairness of the exchanges that each connection completed; `None` if there were none.
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
            let (expression, value) = (expression.into(), Some(value));
            let threshold = Threshold { expression, value, held: false, undecided: None };
            assert_eq!(threshold.shown().as_deref(), Some(shown));
        }
    }

    #[test]
    fn fairness_from_equal_shares_to_one_connection() {
        let fairness = Fairness::from_counts([5, 5, 5, 5]).unwrap();
        assert_eq!(fairness, Fairness { min: 5, max: 5, jain: 1.0 });
        let fairness = Fairness::from_counts([0, 8, 0, 0]).unwrap();
        assert_eq!(fairness, Fairness { min: 0, max: 8, jain: 0.25 });
        assert_eq!(Fairness::from_counts([]), None);
        assert_eq!(Fairness::from_counts([0, 0]), None);
    }
}
