//! Comparison of servers, measured in rounds.
//!
//! The claim rests on one metric that is named beforehand, server CPU per exchange: it is the cost
//! of an I/O model, and unlike throughput it also counts when the other side was full. If it cannot
//! be read for every subject, throughput takes its place, or the 99th percentile if the rate is
//! planned. The other five metrics are judged as a family, with wider intervals: all five together
//! claim a difference by chance about as rarely as the primary alone. Each subject in each cell is
//! a comparison with the baseline of its own. See [`statistics`](crate::statistics) for the method
//! and its error rates.
//!
//! The file holds the values of every round, so that the verdicts can be checked, and one pooled
//! histogram for each subject. Each run names the file of its whole record, if that was kept.

mod charts;
mod exclusion;
mod floors;
mod judge;
mod metric;
mod page;
mod sentences;
mod text;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

pub use exclusion::Exclusion;
pub use floors::RoundFloor;
pub use metric::{ByMetric, Metric};
use sentences::{decimals, interval};

use crate::html::Page;
use crate::statistics::{Ratio, Stopped, Stopping};
use crate::{Document, Environment, ErrorCount, Header, Latency, Record, Subject};

/// A whole comparison, as its file holds it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Comparison {
    /// Plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// True if a signal cut a run short.
    pub interrupted: bool,
    /// Metric that the claim rests on.
    pub primary: Metric,
    /// Highest number of rounds of a cell.
    pub rounds: u32,
    /// Measurements, by connections and size.
    pub cells: Vec<Cell>,
    /// Machine and build; the load is that before the first run and after the last.
    pub environment: Environment,
}

impl Document for Comparison {
    fn header(&self) -> &Header {
        &self.plan.header
    }

    fn environment(&self) -> &Environment {
        &self.environment
    }

    fn stem(&self) -> String {
        self.plan.subjects.join("-vs-")
    }

    fn title(&self) -> String {
        page::title(self)
    }

    fn text(&self) -> String {
        text::text(self)
    }

    fn draw(&self, page: &mut Page, id: &str) {
        page::draw(self, page, id);
    }
}

/// Subjects, baseline and options of a comparison.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Plan {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// Names of the subjects, no two the same, in the order they are shown.
    pub subjects: Vec<String>,
    /// The subject that the others are divided by.
    pub baseline: String,
    /// True if all subjects are the same server, to show the noise.
    pub aa: bool,
    /// Rule that ends a cell.
    pub stopping: Stopping,
    /// Servers that were found but could not be compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
    /// Options of every run.
    pub asked: Option<Asked>,
}

/// A server that did not start.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Absent {
    /// Name of the server.
    pub subject: String,
    /// Cause, in words.
    pub cause: String,
}

/// Options of every run. With the subjects and the rounds, they are all it takes to repeat it.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Asked {
    /// Numbers of connections, each with every size a cell.
    pub conns: Vec<u32>,
    /// Bytes in a request.
    pub sizes: Vec<u32>,
    /// Length of the measured window.
    pub duration_s: f64,
    /// Time slice of a subject for each number of connections; zero if the runs of a round follow
    /// one another, as they do where this is absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns_s: Vec<f64>,
    /// Warm-up; absent if it lasts until the load is steady.
    pub warmup_s: Option<f64>,
    /// Timeout for a connect or an exchange.
    pub timeout_s: f64,
    /// Planned rate of an open loop, requests a second; absent in a closed loop.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub rate_per_s: Option<f64>,
    /// Distribution of its instants: `constant` or `poisson`.
    pub arrivals: Option<String>,
    /// Longest busy-poll before a planned instant, or in a closed loop for a reply.
    pub spin_s: Option<f64>,
    /// New connections a second; absent if unlimited.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub connect_rate_per_s: Option<f64>,
    /// Load-generating threads; absent for one on each CPU.
    pub threads: Option<u32>,
    /// I/O of the load generator; absent before there was a choice.
    pub engine: Option<String>,
    /// CPUs of the generator, if asked for.
    pub client_cpus: Option<String>,
    /// CPUs of the servers, if asked for.
    pub server_cpus: Option<String>,
    /// Placement, if asked for; as [`Record::placement`].
    pub placement: Option<String>,
    /// Busy-poll time of the backends that can, nanoseconds; absent if none.
    pub server_spin_ns: Option<u64>,
    /// Shards of the backends, if asked for.
    pub shards: Option<u32>,
    /// Listen queue of the backends' shards, if asked for.
    pub backlog: Option<u32>,
    /// Commands of subjects that are not backends, with `{addr}` or `{port}` in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
}

/// Command that starts a subject.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Command {
    /// Name of the subject.
    pub subject: String,
    /// Argument of `sh -c`.
    pub command: String,
}

