//! `loadgen many`: what it counts, with one process and with several, and what it leaves behind.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Running, loadgen, run, wait_until};

const BRIEF: [&str; 6] = ["many", "--duration", "100ms", "--warmup", "50ms", "--json"];

/// Every connection was accepted, served and counted, and every number is there.
#[track_caller]
fn assert_accounted(crowd: &Value, conns: u64, processes: usize) {
    assert_eq!(crowd["conns"], conns, "{crowd}");
    assert_eq!(crowd.get("invalid_reasons"), None, "{crowd}");
    assert_eq!((&crowd["unserved"], &crowd["errors_total"]), (&0.into(), &0.into()), "{crowd}");
    let accepted = crowd["accepted"].as_array().unwrap();
    assert_eq!(accepted.len(), processes, "{crowd}");
    assert_eq!(accepted.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), conns, "{crowd}");
    let latency = &crowd["latency"];
    assert_eq!(latency["connect"]["count"], conns, "{crowd}");
    assert_eq!(latency["first_exchange"]["count"], conns, "{crowd}");
    assert!(latency["exchange"]["count"].as_u64() >= crowd["exchanges"].as_u64(), "{crowd}");
    for key in [
        "opened_per_s",
        "open_cpu_us_per_connection",
        "exchanges",
        "server_cpu_us_per_exchange",
        "client_cpu_us_per_exchange",
    ] {
        assert!(crowd[key].as_f64() > Some(0.0), "{key}: {crowd}");
    }
}

#[test]
fn few_and_more_connections_are_a_table_and_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("many.json");
    let file = file.to_str().unwrap();
    let args = ["--backend", "mio,blocking", "--conns", "3,40,3", "-o", file];
    let finished = run(&[&BRIEF[..], &args].concat());
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let many = finished.record();
    let crowds = many["crowds"].as_array().unwrap();
    let expected = [("mio", 3), ("blocking", 3), ("mio", 40), ("blocking", 40)];
    assert_eq!(crowds.len(), expected.len());
    for (crowd, (backend, conns)) in crowds.iter().zip(expected) {
        assert_eq!(crowd["subject"]["backend"], backend);
        assert_accounted(crowd, conns, 1);
    }
    // Forty threads have as many stacks.
    assert!(crowds[3]["server_memory_bytes"].as_u64() >= Some(40 * 4096), "{many}");
    let report = run(&["report", file]);
    let rows =
        |name| report.stdout.lines().filter(|line| line.starts_with(&format!("| {name}"))).count();
    assert_eq!((rows("mio "), rows("blocking ")), (4, 4), "{report:#?}");
    assert!(report.stdout.lines().all(|line| line.chars().count() <= 80), "{report:#?}");
    let page = folder.path().join("many.html");
    assert_eq!(run(&["report", file, "-o", page.to_str().unwrap()]).code, Some(0));
    assert!(fs::read_to_string(page).unwrap().contains("opened/s"));
}

#[test]
fn several_processes_share_the_connections_on_either_side() {
    for (place, engine) in [("apart", "epoll"), ("steered", "epoll"), ("apart", "io-uring")] {
        let args = ["--backend", "mio", "--conns", "64", "--processes", "3"];
        let how = ["--place", place, "--engine", engine];
        let finished = run(&[&BRIEF[..], &args, &how].concat());
        if engine == "io-uring" && finished.code == Some(3) {
            println!("SKIPPED: {}", finished.stderr.trim_end());
            continue;
        }
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        let many = finished.record();
        assert_eq!((&many["placement"], &many["engine"]), (&place.into(), &engine.into()));
        let [crowd] = &many["crowds"].as_array().unwrap()[..] else { panic!("{many}") };
        assert_accounted(crowd, 64, 3);
        assert_eq!(
            (&crowd["server_processes"], &crowd["client_processes"]),
            (&3.into(), &3.into())
        );
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
fn no_process_is_left_however_it_ends() {
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let args = ["many", "--backend", "mio", "--conns", "50", "--processes", "2", "-d", "1m"];
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
fn a_signal_leaves_what_was_measured_before() {
    let args = ["many", "--backend", "mio", "--conns", "2,3", "--warmup", "50ms", "-d", "3s"];
    let running = Running::start(loadgen(&args).arg("--json"));
    let pid = running.pid().as_raw_nonzero().get();
    let mut first = HashSet::new();
    wait_until("the first has begun", || {
        first = children_of(pid);
        first.len() == 2
    });
    wait_until("the second has begun", || {
        let second = children_of(pid);
        second.len() == 2 && second.is_disjoint(&first)
    });
    running.signal(Signal::TERM);
    let finished = running.finish();
    assert_eq!(finished.code, Some(143), "{finished:#?}");
    let many = finished.record();
    assert_eq!(many["interrupted"], true);
    let [crowd] = &many["crowds"].as_array().unwrap()[..] else { panic!("{many}") };
    assert_accounted(crowd, 2, 1);
}

#[test]
fn what_cannot_be_measured_is_left_out_with_its_reason() {
    let args = [&BRIEF[..], &["--backend", "mio", "--conns", "4", "--processes", "8"]].concat();
    run(&args).assert_complains(3, "more processes than connections");
    let mut limited = Command::new("sh");
    let script = "ulimit -n 300; exec \"$@\" --backend mio --conns 44 --processes 1 --pin 0";
    limited.args(["-c", script, "sh", env!("CARGO_BIN_EXE_loadgen")]).args(BRIEF);
    let finished = Running::start(&mut limited).finish();
    finished.assert_complains(3, "it takes 2 processes that may each have 44 connections");
    let finished = run(&[&BRIEF[..], &["--conns", "4", "--server-spin", "20us"]].concat());
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let many = finished.record();
    assert_eq!(many["server_spin_ns"], 20_000);
    let omitted = many["omitted"].as_array().unwrap();
    assert!(omitted.iter().any(|it| it["backend"] == "blocking"), "{many}");
    for (args, words) in [
        (&["--conns", "0"][..], "at least 1"),
        (&["--processes", "65"], "at most 64"),
        (&["--place", "steered", "--server-pin", "0"], "--place steered"),
        (&["--pin", "1023"], "there is no CPU 1023"),
        (&["--server-spin", "0"], "longer than zero"),
        (&["-o", "/no/such/directory/record.json"], "/no/such/directory"),
    ] {
        run(&[&["many"], args].concat()).assert_complains(2, words);
    }
}
