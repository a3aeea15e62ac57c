//! An experiment that compares servers: several subjects, measured in rounds, and what that shows.
//!
//! The claim of a comparison rests on one metric named beforehand, the processor time the server
//! spends on an exchange: it is what an I/O model costs, and unlike throughput it says something
//! also when another side was full. Where it cannot be read for every subject, the throughput
//! takes its place, or with a planned rate, which fixes the throughput, the 99th percentile. The
//! other five metrics are judged as a family, with wider intervals, so that all five together
//! claim a difference by chance about as rarely as the primary alone. Each subject against the
//! baseline in each cell is a comparison of its own; how many chances that makes is said below
//! the table. See [`statistics`](crate::statistics) for the method and its error rates.
//!
//! The file holds every round's values, so that the verdicts can be checked from it, and one
//! pooled histogram a subject; the runs' whole records lie beside it, if they were kept, and each
//! run names its own.

mod exclusion;
mod floors;
mod forest;
mod judge;
mod metric;
mod page;
mod rounds;
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
use crate::{Document, Environment, Header, Latency, Record, Subject};

/// A whole comparison, as its file holds it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Comparison {
    /// What was planned.
    #[serde(flatten)]
    pub plan: Plan,
    /// Whether a signal cut a run short; who is stopped between two runs sets it.
    pub interrupted: bool,
    /// The metric that the claim rests on.
    pub primary: Metric,
    /// The most rounds that a cell has.
    pub rounds: u32,
    /// What was measured, by connections and size.
    pub cells: Vec<Cell>,
    /// Where it ran; the load is that before the first run and after the last.
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

/// What is compared, and how it was asked for.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Plan {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// The subjects' names, no two the same, in the order they are shown.
    pub subjects: Vec<String>,
    /// The one of them that the others are divided by.
    pub baseline: String,
    /// Whether all of them are the same server, to see the noise.
    pub aa: bool,
    /// When a cell has rounds enough.
    pub stopping: Stopping,
    /// Servers that were found but could not be compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
    /// What was asked of every run.
    pub asked: Option<Asked>,
}

/// A server that the comparison went on without.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Absent {
    /// Its name.
    pub subject: String,
    /// Why, in words.
    pub cause: String,
}

/// The options of every run: with the subjects and the rounds, what it takes to do it again.
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
    /// For each number of connections, how long the subjects of a round were under load in turn;
    /// zero where they ran one after the other, as all do where this is absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns_s: Vec<f64>,
    /// The load before it; absent where it lasted until it was steady.
    pub warmup_s: Option<f64>,
    /// The longest that a connect or an exchange may take.
    pub timeout_s: f64,
    /// The planned rate of an open loop, requests a second; absent in a closed loop.
    pub rate_per_s: Option<u64>,
    /// How its instants lie: `constant` or `poisson`.
    pub arrivals: Option<String>,
    /// How long before them the clock was watched, at most; in a closed loop, how long it was looked
    /// for replies before sleeping.
    pub spin_s: Option<f64>,
    /// New connections a second; absent where there was no limit.
    pub connect_rate_per_s: Option<u64>,
    /// Load-generating threads; absent where it was one for each of its processors.
    pub threads: Option<u32>,
    /// The generator's system calls; absent before there were others than epoll's.
    pub engine: Option<String>,
    /// The generator's processors, where they were asked for.
    pub client_cpus: Option<String>,
    /// The servers' processors, where they were asked for.
    pub server_cpus: Option<String>,
    /// How the sides were to lie, where that was asked for: as [`Record::placement`].
    pub placement: Option<String>,
    /// How long the backends that can do so poll before they sleep, nanoseconds; absent where none
    /// was to.
    pub server_spin_ns: Option<u64>,
    /// Shards of the backends, where they were asked for.
    pub shards: Option<u32>,
    /// The listen queue of the backends' shards, where it was asked for.
    pub backlog: Option<u32>,
    /// The commands of subjects that are not backends, with `{addr}` or `{port}` in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
}

/// The command that starts a subject.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Command {
    /// The subject.
    pub subject: String,
    /// For `sh -c`.
    pub command: String,
}

