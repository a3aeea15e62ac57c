//! `--fail-if`: thresholds.

use std::time::Duration;

use crate::harness::{Server, delayed_echo, echo, echo_with, run};

#[test]
fn missed_threshold_is_in_exit_code_record_and_text() {
    let server = delayed_echo(Duration::from_millis(10));
    let target = server.target();
    let args = ["--target", &target, "--conns", "2", "-n", "40", "--warmup", "0"];
    let thresholds = ["--fail-if", "p50>5ms", "--fail-if", "p50 < 1ms"];
    // A closed loop has no lateness. A threshold on an unknown value is missed.
    let unknown = ["--fail-if", "lateness.p99>1s", "--fail-if", "errors>0"];
    let args = [&args[..], &thresholds, &unknown].concat();
    let finished = run(&[&args[..], &["--json"]].concat());
    // INVALID takes precedence.
    if finished.code != Some(7) {
        finished.assert_measured();
        assert_eq!(finished.code, Some(8), "{finished:#?}");
    }
    let record = finished.record();
    let held = |index: usize| {
        let threshold = &record["thresholds"][index];
        (threshold["expression"].as_str().unwrap(), threshold["held"].as_bool().unwrap())
    };
    assert_eq!(
        [0, 1, 2, 3].map(held),
        [("p50>5ms", false), ("p50 < 1ms", true), ("lateness.p99>1s", false), ("errors>0", true),]
    );
    assert!(record["thresholds"][0]["value"].as_f64() >= Some(9.99e6), "{record}");
    assert!(record["thresholds"][2].get("value").is_none(), "absent, not zero");
    let shown = run(&args).stdout;
    for line in ["threshold      MISSED   p50>5ms   1", "threshold      held     errors>0   0\n"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(shown.contains("MISSED   lateness.p99>1s   not measured"), "{shown}");
}

#[test]
fn met_threshold_changes_nothing() {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["--target", &target, "--conns", "2", "-n", "40", "--warmup", "0", "--json"];
    run(&[&args[..], &["--fail-if", "max>1m", "--fail-if", "errors>0"]].concat()).assert_measured();
}

#[test]
fn failures_take_precedence_over_thresholds() {
    let server = Server::start(|stream, _| echo_with(stream, |_| false));
    let args = ["--target", &server.target(), "--conns", "2", "--fail-if", "errors>0", "--json"];
    let finished = run(&args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    assert_eq!(finished.record()["thresholds"][0]["held"], false);
}

#[test]
fn percentile_without_enough_samples_is_undecided() {
    let server = delayed_echo(Duration::from_millis(5));
    let target = server.target();
    let args = ["--target", &target, "--conns", "2", "-n", "20", "--warmup", "0"];
    let run = |conditions: &[&str]| run(&[&args[..], conditions].concat());
    let finished = run(&["--fail-if", "p99.99>10s", "--json"]);
    assert_eq!(finished.code, Some(8), "{finished:#?}");
    let record = finished.record();
    let threshold = &record["thresholds"][0];
    assert_eq!(threshold["held"], false);
    let reason = "20 samples do not bound p99.99, which takes 52,981";
    assert_eq!(threshold["undecided"], reason);
    let reasons = record["invalid_reasons"].as_array().unwrap();
    let whole = format!("undecided: p99.99>10s: {reason}; measure longer");
    assert!(reasons.contains(&whole.into()), "{record}");
    assert_eq!(record["valid"], false);

    let finished = run(&["--fail-if", "p95>10s"]);
    assert_eq!(finished.code, Some(8), "{finished:#?}");
    let shown = finished.stdout;
    assert!(shown.contains("UNDECIDED   p95>10s   "), "{shown}");
    assert!(shown.contains("INVALID        undecided: p95>10s: 20 samples"), "{shown}");
}

#[test]
fn few_samples_decide_a_condition_that_they_are_far_from() {
    let server = delayed_echo(Duration::from_millis(5));
    let target = server.target();
    let args = ["--target", &target, "--conns", "2", "-n", "20", "--warmup", "0", "--json"];
    // Also a miss beside what is undecided: the run fails in any case.
    let missed = ["--fail-if", "p50>1ms", "--fail-if", "p99.99>1ms", "--fail-if", "p99.9>10s"];
    for (conditions, code) in [(&missed[..], 7), (&["--fail-if", "p50>1m"], 0)] {
        let finished = run(&[&args[..], conditions].concat());
        let record = finished.record();
        let undecided = record["invalid_reasons"].to_string().contains("undecided");
        assert!(!undecided, "{finished:#?}");
        if finished.code != Some(code) {
            finished.assert_measured();
        }
    }
}

#[test]
fn percentiles_asked_for_are_in_record_and_text() {
    let server = Server::start(echo);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("run.json");
    let file = file.to_str().unwrap();
    let target = server.target();
    let args = ["--target", &target, "--conns", "2", "-n", "4000", "--warmup", "0"];
    let asked = ["--percentiles", "p75,p95,p99.95,mean,p99", "-o", file];
    let shown = run(&[&args[..], &asked].concat()).stdout;
    let columns = shown.lines().find(|line| line.contains("p99.95")).unwrap_or_default();
    let columns: Vec<&str> = columns.split_whitespace().collect();
    assert_eq!(columns, ["latency", "mean", "p75", "p95", "p99.95"], "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let stored = std::fs::read_to_string(file).unwrap();
    let record: serde_json::Value = serde_json::from_str(&stored).unwrap();
    let latency = &record["latency"]["exchange"];
    let ns = |key: &str| latency[key].as_u64().unwrap_or_else(|| panic!("{key}: {latency}"));
    let rising = ["min_ns", "p50_ns", "p75_ns", "p90_ns", "p95_ns", "p99_ns", "p9995_ns", "max_ns"];
    assert!(rising.map(ns).is_sorted(), "{latency}");
    assert!(ns("min_ns") <= ns("mean_ns") && ns("mean_ns") <= ns("max_ns"), "{latency}");
    assert!(record["latency"]["connect"]["p75_ns"].is_u64(), "{record}");
    let report = run(&["report", file]).stdout;
    assert!(report.contains("p99.95"), "{report}");
}
