//! Curve of one or several servers under a series of loads, one run for each.
//!
//! Levels are rates (open loop) or numbers of connections. They are measured in random order, so
//! that drift does not look like an effect of the load, each against a new server. A level that
//! overloads the server is part of the curve. A level at which the generator was the limit says
//! nothing about the server: it is shown but does not count.
//!
//! With objectives (an SLO), a search for the highest rate that meets them chooses the levels.

mod knee;
pub(crate) mod many;
mod page;
mod picture;
mod text;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

pub use knee::{Knee, Level};

use crate::html::Page;
use crate::{Document, Environment, Floor, Header, Latencies, Record};

/// A whole sweep, as its file holds it.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Sweep {
    /// Plan.
    #[serde(flatten)]
    pub plan: SweepPlan,
    /// True if a signal, or a server that did not start, ended it early.
    pub interrupted: bool,
    /// Every run, in the order they were made.
    pub points: Vec<Point>,
    /// Levels that were left out, such as those that the machine has too few descriptors for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<Omission>,
    /// Knee of the curve; absent if there is none.
    pub knee: Option<Knee>,
    /// Result of the search for the highest rate.
    pub slo: Option<SloResult>,
    /// Floor of the machine.
    pub floor: Option<Floor>,
    /// Machine and build; the load is that before the first run and after the last.
    pub environment: Environment,
}

impl Document for Sweep {
    fn header(&self) -> &Header {
        &self.plan.header
    }

    fn environment(&self) -> &Environment {
        &self.environment
    }

    fn stem(&self) -> String {
        format!("{}-sweep", self.plan.subject)
    }

    fn title(&self) -> String {
        page::title(self)
    }

    fn text(&self) -> String {
        text::text(self)
    }

    fn draw(&self, page: &mut Page, _id: &str) {
        page::draw(self, page);
    }
}

/// Server, levels and options of a sweep.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SweepPlan {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// Server: the name of a backend or of a command, or an address.
    pub subject: String,
    /// Service: `echo` or `hi`.
    pub service: String,
    /// Meaning of the levels.
    pub axis: Axis,
    /// Levels asked for, ascending; empty for a search, which chooses its own.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub levels: Vec<f64>,
    /// Runs of each level.
    pub rounds: u32,
    /// Connections of every run; absent if they are the levels.
    pub conns: Option<u32>,
    /// Requests a second of every run, if there is a rate that is not the level.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub rate_per_s: Option<f64>,
    /// Distribution of the planned instants, as [`Rate::arrivals`](crate::Rate::arrivals); absent
    /// in a closed loop.
    pub arrivals: Option<String>,
    /// Placement, if not `apart`; as [`Record::placement`].
    pub placement: Option<String>,
    /// Busy-poll time of an embedded server, nanoseconds; absent if it does not busy-poll.
    pub server_spin_ns: Option<u64>,
    /// Bytes in a request.
    pub size: u32,
    /// Seconds before each measured window.
    pub warmup_s: f64,
    /// Seconds of each measured window.
    pub duration_s: f64,
}

/// Quantity that is varied.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Requests a second.
    Rate,
    /// Connections.
    Conns,
}

/// One run.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Point {
    /// Name of the server, in a sweep of several.
    pub subject: Option<String>,
    /// The rate or the number of connections.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub level: f64,
    /// Round, from 1; of a search, the number of runs at this rate so far.
    pub round: u32,
    /// Purpose of the run.
    pub purpose: Purpose,
    /// Start of its measured window, RFC 3339, UTC.
    pub started: String,
    /// Seconds measured.
    pub duration_s: f64,
    /// Outcome of the run.
    pub outcome: Outcome,
    /// True if it met the objectives of a search; absent if there are none or it cannot tell.
    pub held: Option<bool>,
    /// Reasons for an overload or an invalid run, as [`Record::invalid_reasons`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Connections.
    pub conns: u32,
    /// Requests planned a second; absent in a closed loop.
    pub offered_per_s: Option<f64>,
    /// Exchanges completed a second.
    pub achieved_per_s: f64,
    /// Exchanges completed.
    pub exchanges: u64,
    /// Failures.
    pub errors_total: u64,
    /// CPU time of the server, if it could be read.
    pub server_cpu_us_per_exchange: Option<f64>,
    /// CPU time as a share of the CPUs that it may use.
    pub server_busy: Option<f64>,
    /// CPU time of the generator.
    pub client_cpu_us_per_exchange: f64,
    /// CPU time as a share of the CPUs that it may use.
    pub client_busy: Option<f64>,
    /// Side whose CPUs were full, as [`Record::limit`].
    pub limit: String,
    /// The distributions, whole.
    pub latency: Latencies,
    /// Warnings, as in [`Record::warnings`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Cost of opening the connections; absent where it was not measured.
    #[serde(flatten)]
    pub opening: Option<Opening>,
    /// Memory while all connections were idle; absent where it was not measured.
    #[serde(flatten)]
    pub idle_memory: Option<IdleMemory>,
    /// Server processes that shared the port; absent for one.
    pub server_processes: Option<u32>,
    /// Load-generating processes; absent for one.
    pub client_processes: Option<u32>,
}

