//! Results of runs and experiments: documents, statistics, files, text and pages.
//!
//! `loadgen` fills a [`Record`], prints it with `--json` and stores it with `-o`. The file holds
//! everything that is needed to judge the numbers later:
//!
//! ```
//! use hdrhistogram::Histogram;
//! use lockstep_results::{Latency, format};
//!
//! let mut exchange = Histogram::<u64>::new(3).unwrap();
//! for microseconds in 1..=1000 {
//!     exchange.record(microseconds * 1000).unwrap();
//! }
//! let latency = Latency::from_histogram(&exchange).expect("it holds samples");
//! assert_eq!(format::duration(latency.p50_ns), "500us");
//!
//! // The whole distribution travels with the percentiles, so that runs can be merged exactly.
//! assert_eq!(latency.histogram().unwrap().len(), 1000);
//! ```
//!
//! * [`Document`]: the kinds of result, each with its type, text and charts; [`Stored`] is any of
//!   them.
//! * [`report`]: several documents as one text or one page.
//! * [`Record`], [`Comparison`], [`Sweep`], [`Backlog`], [`Storms`], [`FloorReport`]: the kinds.
//! * [`Environment`]: the machine, its settings and the build; [`cgroup`]: control groups.
//! * [`store`]: files, written whole or not at all, never overwritten by accident.
//! * [`statistics`]: the method of comparisons.
//! * [`html`]: parts of a page.

#![forbid(unsafe_code)]

mod digest;
mod documents;
mod environment;
pub mod format;
pub mod html;
mod latency;
pub mod report;
pub mod statistics;
pub mod store;
mod text;

pub use digest::digest;
pub use documents::backlog::{self, Backlog};
pub use documents::comparison::{
    Absent, Asked, ByMetric, Cell, Command, Comparison, Exclusion, Measured, Measurement, Metric,
    Plan, RoundFloor, Run, Summary,
};
pub use documents::floor::{Calls, Exchange, Floor, FloorReport, Spread};
pub use documents::run::merge::{MergeError, merge};
pub use documents::run::rank::{ClockState, Merge, Rank, RankRow, clocks};
pub use documents::run::table::table;
pub use documents::run::{
    Cost, ErrorCount, Fairness, Interval, Quota, Rate, Record, Sent, ServerProcess, Subject,
    Threshold,
};
pub use documents::storm::{self, Storm, Storms};
pub use documents::sweep::{
    Axis, Bound, IdleMemory, Knee, Level, Omission, Opening, Outcome, Point, Purpose, SloResult,
    Sweep, SweepPlan,
};
pub use documents::{Document, Header, SCHEMA, Stored};
pub use environment::{Build, Environment, Load, cgroup};
pub use latency::{Latencies, Latency, Statistic};
pub use text::wrap;
