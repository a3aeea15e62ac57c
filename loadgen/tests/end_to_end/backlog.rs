//! `loadgen backlog`: its predictions hold, with and without a network namespace.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Finished, Running, loadgen, run, skip, wait_until};

/// Settings of this machine that the command must not change.
const SETTINGS: [&str; 3] = [
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/net/ipv4/tcp_syncookies",
    "/proc/sys/net/ipv4/tcp_abort_on_overflow",
];

/// True if the trial ran in a private network namespace.
#[track_caller]
fn was_private(finished: &Finished) -> bool {
    let why = match finished.stdout.is_empty() {
        true => finished.stderr.clone(),
        false => {
            let record = finished.record();
            if record["private"] == true {
                return true;
            }
            record["notes"].to_string()
        }
    };
    skip("netns", why);
    false
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a count: {value}"))
}

/// Every client is in one class, and each class is as large as predicted.
#[track_caller]
fn assert_consistent(trial: &Value) {
    let (measured, conns) = (&trial["measured"], count(&trial["conns"]));
    let sum = |names: &[&str]| names.iter().map(|name| count(&measured[*name])).sum::<u64>();
    assert_eq!(sum(&["instant", "late", "refused", "reset", "timed_out"]), conns, "{trial}");
    assert_eq!(sum(&["served", "unserved"]), sum(&["instant", "late"]), "{trial}");
    assert_eq!(trial["clients"].as_array().map(Vec::len), Some(conns as usize), "{trial}");
    for name in ["instant", "late", "ghosts", "refused", "reset", "timed_out"] {
        let (range, measured) = (&trial["predicted"][name], count(&measured[name]));
        let range = count(&range["least"])..=count(&range["most"]);
        assert!(range.contains(&measured), "{name} is {measured}, not in {range:?}: {trial}");
    }
}

#[test]
fn listen_n_admits_n_plus_one_connections() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backlog.json");
    let file = file.to_str().unwrap();
    let namespaces = || fs::read_dir("/run/netns").map_or(0, Iterator::count);
    let before = namespaces();
    let args = ["backlog", "--netns", "--n", "0,1,3,5,128", "--json", "-o", file];
    let finished = run(&args);
    if !was_private(&finished) {
        return;
    }
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(namespaces(), before);
    let record = finished.record();
    let trials = record["trials"].as_array().unwrap();
    let instant: Vec<u64> = trials.iter().map(|t| count(&t["measured"]["instant"])).collect();
    assert_eq!(instant, [1, 2, 4, 6, 129]);
    for trial in trials {
        assert_consistent(trial);
        assert_eq!(trial["predicted"]["instant"]["most"], trial["measured"]["instant"]);
        assert_eq!(trial["measured"]["late"], 8, "{trial}");
        assert!(trial["checks"].as_array().is_some_and(|checks| checks.len() >= 8), "{trial}");
        for check in trial["checks"].as_array().unwrap() {
            assert_eq!(check["holds"], true, "{check}");
        }
        // Two SYNs of each late client before the listener accepts, at 0 and 1 s.
        assert_eq!(trial["held"]["ListenOverflows"], 16, "{trial}");
        let full = trial["depth"].as_array().unwrap().iter().map(|depth| count(&depth["depth"]));
        assert_eq!(full.max(), trial["measured"]["instant"].as_u64());
        if trial["n"] != 0 {
            // With listen(0) the ghosts are let in one by one, ever more rarely.
            assert_eq!(trial["measured"]["served"], trial["conns"], "{trial}");
        }
    }
    let report = run(&["report", file]);
    assert_eq!(report.code, Some(0), "{report:#?}");
    for words in ["listen(5) admitted 6 at once; 8 more waited 2.", "\nas predicted\n"] {
        assert!(report.stdout.contains(words), "{words}: {}", report.stdout);
    }
    assert!(report.stdout.lines().all(|line| line.chars().count() <= 80), "{}", report.stdout);
}

#[test]
fn namespace_settings_do_not_reach_the_host() {
    let read = || SETTINGS.map(|setting| fs::read_to_string(setting).ok());
    let before = read();
    let finished = run(&[
        "backlog",
        "--netns",
        "--n",
        "128",
        "--somaxconn",
        "10",
        "--syncookies",
        "0",
        "--abort-on-overflow",
        "--mode",
        "seq",
        "--hold",
        "300ms",
        "--json",
    ]);
    assert_eq!(read(), before);
    if !was_private(&finished) {
        return;
    }
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let record = finished.record();
    let trial = &record["trials"][0];
    assert_consistent(trial);
    let kernel = &trial["kernel"];
    assert_eq!(
        (&kernel["somaxconn"], &kernel["syncookies"], &kernel["abort_on_overflow"]),
        (&10.into(), &0.into(), &1.into())
    );
    assert_eq!((&trial["n"], &trial["limit"]), (&128.into(), &10.into()));
    assert_eq!(trial["measured"]["instant"], 11);
    assert_eq!(trial["ended"]["SyncookiesSent"], 0);
}

