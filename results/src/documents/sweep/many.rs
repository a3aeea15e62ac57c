//! Documents of the former command `loadgen many`, read as a sweep over connections.

use serde_json::{Value, json};

use super::Sweep;

/// Reads a document of the kind `many`.
///
/// # Errors
///
/// If a key is missing or has a value of the wrong type.
pub(crate) fn read(mut sweep: Value) -> serde_json::Result<Box<Sweep>> {
    let started = sweep["started"].clone();
    let mut points = take(&mut sweep, "crowds");
    let mut omitted = take(&mut sweep, "omitted");
    let (mut subjects, mut levels) = (Vec::new(), Vec::new());
    for point in &mut points {
        let invalid = point.get("invalid_reasons").is_some();
        point["level"] = point["conns"].clone();
        point["subject"] = point["subject"]["name"].take();
        point["round"] = json!(1);
        point["purpose"] = json!("level");
        point["started"] = started.clone();
        point["outcome"] = json!(if invalid { "invalid" } else { "ok" });
        point["reasons"] = Value::from(take(point, "invalid_reasons"));
        point["achieved_per_s"] = point["throughput_per_s"].take();
        let name = point["subject"].as_str().unwrap_or_default().to_owned();
        if !subjects.contains(&name) {
            subjects.push(name);
        }
        levels.extend(point["level"].as_u64());
    }
    for omission in &mut omitted {
        omission["subject"] = omission["backend"].take();
        omission["level"] = omission["conns"].take();
    }
    levels.sort_unstable();
    levels.dedup();
    for (key, value) in [
        ("kind", json!("sweep")),
        ("subject", json!(subjects.join(", "))),
        ("service", json!("echo")),
        ("axis", json!("conns")),
        ("levels", json!(levels)),
        ("rounds", json!(1)),
        ("warmup_s", points.first().map_or(json!(0.0), |point| point["warmup_s"].clone())),
        ("duration_s", points.first().map_or(json!(0.0), |point| point["duration_s"].clone())),
        ("points", Value::from(points)),
        ("omitted", Value::from(omitted)),
    ] {
        sweep[key] = value;
    }
    serde_json::from_value(sweep)
}

/// The list under a key, which is removed; empty if the key is absent.
fn take(object: &mut Value, key: &str) -> Vec<Value> {
    match object.get_mut(key).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}
