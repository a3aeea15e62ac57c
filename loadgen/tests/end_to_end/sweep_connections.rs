//! `loadgen sweep --conns`: opening, idle memory, and several processes on either side.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::control_groups::Group;
use crate::harness::{Finished, Running, loadgen, run, skip, wait_until};

const BRIEF: [&str; 6] = ["sweep", "--duration", "300ms", "--warmup", "50ms", "--json"];

fn points(finished: &Finished) -> Vec<Value> {
    finished.record()["points"].as_array().unwrap().clone()
}

/// Asserts that every connection was opened and served, and that every cost was measured.
#[track_caller]
fn assert_accounted(point: &Value, conns: u64) {
    assert_eq!((&point["conns"], &point["errors_total"]), (&conns.into(), &0.into()), "{point}");
    let latency = &point["latency"];
    assert_eq!(latency["connect"]["count"], conns, "{point}");
    assert_eq!(latency["first_exchange"]["count"], conns, "{point}");
    for key in [
        "opening_s",
        "opened_per_s",
        "open_cpu_us_per_connection",
        "exchanges",
        "server_cpu_us_per_exchange",
        "client_cpu_us_per_exchange",
    ] {
        assert!(point[key].as_f64() > Some(0.0), "{key}: {point}");
    }
    for key in ["server_memory_bytes", "kernel_memory_bytes", "tcp_memory_bytes"] {
        assert!(point[key].is_number(), "{key}: {point}");
    }
}

#[test]
fn several_backends_are_measured_at_each_level() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sweep.json");
    let file = file.to_str().unwrap();
    let args = ["--backend", "mio,blocking", "--conns", "3,40,3", "--no-floor", "-o", file];
    let finished = run(&[&BRIEF[..], &args].concat());
    finished.assert_measured();
    assert_eq!(finished.record()["levels"], serde_json::json!([3, 40]));
    let points = points(&finished);
    let mut cells = Vec::new();
    for point in &points {
        let conns = point["level"].as_u64().unwrap();
        assert_accounted(point, conns);
        cells.push((point["subject"].as_str().unwrap(), conns));
        if point["subject"] == "blocking" && conns == 40 {
            // Forty threads have forty stacks.
            assert!(point["server_memory_bytes"].as_u64() >= Some(40 * 4096), "{point}");
        }
    }
    // An INVALID run is repeated, up to twice.
    cells.sort_unstable();
    cells.dedup();
    assert_eq!(cells, [("blocking", 3), ("blocking", 40), ("mio", 3), ("mio", 40)]);
    let report = run(&["report", file]);
    assert!(report.stdout.lines().all(|line| line.chars().count() <= 100), "{report:#?}");
    let page = folder.path().join("sweep.html");
    assert_eq!(run(&["report", file, "-o", page.to_str().unwrap()]).code, Some(0));
}

#[test]
fn several_processes_share_the_connections() {
    for (place, engine) in [("apart", "epoll"), ("steered", "epoll"), ("apart", "io-uring")] {
        let args = ["--backend", "mio", "--conns", "64", "--processes", "3"];
        let how = ["--place", place, "--engine", engine];
        let finished = run(&[&BRIEF[..], &args, &how].concat());
        if engine == "io-uring" && finished.code == Some(3) {
            skip(engine, finished.stderr.trim_end());
            continue;
        }
        finished.assert_measured();
        // An INVALID run is repeated, up to twice.
        let points = points(&finished);
        let point = points.last().unwrap();
        assert_accounted(point, 64);
        for side in ["server_processes", "client_processes"] {
            assert_eq!(point[side], 3, "{point}");
        }
        let accepted = point["accepted"].as_array().unwrap();
        let sum: u64 = accepted.iter().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!((accepted.len(), sum), (3, 64), "{point}");
    }
}

/// The processes that were started to end with this one.
fn children_of(pid: i32) -> HashSet<OsString> {
    let parent = format!("--parent\0{pid}\0");
    let is_child = |process: &fs::DirEntry| {
        let command = fs::read_to_string(process.path().join("cmdline"));
        command.is_ok_and(|command| command.contains(&parent))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter(is_child).map(|process| process.file_name()).collect()
}

#[test]
fn signals_leave_no_process() {
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let args = ["sweep", "--backend", "mio", "--conns", "50", "--processes", "2", "-d", "1m"];
        let running = Running::start(&mut loadgen(&args));
        let pid = running.pid().as_raw_nonzero().get();
        wait_until("both sides are there", || children_of(pid).len() == 4);
        running.signal(signal);
        let finished = running.finish();
        assert_eq!(finished.code, code, "{finished:#?}");
        wait_until("all are gone", || children_of(pid).is_empty());
    }
}

