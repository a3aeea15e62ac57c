//! `loadgen floor`, and the floor in the record of a run.

use std::fs;

use serde_json::Value;

use crate::harness::{Finished, Server, echo, loadgen_with_floor, run};

#[test]
fn floor_prints_a_table_and_writes_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("floor.json");
    let file = file.to_str().unwrap();
    let args = ["floor", "--size", "100", "--duration", "200ms", "-o", file];
    let finished = run(&args);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    for words in
        ["100 bytes over", "| exchange in 1 thread, 1 connection ", "| clock_gettime", "getppid"]
    {
        assert!(finished.stdout.contains(words), "{words} is missing in\n{}", finished.stdout);
    }
    assert!(finished.stdout.lines().all(|line| line.chars().count() <= 80), "{finished:#?}");
    let stored: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((&stored["kind"], &stored["floor"]["size"]), (&"floor".into(), &100.into()));
    let conns = stored["floor"]["one_thread"].as_array().unwrap().iter().map(|one| &one["conns"]);
    assert_eq!(conns.collect::<Vec<_>>(), [1, 64, 1000]);
    assert_eq!(run(&["report", file]).stdout, finished.stdout);
    run(&args).assert_complains(2, "exists");
    run(&["floor", "--pin", "1023"]).assert_complains(2, "no CPU 1023");
}

#[test]
fn floor_on_one_cpu_has_no_two_thread_rows() {
    let args = ["floor", "--duration", "100ms", "--pin", "0", "--server-pin", "0", "--json"];
    let record = run(&args).record();
    assert!(record["floor"].get("two_threads").is_none(), "{record}");
    assert!(record["floor"].get("blocking_ns").is_none(), "{record}");
    assert!(record["floor"]["calls"]["clock_ns"]["median"].as_f64() > Some(0.0), "{record}");
}

#[test]
fn run_record_contains_the_floor() {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["--target", &target, "--conns", "3", "-n", "300", "--warmup", "0"];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("run.json");
    let args_with_file = [&args[..], &["-o", file.to_str().unwrap()]].concat();
    let finished = Finished::of(loadgen_with_floor(&args_with_file).output().unwrap());
    let line = "\nfloor          an exchange in one thread takes";
    assert!(finished.stdout.contains(line), "{finished:#?}");
    let record: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let floor = &record["floor"];
    assert_eq!(floor["one_thread"][0]["conns"], 3);
    let alone = std::thread::spawn(|| lockstep_sys::netns::enter().is_ok());
    let counted = if alone.join().unwrap() { 0 } else { 3 };
    assert_eq!(floor["connections"], counted, "{floor}");
    // The floor opened no connection to the server.
    assert_eq!(server.accepted.load(std::sync::atomic::Ordering::Relaxed), 3);
    for without in [&["--no-floor"][..], &["--service", "hi", "--timeout", "200ms"]] {
        let args = [&args[..], without, &["--json"]].concat();
        let finished = Finished::of(loadgen_with_floor(&args).output().unwrap());
        assert!(finished.record().get("floor").is_none(), "{finished:#?}");
    }
}
