//! `loadgen sweep --conns`: opening, idle memory, and several processes on either side.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

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

#[test]
fn impossible_cells_are_omitted_with_the_reason() {
    let mut limited = Command::new("sh");
    let script = "ulimit -n 300; exec \"$@\" --backend mio --conns 44 --processes 1 --pin 0";
    limited.args(["-c", script, "sh", env!("CARGO_BIN_EXE_loadgen")]).args(BRIEF);
    let finished = Running::start(&mut limited).finish();
    finished.assert_complains(3, "it takes 2 processes, which may have 44 connections each");
    let args = ["--backend", "blocking,mio", "--conns", "4", "--server-spin", "20us"];
    let finished = run(&[&BRIEF[..], &args].concat());
    finished.assert_measured();
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