#[test]
fn signal_keeps_the_finished_cells() {
    let args = ["--conns", "4,5", "--processes", "2", "--backend", "mio", "-d", "3s"];
    let running = Running::start(&mut loadgen(&[&BRIEF[..1], &args, &["--json"]].concat()));
    let pid = running.pid().as_raw_nonzero().get();
    let mut first = HashSet::new();
    wait_until("the first cell has begun", || {
        first = children_of(pid);
        first.len() == 4
    });
    wait_until("the second cell has begun", || {
        let second = children_of(pid);
        second.len() == 4 && second.is_disjoint(&first)
    });
    running.signal(Signal::TERM);
    let finished = running.finish();
    assert_eq!(finished.code, Some(143), "{finished:#?}");
    assert_eq!(finished.record()["interrupted"], true);
    let [point] = &points(&finished)[..] else { panic!("{finished:#?}") };
    assert_accounted(point, point["level"].as_u64().unwrap());
}

/// Asserts that the sweep measured some levels, and left out others: it exits with 3, or with 8 if
/// a level that it measured is INVALID.
#[track_caller]
fn assert_left_out(finished: &Finished) {
    assert!(matches!(finished.code, Some(3 | 8)), "{finished:#?}");
    assert!(!points(finished).is_empty(), "{finished:#?}");
}

/// The limit of descriptors decides how many processes there are, and how many connections each
/// has.
#[test]
fn few_descriptors_take_several_processes() {
    let script = "ulimit -n 700; exec \"$@\" --backend mio --conns 20,2000 --no-floor";
    let mut limited = Command::new("sh");
    limited.args(["-c", script, "sh", env!("CARGO_BIN_EXE_loadgen")]).args(BRIEF);
    let finished = Running::start(&mut limited).finish();
    finished.assert_measured();
    let points = points(&finished);
    for point in &points {
        let conns = point["level"].as_u64().unwrap();
        assert_accounted(point, conns);
        if conns == 20 {
            assert!(point["server_processes"].is_null(), "{point}");
            continue;
        }
        // 444 connections fit a process. An even share is at most 335, since a hash spreads them.
        assert_eq!(
            (&point["server_processes"], &point["client_processes"]),
            (&6.into(), &6.into())
        );
        let accepted = point["accepted"].as_array().unwrap();
        let accepted: Vec<u64> = accepted.iter().map(|count| count.as_u64().unwrap()).collect();
        assert_eq!((accepted.len(), accepted.iter().sum()), (6, 2000), "{point}");
        assert!(accepted.iter().all(|&count| count <= 444), "{point}");
    }
    assert!(points.iter().any(|point| point["level"] == 2000), "{finished:#?}");
}

#[test]
fn level_without_memory_is_left_out() {
    let (v1, v2) = (("memory.limit_in_bytes", "400000000"), ("memory.max", "400000000"));
    let Some(group) = Group::new("memory-limits", "memory", &[v1], &[v2]) else { return };
    let args = ["--backend", "mio", "--conns", "20,90k", "--no-floor"];
    let inside = group.command(&loadgen(&[&BRIEF[..], &args].concat())).output().unwrap();
    let finished = Finished::of(inside);
    if finished.stderr.contains("processes") {
        return skip("descriptors", "too few for 90,000 connections of 64 processes");
    }
    assert_left_out(&finished);
    assert!(points(&finished).iter().all(|point| point["level"] == 20), "{finished:#?}");
    let sweep = finished.record();
    let [omission] = &sweep["omitted"].as_array().unwrap()[..] else { panic!("{sweep}") };
    assert_eq!((&omission["subject"], &omission["level"]), (&"mio".into(), &90_000.into()));
    let reason = omission["reason"].as_str().unwrap();
    let folder = group.0.display().to_string();
    for words in ["it needs 9", " MiB of memory", &folder, " left, enough for "] {
        assert!(reason.contains(words), "{words}: {reason}");
    }
}

