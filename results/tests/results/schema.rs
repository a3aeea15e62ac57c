//! `schema/record.schema.json` is what the types say.
//!
//! After changing a type: `UPDATE_SCHEMA=1 cargo test -p lockstep-results`.

use std::{env, fs};

use lockstep_results::Record;
use serde_json::Value;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/record.schema.json");

#[test]
fn the_schema_file_is_up_to_date() {
    let schema = serde_json::to_value(schemars::schema_for!(Record)).unwrap();
    if env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(PATH, serde_json::to_string_pretty(&schema).unwrap() + "\n").unwrap();
    }
    let kept = fs::read_to_string(PATH).unwrap_or_default();
    // As values: the order of the keys hangs on features that other packages may switch on.
    let kept: Value = serde_json::from_str(&kept).unwrap_or_default();
    assert!(
        kept == schema,
        "{PATH} is stale\nhint: UPDATE_SCHEMA=1 cargo test -p lockstep-results"
    );
}
