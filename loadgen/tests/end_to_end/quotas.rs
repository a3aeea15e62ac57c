//! Runs with CPU quotas of control groups, cgroups(7).

use std::io::{BufRead, BufReader};

use lockstep_results::cgroup::CpuQuota;
use serde_json::Value;

use crate::control_groups::Group;
use crate::harness::{Finished, Running, Server, echo, loadgen};

/// Makes a group that may use a fiftieth of a CPU, so that every run uses up the quota, however
/// busy the machine is.
#[track_caller]
fn fiftieth() -> Option<Group> {
    let v1 = [("cpu.cfs_period_us", "50000"), ("cpu.cfs_quota_us", "1000")];
    let group = Group::new("cpu-quotas", "cpu", &v1, &[("cpu.max", "1000 50000")])?;
    assert_eq!(CpuQuota::read(&group.0).map(|quota| quota.cpus), Some(0.02));
    Some(group)
}

/// First words of the reasons or warnings.
fn words(list: &Value) -> Vec<String> {
    let sentences = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    sentences.filter_map(|sentence| Some(sentence.split_once(": ")?.0.to_owned())).collect()
}

/// Asserts that a side had used up its quota.
#[track_caller]
fn assert_throttled(side: &Value, shared: bool) {
    let quota = &side["quota"];
    assert_eq!((quota["cpus"].as_f64(), quota["shared"].as_bool()), (Some(0.02), Some(shared)));
    let throttled = quota["throttled"].as_f64().unwrap();
    assert!((0.01..=1.0).contains(&throttled), "{side}");
    assert!(side["busy"].as_f64().unwrap() <= 1.0, "{side}");
}

const BRIEF: [&str; 7] = ["--conns", "4", "-d", "500ms", "-w", "20ms", "--json"];

#[test]
fn throttled_generator_is_invalid() {
    let Some(group) = fiftieth() else { return };
    let (inner, server) = (group.inner(), Server::start(echo));
    for load in [&[][..], &["--rate", "100k"]] {
        let target = server.target();
        let args = [&["--target", &target], &BRIEF[..], load].concat();
        let output = inner.command(&loadgen(&args)).output().unwrap();
        let finished = Finished::of(output);
        assert_eq!(finished.code, Some(8), "{finished:#?}");
        let record = finished.record();
        assert!(words(&record["invalid_reasons"]).contains(&"throttled".to_owned()), "{record}");
        assert!(!record["invalid_reasons"].to_string().contains("overloaded"), "{record}");
        assert_eq!(record["limit"], "client", "{record}");
        assert_throttled(&record["client"], false);
        assert!(record["server"]["quota"].is_null(), "{record}");
    }
    let args = ["storm", "--target", &server.target(), "--conns", "300", "--at-once", "--json"];
    let finished = Finished::of(inner.command(&loadgen(&args)).output().unwrap());
    assert_eq!(finished.code, Some(8), "{finished:#?}");
    let notes = finished.record()["notes"].to_string();
    assert!(
        notes.contains("throttled: the generator had used up its CPU quota of 0.02"),
        "{notes}"
    );
}

#[test]
fn throttled_target_is_the_limit() {
    let Some(group) = fiftieth() else { return };
    let serve = loadgen(&["serve", "--backend", "mio", "--listen", "127.0.0.1:0"]);
    let mut server = Running::start(&mut group.command(&serve));
    let mut line = String::new();
    let stdout = server.0.as_mut().unwrap().stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let addr = line.split(' ').find_map(|word| word.strip_prefix("addr=")).unwrap();
    let finished = crate::harness::run(&[&["--target", addr], &BRIEF[..]].concat());
    finished.assert_measured();
    let record = finished.record();
    assert!(words(&record["warnings"]).contains(&"server-throttled".to_owned()), "{record}");
    assert_eq!(record["limit"], "server", "{record}");
    assert_throttled(&record["server"], false);
    assert!(record["client"]["quota"].is_null(), "{record}");
}

#[test]
fn quota_of_both_sides_is_called_shared() {
    let Some(group) = fiftieth() else { return };
    let args = [&["--backend", "mio"], &BRIEF[..]].concat();
    let finished = Finished::of(group.command(&loadgen(&args)).output().unwrap());
    assert_eq!(finished.code, Some(8), "{finished:#?}");
    let record = finished.record();
    let reasons = record["invalid_reasons"].to_string();
    assert!(reasons.contains("throttled: the generator and the server"), "{record}");
    assert_eq!(record["limit"], "both", "{record}");
    assert_throttled(&record["client"], true);
    assert_throttled(&record["server"], true);
}