/// A user namespace without network namespaces stands for a machine that does not allow them.
#[test]
fn backlog_without_netns_privilege_measures_its_own_listener() {
    let forbidding = |args: &str| {
        let script = format!("echo 0 >/proc/sys/user/max_net_namespaces && exec \"$0\" {args}");
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "sh", "-c", &script]);
        let output = unshare.arg(env!("CARGO_BIN_EXE_loadgen")).stdin(Stdio::null()).output();
        match output {
            Ok(output) => Finished::of(output),
            Err(error) => panic!("unshare(1): {error}"),
        }
    };
    let possible = Command::new("unshare").args(["--user", "--map-root-user", "true"]).output();
    match possible {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip("userns", String::from_utf8_lossy(&output.stderr)),
        Err(error) => return skip("userns", format!("unshare(1): {error}")),
    }
    let finished = forbidding("backlog --netns --n 1 --hold 300ms --json");
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let record = finished.record();
    assert_eq!(record["private"], false);
    assert!(record["notes"][0].as_str().is_some_and(|note| note.contains("unshare(2): ")));
    assert_eq!(record["trials"][0]["measured"]["instant"], 2);
    assert_consistent(&record["trials"][0]);
    let finished = forbidding("backlog --netns --n 1 --somaxconn 5");
    finished.assert_complains(1, "no private network namespace");
}

#[test]
fn backlog_usage_errors() {
    for (args, words) in [
        (&["--somaxconn", "5"][..], "--netns"),
        (&["--syncookies", "0"], "--netns"),
        (&["--abort-on-overflow"], "--netns"),
        (&["--netns", "--syncookies", "3"], "3"),
        (&["--release"], "--target"),
        (&["--target", "127.0.0.1:1", "--netns"], "cannot be used with"),
        (&["--target", "127.0.0.1:1", "--n", "5"], "cannot be used with"),
        (&["--target", "127.0.0.1"], "--target 127.0.0.1"),
        (&["--mode", "wild"], "possible values: seq, storm"),
        (&["--hold", "10"], "write 10s"),
        (&["--hold", "1h"], "at most 300 s"),
        (&["--n", "x"], "not a count"),
        (&["--n", "4G"], "--n"),
        (&["--n", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"], "at most 16"),
        (&["-o", "/no/such/directory/record.json"], "/no/such/directory"),
    ] {
        run(&[&["backlog"], args].concat()).assert_complains(2, words);
    }
    run(&["backlog", "--target", "127.0.0.1:1"]).assert_complains(4, "no listener at 127.0.0.1:1");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    // SIGUSR1 would end this process.
    let finished = run(&["backlog", "--target", &target, "--release"]);
    finished.assert_complains(2, "does not catch SIGUSR1");
}

#[test]
fn sigquit_keeps_the_partial_trial() {
    let args = ["backlog", "--n", "1", "--hold", "300s", "--json"];
    let running = Running::start(&mut loadgen(&args));
    wait_until("all clients have connected", || {
        let pid = running.pid().as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap_or_default().split_whitespace().any(|child| {
            fs::read_dir(format!("/proc/{child}/fd")).map_or(0, Iterator::count) > 2 + 8 + 5
        })
    });
    running.signal(Signal::QUIT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(131), "{finished:#?}");
    let record = finished.record();
    assert_eq!(record["interrupted"], true);
    let trial = &record["trials"][0];
    assert_eq!(trial["interrupted"], true);
    assert_eq!((&trial["conns"], &trial["measured"]["instant"]), (&10.into(), &2.into()));
}

/// `lockstep serve --accept-pause`.
struct Paused {
    child: Child,
    line: String,
}

impl Paused {
    fn start(backend: &str) -> Option<Self> {
        let path = PathBuf::from(env!("CARGO_BIN_EXE_loadgen")).with_file_name("lockstep");
        if !path.exists() {
            // `lockstep` is built with the workspace, or else here.
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "lockstep-backends", "--bin", "lockstep"]);
            build.arg("--target-dir").arg(path.ancestors().nth(2).unwrap());
            assert!(build.status().unwrap().success());
        }
        let mut child = Command::new(path)
            .args(["serve", "--backend", backend, "--listen", "127.0.0.1:0"])
            .args(["--backlog", "8", "--accept-pause"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let output = child.wait_with_output().unwrap();
            skip(backend, String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self { child, line })
    }

    /// A value of the ready line: `addr`, `shards`.
    fn value(&self, key: &str) -> &str {
        let value = self.line.split_whitespace().find_map(|word| word.strip_prefix(key));
        value.and_then(|value| value.strip_prefix('=')).unwrap_or_else(|| panic!("{}", self.line))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn paused_backends_admit_backlog_plus_one() {
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        let Some(server) = Paused::start(backend) else { continue };
        let shards: u64 = server.value("shards").parse().unwrap();
        let args = ["--target", server.value("addr"), "--release", "--hold", "500ms", "--json"];
        let finished = run(&[&["backlog"][..], &args].concat());
        assert_eq!(finished.code, Some(0), "{backend}: {finished:#?}");
        let record = finished.record();
        let trial = &record["trials"][0];
        assert_consistent(trial);
        assert_eq!(trial["listeners"], shards, "{backend}: {trial}");
        assert_eq!(trial["measured"]["instant"], 9 * shards, "{backend}: {trial}");
        assert_eq!(trial["measured"]["served"], trial["conns"], "{backend}: {trial}");
    }
}
