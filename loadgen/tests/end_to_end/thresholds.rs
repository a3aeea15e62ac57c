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
