//! The crate as `loadgen` uses it: the record's layout, its schema, files and tables.

mod record;
mod schema;
mod store;
mod table;

use lockstep_results::Record;

/// A record as a file holds it, written by hand; its histograms are by another implementation of
/// HdrHistogram, in Python.
const SAMPLE: &str = include_str!("sample.json");

fn sample() -> Record {
    serde_json::from_str(SAMPLE).expect("the sample is a record")
}