/// One run of one subject in one round.
#[derive(Clone, Debug)]
pub struct Run {
    /// The round, from 1.
    pub round: u32,
    /// One of [`Plan::subjects`].
    pub subject: String,
    /// Measured values.
    pub record: Record,
    /// File of the record, if any, as the comparison names it.
    pub file: Option<String>,
}

/// Measurements with one number of connections and one size.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cell {
    /// Number of connections asked for.
    pub conns: u32,
    /// Bytes in a request.
    pub size: u32,
    /// Timing of requests, as [`Record::load`].
    pub load: String,
    /// Rounds begun, including invalid runs.
    pub rounds: u32,
    /// Reason for the last round; absent if there should be more.
    pub stopped: Option<Stopped>,
    /// Floors of the machine, one for each round in which it was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<RoundFloor>,
    /// Subjects that ran, in the order of [`Plan::subjects`].
    pub subjects: Vec<Measured>,
}

/// A subject in a cell.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measured {
    /// Name of the subject.
    pub name: String,
    /// Server, as in the record of its first run.
    pub subject: Subject,
    /// Load-generating threads.
    pub threads: u32,
    /// CPUs that the generator could use, as a kernel CPU list.
    pub client_cpus: String,
    /// CPUs that the server could use.
    pub server_cpus: Option<String>,
    /// Placement, as in the record of its first run.
    pub placement: Option<String>,
    /// Number of runs left out of some or all summaries: invalid or interrupted.
    pub excluded: u32,
    /// Reasons for leaving runs out, by kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclusions: Vec<Exclusion>,
    /// Summary of the rounds.
    pub metrics: ByMetric<Summary>,
    /// Every run, by round.
    pub runs: Vec<Measurement>,
    /// Latencies of all runs that count for latency, as one distribution. Its percentiles weigh
    /// each exchange alike; the summaries weigh each round alike.
    pub pooled: Option<Latency>,
}

/// One run's numbers.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measurement {
    /// The round, from 1.
    pub round: u32,
    /// Start of its measured window, RFC 3339, UTC; it shows the order in the round.
    pub started: String,
    /// Reasons for leaving it out of some or all metrics; empty if it counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// Metrics that it is left out of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out_of: Vec<Metric>,
    /// Warnings of its record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Failures, which do not by themselves exclude a run.
    pub errors_total: u64,
    /// Failures by kind and errno.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorCount>,
    /// Measured values.
    pub values: ByMetric<f64>,
    /// File of the whole record, if it was kept.
    pub record: Option<String>,
}

/// One metric of one subject, over the rounds that count.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Summary {
    /// Median of the rounds.
    pub median: f64,
    /// Run-to-run noise as a share of the median: the scaled median distance from it, which for
    /// Gaussian noise is the standard deviation. It includes drift between rounds.
    pub spread: f64,
    /// Values of the subject over those of the baseline; absent for the baseline.
    pub ratio: Option<Ratio>,
}

impl Cell {
    /// Subjects other than the baseline.
    pub(crate) fn others<'a>(&'a self, baseline: &'a str) -> impl Iterator<Item = &'a Measured> {
        self.subjects.iter().filter(move |measured| measured.name != baseline)
    }
}

impl Measured {
    /// Number of rounds that a metric's summary rests on.
    pub fn rounds(&self, metric: Metric) -> u32 {
        by_round(&self.runs, metric).count() as u32
    }

    /// Ratio of a metric to one of another subject, round by round.
    pub fn over(&self, metric: Metric, other: &Self, its: Metric) -> Option<Ratio> {
        Ratio::of(&pairs((&other.runs, its), (&self.runs, metric)), 1)
    }

    /// Ratio to the baseline in a metric.
    pub fn ratio(&self, metric: Metric) -> Option<&Ratio> {
        self.metrics.get(metric)?.ratio.as_ref()
    }
}

/// Values of the baseline and of the subject, in each round that has both.
fn pairs(
    (baseline, its): (&[Measurement], Metric),
    (subject, metric): (&[Measurement], Metric),
) -> Vec<(f64, f64)> {
    let of_subject = |wanted| {
        by_round(subject, metric).find(|&(round, _)| round == wanted).map(|(_, value)| value)
    };
    let both =
        by_round(baseline, its).filter_map(|(round, value)| Some((value, of_subject(round)?)));
    both.collect()
}

/// Value of a metric in each round that has one, from the first run of the round that counts.
fn by_round(runs: &[Measurement], metric: Metric) -> impl Iterator<Item = (u32, f64)> {
    let mut last = None;
    runs.iter()
        .filter(move |run| !run.left_out_of.contains(&metric))
        .filter(move |run| last.replace(run.round) != Some(run.round))
        .filter_map(move |run| Some((run.round, *run.values.get(metric)?)))
}