/// Opening of the connections of a [`Point`], as fast as the server accepted them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Opening {
    /// Seconds from the first connect to the last connection's first reply.
    pub opening_s: f64,
    /// Connections opened and served a second.
    pub opened_per_s: f64,
    /// Server CPU time for each connection and its first exchange, microseconds.
    pub open_cpu_us_per_connection: f64,
    /// Connections that each of several server processes accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<u64>,
}

/// Growth of memory while the connections of a [`Point`] were opened; all of them idle.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IdleMemory {
    /// Bytes of the server processes that no file backs (proc(5), `Anonymous` of `smaps_rollup`).
    pub server_memory_bytes: u64,
    /// Bytes of the kernel for both ends and for everything else on the machine: `Slab`,
    /// `KernelStack` and `PageTables` of `/proc/meminfo`.
    pub kernel_memory_bytes: i64,
    /// Bytes of TCP buffers for both ends and the whole network namespace: `mem` of
    /// `/proc/net/sockstat`.
    pub tcp_memory_bytes: i64,
}

/// A server and a level that were not measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Omission {
    /// Name of the server.
    pub subject: String,
    /// The rate or the number of connections.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub level: f64,
    /// Reason, in words.
    pub reason: String,
}

/// Purpose of a run of a sweep.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The level was asked for.
    Level,
    /// The search tried this rate.
    Search,
    /// The result of the search is measured again, longer.
    Confirm,
    /// A share of the search's result: 50, 70 or 90 %.
    Share,
}

/// Outcome of a run of a sweep.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The numbers are the server's at this load.
    Ok,
    /// The server did not keep up: a point of the curve beyond its knee.
    Overloaded,
    /// The numbers say nothing about the server.
    Invalid,
}

/// Highest rate that meets the objectives.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SloResult {
    /// Objectives, as asked for: `p99<1ms`.
    pub objectives: Vec<String>,
    /// Highest rate that met them twice, requests a second; absent if none did.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub rate_per_s: Option<f64>,
    /// Lowest rate above it that missed them; absent if something else ended the search.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub missed_per_s: Option<f64>,
    /// Upper end of the search.
    pub bound: Bound,
    /// Tolerance between the two rates, as a share.
    pub tolerance: f64,
}

/// Upper end of a search.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The server missed the objectives at the next higher rate.
    Objectives,
    /// The generator cannot send faster: the server's own limit may be higher.
    Generator,
    /// At higher rates, the samples were too few to tell.
    Undecided,
    /// The highest rate that was allowed met them.
    Highest,
    /// The search was interrupted.
    Unfinished,
}

/// Reasons that come with an overload, and by themselves do not make it the generator's.
const OF_OVERLOAD: [&str; 4] = ["overloaded", "rate-missed", "spacing", "not-steady"];

impl Point {
    /// A run as a point of the curve.
    pub fn of(level: f64, round: u32, purpose: Purpose, record: &Record) -> Point {
        let server = record.server.as_ref();
        Point {
            subject: None,
            level,
            round,
            purpose,
            started: record.header.started.clone(),
            duration_s: record.duration_s,
            outcome: outcome(record),
            held: None,
            reasons: record.invalid_reasons.clone(),
            conns: record.conns,
            offered_per_s: record.rate.as_ref().map(|rate| rate.planned_per_s),
            achieved_per_s: record.throughput_per_s,
            exchanges: record.exchanges,
            errors_total: record.errors_total,
            server_cpu_us_per_exchange: server.map(|server| server.cpu_us_per_exchange),
            server_busy: server.and_then(|server| server.busy),
            client_cpu_us_per_exchange: record.client.cpu_us_per_exchange,
            client_busy: record.client.busy,
            limit: record.limit.clone(),
            latency: record.latency.clone(),
            warnings: record.warnings.clone(),
            opening: None,
            idle_memory: None,
            server_processes: None,
            client_processes: None,
        }
    }
}

fn outcome(record: &Record) -> Outcome {
    let slugs: Vec<&str> = record.invalid_reasons.iter().map(|reason| slug(reason)).collect();
    match () {
        () if record.valid && slugs.is_empty() => Outcome::Ok,
        () if slugs.contains(&"overloaded")
            && slugs.iter().all(|slug| OF_OVERLOAD.contains(slug)) =>
        {
            Outcome::Overloaded
        }
        () => Outcome::Invalid,
    }
}

/// Word before the colon of a reason; the whole reason without a colon.
fn slug(reason: &str) -> &str {
    reason.split_once(':').map_or(reason, |(slug, _)| slug)
}
