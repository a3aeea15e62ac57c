//! Output to stdout and stderr, and files.

use std::fs::{self, OpenOptions};
use std::process::Stdio;

use crate::harness::{Finished, Running, Server, echo, loadgen, run};

/// A short run against an echo server.
fn short(server: &Server, more: &[&str]) -> Finished {
    let target = server.target();
    let mut args = vec!["--target", &target, "--conns", "4", "-n", "200", "--warmup", "0"];
    args.extend(more);
    run(&args)
}

#[test]
fn json_record_has_the_documented_keys() {
    let finished = short(&Server::start(echo), &["--json", "--seed", "7"]);
    finished.assert_measured();
    assert_eq!(finished.stderr, "", "progress without a terminal");
    let record = finished.record();
    for key in [
        "schema",
        "valid",
        "invalid_reasons",
        "subject",
        "conns",
        "size",
        "duration_s",
        "exchanges",
        "throughput_per_s",
        "errors_total",
        "errors",
        "unserved",
        "environment",
        "argv",
        "seed",
    ] {
        assert!(record.get(key).is_some(), "{key} is missing");
    }
    for latency in ["connect", "first_exchange", "exchange"] {
        for key in
            ["count", "min_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "p9999_ns", "max_ns"]
        {
            assert!(record["latency"][latency][key].is_u64(), "latency.{latency}.{key}");
        }
    }
    // The scripted server is a thread of this process, so its cost can be read.
    for side in ["client", "server"] {
        assert!(record[side]["cpu_us_per_exchange"].is_f64(), "{side}");
    }
    for key in ["min", "max", "jain"] {
        assert!(record["fairness"][key].is_number(), "fairness.{key}");
    }
    assert_eq!(record["seed"], 7);
    assert_eq!(record["argv"][1], "--target");
    assert_eq!(record["exchanges"], 200);
    let rate = 200.0 / record["duration_s"].as_f64().unwrap();
    assert!((record["throughput_per_s"].as_f64().unwrap() / rate - 1.0).abs() < 1e-9);
    // 50 exchanges a connection on average.
    let fairness = &record["fairness"];
    assert!(fairness["min"].as_u64() <= Some(50) && fairness["max"].as_u64() >= Some(50));
}

#[test]
fn text_report_has_all_sections_within_80_columns() {
    let finished = short(&Server::start(echo), &[]);
    finished.assert_measured();
    assert_eq!(finished.stderr, "");
    for words in [
        "exchanges/s",
        "latency",
        "p99.99",
        "first exchange",
        "errors         none",
        "generator",
        "server",
        "fairness",
        "limit",
        "█",
    ] {
        assert!(finished.stdout.contains(words), "{words}: {}", finished.stdout);
    }
    assert!(finished.stdout.lines().all(|line| line.chars().count() <= 80), "{}", finished.stdout);
    let invalid = finished.stdout.contains("INVALID");
    assert_eq!(finished.code == Some(8), invalid, "{finished:#?}");
    let debug = finished.stdout.contains("\nwarning        debug-build: ");
    assert_eq!(debug, cfg!(debug_assertions), "{finished:#?}");
}

#[test]
fn closed_stdout_pipe_is_not_an_error() {
    let server = Server::start(echo);
    let target = server.target();
    let directory = tempfile::tempdir().unwrap();
    for (name, more) in [("text", &[][..]), ("json", &["--json"])] {
        let file = directory.path().join(name);
        let mut command =
            loadgen(&["--target", &target, "--conns", "4", "-n", "200", "--warmup", "0"]);
        let mut running = Running::start(command.arg("-o").arg(&file).args(more));
        drop(running.0.as_mut().and_then(|child| child.stdout.take()));
        let mut finished = running.finish();
        finished.stdout = fs::read_to_string(&file).unwrap();
        finished.assert_measured();
        assert_eq!(finished.stderr, format!("wrote {}\n", file.display()));
    }
}

#[test]
fn full_stdout_device_is_an_error() {
    let server = Server::start(echo);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let args = ["--target", &server.target(), "--conns", "1", "-n", "10", "--warmup", "0"];
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = loadgen(&args);
    command.env("TMPDIR", elsewhere.path()).stdout(Stdio::from(full));
    let finished = Finished::of(command.output().unwrap());
    let kept = fs::read_dir(elsewhere.path()).unwrap().next().unwrap().unwrap().path();
    let hint = format!("the result is in {}", kept.display());
    finished.assert_complains_with(1, "ENOSPC", Some(&hint));
}

#[test]
fn record_is_written_once_and_reported_again() {
    let server = Server::start(echo);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    let path = path.to_str().unwrap();

    let finished = short(&server, &["-o", path]);
    finished.assert_measured();
    assert!(finished.stdout.contains("exchanges/s"), "no table: {finished:#?}");
    assert!(finished.stderr.contains(path), "{finished:#?}");
    let written = fs::read_to_string(path).unwrap();

    short(&server, &["-o", path]).assert_complains(2, path);
    assert_eq!(fs::read_to_string(path).unwrap(), written);

    short(&server, &["-o", path, "--force", "--json"]).assert_measured();
    assert_ne!(fs::read_to_string(path).unwrap(), written);

    // In a directory, each record gets a name of its own.
    let runs = directory.path().join("runs");
    fs::create_dir(&runs).unwrap();
    for _ in 0..2 {
        let finished = short(&server, &["-o", runs.to_str().unwrap()]);
        finished.assert_measured();
    }
    let names: Vec<_> = fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 2, "{names:?}");

    let one = run(&["report", path]);
    assert_eq!(one.code, Some(0), "{one:#?}");
    assert!(one.stdout.contains("exchanges/s") && one.stdout.contains("█"), "{one:#?}");
    let two = run(&["report", path, names[0].to_str().unwrap()]);
    assert_eq!(two.code, Some(0), "{two:#?}");
    assert!(two.stdout.contains('x') && two.stdout.contains("p99"), "{two:#?}");
}

#[test]
fn report_rejects_other_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("junk.json");
    fs::write(&path, "{\"schema\": 1}").unwrap();
    let path = path.to_str().unwrap();
    run(&["report", path]).assert_complains(1, path);
    run(&["report", "/no/such/record"]).assert_complains(1, "/no/such/record");
}
