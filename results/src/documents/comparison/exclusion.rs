//! Runs that are left out of some or all metrics.
//!
//! A disturbance need not spoil all of a run. If only the generator was full, throughput and
//! latency are the generator's, but server CPU per exchange is still the server's. Leaving that out
//! would bias it: the generator is full in a cheap server's best runs, and choosing runs by their
//! outcome finds differences between equals.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Measurement, Metric};
use crate::Record;

/// Kind of a reason that names none.
const OTHER: &str = "other";

/// Runs of a subject that are left out for the same kind of reason.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exclusion {
    /// Kind: the word that the reasons begin with, such as `generator-full`; `other` without one.
    pub kind: String,
    /// Number of runs.
    pub runs: u32,
    /// Whole reason of the first of them.
    pub example: String,
    /// Metrics that they are left out of.
    pub metrics: Vec<Metric>,
}

/// Reasons for leaving a run out of some or all metrics.
pub(super) fn reasons(record: &Record) -> Vec<String> {
    let mut reasons = record.invalid_reasons.clone();
    if record.interrupted {
        reasons.push("interrupted: a signal cut it short".into());
    }
    if !record.valid && reasons.is_empty() {
        reasons.push("other: not valid".into());
    }
    reasons
}

/// Number of runs with each kind of warning, the most frequent first.
pub(super) fn warnings<'a>(runs: impl Iterator<Item = &'a Measurement>) -> Vec<(&'a str, u32)> {
    let mut found: Vec<(&str, u32)> = Vec::new();
    for run in runs {
        let kinds: BTreeSet<&str> = run.warnings.iter().map(|warning| kind(warning)).collect();
        for kind in kinds {
            match found.iter_mut().find(|(found, _)| *found == kind) {
                Some((_, count)) => *count += 1,
                None => found.push((kind, 1)),
            }
        }
    }
    found.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    found
}

/// Kind of a reason: `late` of `late: a millisecond and more`.
fn kind(reason: &str) -> &str {
    let plain =
        |kind: &str| !kind.is_empty() && kind.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    reason.split_once(':').map(|(kind, _)| kind).filter(|kind| plain(kind)).unwrap_or(OTHER)
}

/// True if a reason spoils a metric. An unknown kind spoils all.
fn spoils(reason: &str, metric: Metric) -> bool {
    match kind(reason) {
        // CPU time counts only while a thread runs: neither the generator's limit, nor waiting for
        // a CPU, nor a load that differs from the plan adds to it.
        "generator-full" | "throttled" | "disturbed" | "server-disturbed" | "overloaded"
        | "late" | "rate-missed" | "spacing" => !metric.is_cpu_time(),
        _ => true,
    }
}

/// Metrics that a run with these reasons is left out of.
pub(super) fn left_out(reasons: &[String]) -> Vec<Metric> {
    let spoilt = |metric: &Metric| reasons.iter().any(|reason| spoils(reason, *metric));
    Metric::ALL.into_iter().filter(spoilt).collect()
}

/// Reasons of a subject's runs by kind, the most frequent first.
pub(super) fn by_kind(runs: &[Measurement]) -> Vec<Exclusion> {
    let mut found: Vec<Exclusion> = Vec::new();
    for run in runs {
        let mut counted: Vec<&str> = Vec::new();
        for reason in &run.excluded {
            let kind = kind(reason);
            if counted.contains(&kind) {
                continue;
            }
            counted.push(kind);
            match found.iter_mut().find(|exclusion| exclusion.kind == kind) {
                Some(exclusion) => exclusion.runs += 1,
                None => found.push(Exclusion {
                    kind: kind.to_owned(),
                    runs: 1,
                    example: reason.clone(),
                    metrics: left_out(std::slice::from_ref(reason)),
                }),
            }
        }
    }
    found.sort_by_key(|exclusion| std::cmp::Reverse(exclusion.runs));
    found
}

#[cfg(test)]
mod tests {
    use super::{kind, left_out};
    use crate::Metric;

    #[test]
    fn kind_is_the_first_word_of_a_reason() {
        assert_eq!(kind("generator-full: 99 % of its processors"), "generator-full");
        for reason in ["", ":", "no colon", "The server: it ended", "a kind: of sorts"] {
            assert_eq!(kind(reason), "other", "{reason}");
        }
    }

    #[test]
    fn kind_decides_the_metrics_left_out() {
        use Metric::{ClientCpuUsPerExchange, ServerCpuUsPerExchange};
        let left = |reasons: &[&str]| {
            left_out(&reasons.iter().map(|&reason| reason.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(left(&[]), []);
        for kind in [
            "generator-full",
            "throttled",
            "disturbed",
            "server-disturbed",
            "overloaded",
            "late",
            "rate-missed",
            "spacing",
        ] {
            let left = left(&[&format!("{kind}: in words")]);
            assert_eq!(
                left,
                [Metric::ThroughputPerS, Metric::P50Ns, Metric::P99Ns, Metric::P999Ns]
            );
        }
        for kind in ["no-exchange", "wrong-replies", "miscount", "interrupted", "unheard-of"] {
            let left = left(&["late: by a millisecond", &format!("{kind}: in words")]);
            assert_eq!(left, Metric::ALL);
            assert!(
                left.contains(&ServerCpuUsPerExchange) && left.contains(&ClientCpuUsPerExchange)
            );
        }
    }
}