/// A process of either side that is killed costs its own connections; the sweep goes on.
#[test]
fn killed_process_loses_its_connections() {
    let killed = |name: &str, reason: &str| {
        // The window is longer than this test may wait for a CPU.
        let args = "sweep --backend mio --conns 64 --processes 2 --no-floor -d 2s -w 50ms --json";
        let args: Vec<&str> = args.split(' ').collect();
        let running = Running::start(&mut loadgen(&args));
        let pid = running.pid().as_raw_nonzero().get();
        wait_until("both sides are there", || children_of(pid).len() == 4);
        let victim = children_of(pid).into_iter().find(|child| {
            let command = fs::read_to_string(Path::new("/proc").join(child).join("cmdline"));
            command.is_ok_and(|command| command.contains(&format!("{name}\0")))
        });
        let victim = victim.and_then(|child| child.to_str()?.parse().ok()).and_then(Pid::from_raw);
        kill_process(victim.unwrap(), Signal::KILL).unwrap();
        let finished = running.finish();
        assert_eq!(finished.code, Some(5), "{finished:#?}");
        let points = points(&finished);
        let first = &points[0];
        assert_eq!(first["outcome"], "invalid", "{first}");
        assert!(first["reasons"].to_string().contains(reason), "{first}");
        if name == "sweep-worker" {
            assert_eq!(first["errors_total"], 32, "{first}");
        }
        // The level is measured again.
        assert_accounted(&points[1], 64);
        wait_until("all are gone", || children_of(pid).is_empty());
    };
    thread::scope(|scope| {
        scope.spawn(|| killed("sweep-worker", "process-lost: 1 of 2"));
        scope.spawn(|| killed("serve", "server-failed"));
    });
}

#[test]
fn impossible_cells_are_omitted_with_the_reason() {
    let mut limited = Command::new("sh");
    let script = "ulimit -n 300; exec \"$@\" --backend mio --conns 45 --processes 1 --pin 0";
    limited.args(["-c", script, "sh", env!("CARGO_BIN_EXE_loadgen")]).args(BRIEF);
    let finished = Running::start(&mut limited).finish();
    finished.assert_complains(3, "it takes 3 processes, which may have 44 connections each");
    let script = "ulimit -n 300; exec \"$@\" --backend mio --conns 30k --pin 0";
    let mut limited = Command::new("sh");
    limited.args(["-c", script, "sh", env!("CARGO_BIN_EXE_loadgen")]).args(BRIEF);
    let finished = Running::start(&mut limited).finish();
    finished.assert_complains(3, "64 are the most; raise that with `ulimit -n`");
    let args = ["--backend", "blocking,mio", "--conns", "4", "--server-spin", "20us"];
    let finished = run(&[&BRIEF[..], &args].concat());
    assert_left_out(&finished);
    let sweep = finished.record();
    assert_eq!(sweep["server_spin_ns"], 20_000);
    let [omission] = &sweep["omitted"].as_array().unwrap()[..] else { panic!("{sweep}") };
    assert_eq!((&omission["subject"], &omission["level"]), (&"blocking".into(), &4.into()));
    assert!(omission["reason"].as_str().unwrap().contains("--server-spin"), "{omission}");
}

#[test]
fn usage_errors_of_several_servers_and_processes() {
    for (args, words) in [
        (&["--conns", "0"][..], "at least 1"),
        (&["--conns", "4", "--processes", "65"], "at most 64"),
        (&["--conns", "4", "--processes", "8"], "--processes 8 is more than --conns 4"),
        (&["--conns", "4", "--place", "steered", "--server-pin", "0"], "--place steered"),
        (&["--conns", "4", "--pin", "1023"], "no CPU 1023"),
        (&["--conns", "4", "--source", "192.0.2.77"], "--source 192.0.2.77"),
        (&["--conns", "4", "-o", "/no/such/directory/record.json"], "/no/such/directory"),
        (&["--rates", "5,6", "--backend", "mio,blocking"], "several --backend need a closed loop"),
        (&["--slo", "p99<1s", "--processes", "2"], "--processes need"),
        (&["--conns", "4", "--service", "hi", "--processes", "2"], "--processes need"),
        (&["--conns", "4", "--target", "a:1", "--processes", "2"], "cannot be used with"),
    ] {
        run(&[&["sweep"], args].concat()).assert_complains(2, words);
    }
    let finished = run(&["many", "--conns", "10,1k"]);
    finished.assert_complains(2, "'many'");
    assert!(finished.stderr.contains("hint: loadgen sweep --conns"), "{finished:#?}");
}
