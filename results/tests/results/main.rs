//! The crate as `loadgen` uses it: the layouts, their schemas, files, tables and verdicts.

mod backlog;
mod comparison;
mod html;
mod many;
mod record;
mod schema;
mod simulation;
mod store;
mod stored;
mod storm;
mod sweep;
mod table;

use lockstep_results::Record;

/// A record as a file holds it, written by hand; its histograms are by another implementation of
/// HdrHistogram, in Python.
const SAMPLE: &str = include_str!("sample.json");

fn sample() -> Record {
    serde_json::from_str(SAMPLE).expect("the sample is a record")
}
