//! Reasons for INVALID that a slow or busy machine causes.
//!
//! The tests run unoptimised programs, several at a time. So a run that lacked CPU time counts as
//! measured. `validity.rs` tests that a run on a free machine has none of these reasons.

use serde_json::Value;

/// The generator's CPUs were full, or other programs used those of a side.
const ANY_LOOP: [&str; 3] = ["generator-full", "disturbed", "server-disturbed"];

/// Requests were not sent when they were due.
const OPEN_LOOP: [&str; 4] = ["late", "rate-missed", "spacing", "overloaded"];

/// The exit code of an invalid result.
const INVALID: i32 = 8;

/// Checks that a result is valid, or invalid only for reasons that the machine causes.
///
/// # Errors
///
/// The exit code and the reasons, if the code is neither 0 nor 8, if it contradicts the reasons, or
/// if one of the reasons has another cause.
pub(crate) fn check(code: Option<i32>, stdout: &str) -> Result<(), String> {
    let reasons = reasons(stdout);
    let open = ["open loop", "\"load\":\"open\"", "\"axis\":\"rate\""];
    let open = open.iter().any(|words| stdout.contains(words));
    // A run that was kept from the CPUs for its whole window has no exchange.
    let kept_waiting = reasons.iter().any(|reason| reason.ends_with("disturbed"));
    let is_load = |reason: &String| {
        ANY_LOOP.contains(&&**reason)
            || (open && OPEN_LOOP.contains(&&**reason))
            || (kept_waiting && reason == "no-exchange")
    };
    let holds = match code {
        // A sweep exits with 0 if one of its points is valid.
        Some(0) => reasons.is_empty() || is_sweep(stdout),
        Some(INVALID) => !reasons.is_empty(),
        _ => false,
    };
    if holds && reasons.iter().all(is_load) {
        return Ok(());
    }
    Err(format!("exit code {code:?}, reasons {reasons:?}"))
}

fn is_sweep(stdout: &str) -> bool {
    stdout.contains("\"kind\":\"sweep\"") || stdout.contains("verdict |")
}

/// The first words of all reasons in a JSON document or its text.
fn reasons(stdout: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    match serde_json::from_str(stdout) {
        Ok(document) => collect(&document, &mut reasons),
        Err(_) => {
            let lines = stdout.lines().filter_map(|line| line.strip_prefix("INVALID"));
            // `INVALID late: …` of a run, `INVALID at 5k/s: late: …` of a sweep. The first line of
            // a run's text only points to the others.
            reasons.extend(lines.filter_map(|line| {
                line.split(": ").map(str::trim).find(|part| !part.contains(' ')).map(str::to_owned)
            }));
        }
    }
    reasons
}

fn collect(value: &Value, reasons: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match key.as_str() {
                    "invalid_reasons" | "reasons" => {
                        let found = value.as_array().expect("a list").iter();
                        let found = found.map(|reason| reason.as_str().expect("a text"));
                        let first = found.map(|reason| reason.split(": ").next().unwrap_or(reason));
                        reasons.extend(first.map(str::to_owned));
                    }
                    _ => collect(value, reasons),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, reasons)),
        _ => {}
    }
}
