//! What a busy machine does to a measurement.
//!
//! The tests run unoptimised on machines that have other things to do. There a run may be called
//! invalid for what it is not to blame for, and no test depends on that.

/// The reasons for which a machine's load can make a run invalid.
const LOADED: [&str; 6] =
    ["generator-full", "disturbed", "late", "rate-missed", "spacing", "overloaded"];

/// The exit code of an invalid run.
const INVALID: i32 = 8;

/// Whether a measurement went as it should: valid, or invalid for nothing but the machine's load.
/// The reasons are those of a record or of its text, `slug: words`.
pub(crate) fn measured(code: Option<i32>, reasons: &[String]) -> bool {
    let slug = |reason: &String| reason.split(": ").next().is_some_and(|s| LOADED.contains(&s));
    match code {
        Some(0) => reasons.is_empty(),
        Some(INVALID) => !reasons.is_empty() && reasons.iter().all(slug),
        _ => false,
    }
}

/// The reasons in what a command printed: a record, or its text.
pub(crate) fn reasons(stdout: &str) -> Vec<String> {
    if let Ok(record) = serde_json::from_str::<serde_json::Value>(stdout) {
        let reasons = record["invalid_reasons"].as_array().expect("a record has them");
        assert_eq!(record["valid"], reasons.is_empty(), "{record}");
        return reasons.iter().map(|reason| reason.as_str().unwrap().to_owned()).collect();
    }
    let lines = stdout.lines().filter_map(|line| line.strip_prefix("INVALID "));
    // The first line only points at the others.
    lines.map(|line| line.trim().to_owned()).filter(|line| line.contains(": ")).collect()
}
