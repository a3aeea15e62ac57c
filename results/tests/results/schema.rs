//! The files in `schema/` agree with the types.
//!
//! After changing a type: `UPDATE_SCHEMA=1 cargo test -p lockstep-results`.

use std::{env, fs};

use lockstep_results::{Backlog, Comparison, FloorReport, Record, Storms, Sweep};
use schemars::{JsonSchema, schema_for};
use serde_json::Value;

#[test]
fn schemas_are_up_to_date() {
    check::<Record>("record");
    check::<Comparison>("comparison");
    check::<Sweep>("sweep");
    check::<Backlog>("backlog");
    check::<Storms>("storm");
    check::<FloorReport>("floor");
}

fn check<T: JsonSchema>(name: &str) {
    let path = format!("{}/schema/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
    let schema = serde_json::to_value(schema_for!(T)).unwrap();
    if env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&schema).unwrap() + "\n").unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    // Compared as values: the order of keys depends on features that other packages may enable.
    let kept: Value = serde_json::from_str(&kept).unwrap_or_default();
    assert!(
        kept == schema,
        "{path} is stale\nhint: UPDATE_SCHEMA=1 cargo test -p lockstep-results"
    );
}