/// One run of one subject in one round, as measured.
#[derive(Clone, Debug)]
pub struct Run {
    /// The round, from 1.
    pub round: u32,
    /// One of [`Plan::subjects`].
    pub subject: String,
    /// What was measured.
    pub record: Record,
    /// The file that keeps the record, if any, as it should be named in the comparison.
    pub file: Option<String>,
}

/// What was measured with one number of connections and one size.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cell {
    /// Connections asked for.
    pub conns: u32,
    /// Bytes in a request.
    pub size: u32,
    /// How requests were timed, as in [`Record::load`].
    pub load: String,
    /// The rounds begun, with invalid runs.
    pub rounds: u32,
    /// Why no further round was made; absent when there should be more.
    pub stopped: Option<Stopped>,
    /// What the machine could do at all, in each round in which that was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<RoundFloor>,
    /// The subjects that ran, in the order of [`Plan::subjects`].
    pub subjects: Vec<Measured>,
}

/// A subject in a cell.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measured {
    /// The subject's name.
    pub name: String,
    /// The server, as in the record of its first run.
    pub subject: Subject,
    /// Load-generating threads.
    pub threads: u32,
    /// The processors the generator could use, as a kernel CPU list.
    pub client_cpus: String,
    /// The processors the server could use.
    pub server_cpus: Option<String>,
    /// How they lay, as in the record of its first run.
    pub placement: Option<String>,
    /// Runs left out of some or all summaries: invalid or interrupted.
    pub excluded: u32,
    /// Why, by kind of reason; empty where no run is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclusions: Vec<Exclusion>,
    /// What the rounds come to.
    pub metrics: ByMetric<Summary>,
    /// Every run, by round.
    pub runs: Vec<Measurement>,
    /// The latencies of all runs whose latency counts, as one distribution. Its percentiles weigh each
    /// exchange alike, the summaries' each round.
    pub pooled: Option<Latency>,
}

/// One run's numbers.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measurement {
    /// The round, from 1.
    pub round: u32,
    /// When its measured window began, RFC 3339, UTC; tells the order in the round.
    pub started: String,
    /// Why it is left out of some or all metrics, in words; empty when it counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// The metrics that these reasons spoil: it is left out of them, whatever the values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out_of: Vec<Metric>,
    /// What its record warns of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Failures, which do not by themselves exclude a run.
    pub errors_total: u64,
    /// What was measured.
    pub values: ByMetric<f64>,
    /// The file of the run's whole record, if it was kept.
    pub record: Option<String>,
}

/// One metric of one subject, over the rounds that count.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Summary {
    /// The median of the rounds.
    pub median: f64,
    /// Run-to-run noise as a share of the median: the scaled median distance from it, which for
    /// Gaussian noise is the standard deviation. It includes what drifts from round to round.
    pub spread: f64,
    /// The subject's values over the baseline's; absent for the baseline itself.
    pub ratio: Option<Ratio>,
}

impl Cell {
    /// The subjects that ran, but for the baseline.
    pub(crate) fn others<'a>(&'a self, baseline: &'a str) -> impl Iterator<Item = &'a Measured> {
        self.subjects.iter().filter(move |measured| measured.name != baseline)
    }
}

impl Measured {
    /// The rounds that a metric's summary rests on.
    pub fn rounds(&self, metric: Metric) -> u32 {
        by_round(&self.runs, metric).count() as u32
    }

    /// How a metric of it compares with one of another, round by round.
    pub fn over(&self, metric: Metric, other: &Self, its: Metric) -> Option<Ratio> {
        Ratio::of(&pairs((&other.runs, its), (&self.runs, metric)), 1)
    }

    /// How it compares with the baseline in a metric.
    pub fn ratio(&self, metric: Metric) -> Option<&Ratio> {
        self.metrics.get(metric)?.ratio.as_ref()
    }
}

/// The baseline's and the subject's value, in each round that has both.
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

/// A metric's value in each round that has one, from the first run of the round that counts.
fn by_round(runs: &[Measurement], metric: Metric) -> impl Iterator<Item = (u32, f64)> {
    let mut last = None;
    runs.iter()
        .filter(move |run| !run.left_out_of.contains(&metric))
        .filter(move |run| last.replace(run.round) != Some(run.round))
        .filter_map(move |run| Some((run.round, *run.values.get(metric)?)))
}
