//! The crate as `loadgen` uses it: layouts, schemas, files, tables and verdicts.

mod backlog;
mod comparison;
mod html;
mod merge;
mod record;
mod schema;
mod simulation;
mod store;
mod stored;
mod storm;
mod sweep;
mod table;

use std::time::{Duration, UNIX_EPOCH};

use lockstep_results::{Header, Record};

/// A record written by hand; its histograms are by another implementation of HdrHistogram, in
/// Python.
const SAMPLE: &str = include_str!("sample.json");

fn sample() -> Record {
    serde_json::from_str(SAMPLE).expect("the sample is a record")
}

/// Header of a document of 2026-11-23T12:24:05.678Z.
fn header(kind: &str) -> Header {
    let started = UNIX_EPOCH + Duration::from_millis(1_795_436_645_678);
    Header::new(kind, started, vec!["loadgen".into()], Some(1))
}
