//! Runs with CPU quotas of control groups, cgroups(7).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use lockstep_results::cgroup::{CpuQuota, groups_of};
use serde_json::Value;

use crate::harness::{Finished, Running, Server, echo, loadgen, skip, wait_until};

/// A control group with a CPU quota, below this process's own.
struct Group(PathBuf);

impl Group {
    /// Makes a group that may use a fiftieth of a CPU, so that every run uses up the quota, however
    /// busy the machine is.
    #[track_caller]
    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let own = groups_of(Path::new("/"), &["self".to_owned()], "cpu").pop();
        let Some(own) = own else {
            skip("cpu-quotas", "there are no control groups with CPU quotas");
            return None;
        };
        let number = NUMBER.fetch_add(1, Relaxed);
        let group = Self(own.join(format!("lockstep-test-{}-{number}", std::process::id())));
        let made = fs::create_dir(&group.0).and_then(|()| {
            // Version 1, or 2 if the controller is enabled below the own group.
            fs::write(group.0.join("cpu.cfs_period_us"), "50000")
                .and_then(|()| fs::write(group.0.join("cpu.cfs_quota_us"), "1000"))
                .or_else(|_| fs::write(group.0.join("cpu.max"), "1000 50000"))
        });
        if let Err(error) = made {
            skip("cpu-quotas", error);
            return None;
        }
        assert_eq!(CpuQuota::read(&group.0).map(|quota| quota.cpus), Some(0.02));
        Some(group)
    }

    /// Makes a group without a quota of its own in this one.
    fn inner(&self) -> Self {
        let inner = Self(self.0.join("inner"));
        fs::create_dir(&inner.0).expect("a group can be made in the group");
        inner
    }

    /// Returns a command that runs in the group.
    fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        let procs = self.0.join("cgroup.procs");
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs);
        inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        inside
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It lasts until its last process has ended.
        wait_until("the group is empty", || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
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
    let Some(group) = Group::new() else { return };
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
    let Some(group) = Group::new() else { return };
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
    let Some(group) = Group::new() else { return };
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
