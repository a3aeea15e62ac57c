//! Ranks: processes that share one run, and the instant at which their load starts.
//!
//! A rank that the machine delays starts late, which changes no asserted number but the delay.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Finished, Running, Server, counting_echo, echo, echo_with, loadgen, run, wait_until,
};

/// Seconds since 1970, with a fraction, this long from now; negative in the past.
fn start_in(seconds: f64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    format!("{:.6}", now + seconds)
}

/// A rank whose environment has these variables only, `A=1 B=2`.
fn rank_in(environment: &str, args: &[&str]) -> Command {
    let mut command = loadgen(args);
    let variables = environment.split_whitespace().map(|it| it.split_once('=').unwrap());
    command.env_clear().envs(variables);
    command
}

/// Runs `count` ranks concurrently.
fn run_ranks(count: u32, args: &[&str]) -> Vec<Finished> {
    let start = |index: u32| {
        let (rank, ranks) = (index.to_string(), count.to_string());
        let place = ["--rank", &rank, "--ranks", &ranks];
        Running::start(&mut loadgen(&[args, &place].concat()))
    };
    let running: Vec<Running> = (0..count).map(start).collect();
    running.into_iter().map(Running::finish).collect()
}

/// The record of the rank in a directory, and its file's name.
#[track_caller]
fn stored(directory: &Path, place: &str) -> (String, Value) {
    let names = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name());
    let mut names = names.map(|name| name.into_string().unwrap());
    let name = names.find(|name| name.ends_with(&format!("-{place}.json"))).expect(place);
    let text = fs::read_to_string(directory.join(&name)).unwrap();
    (name, serde_json::from_str(&text).unwrap())
}

fn sum(records: &[Value], value: impl Fn(&Value) -> &Value) -> u64 {
    records.iter().map(|record| value(record).as_u64().unwrap()).sum()
}

#[test]
fn ranks_share_the_load_of_one_run() {
    let server = Server::start(echo);
    let (directory, target, start) = (tempfile::tempdir().unwrap(), server.target(), start_in(2.0));
    let args = ["--target", &target, "--conns", "7", "--rate", "301", "-d", "1s", "--warmup"];
    let path = directory.path().to_str().unwrap();
    let args = [&args[..], &["200ms", "--start-at", &start, "-o", path]].concat();
    let finished = run_ranks(3, &args);
    let mut records = Vec::new();
    for (index, finished) in finished.iter().enumerate() {
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        let place = format!("rank {index} of 3");
        assert!(finished.stderr.starts_with(&place), "{finished:#?}");
        assert!(finished.stderr.contains("(--rank), starts at "), "{finished:#?}");
        // One line, since all ranks may have one terminal.
        assert!(finished.stdout.starts_with(&format!("{place}: ")), "{finished:#?}");
        assert_eq!(finished.stdout.lines().count(), 1, "{finished:#?}");
        let (name, record) = stored(directory.path(), &format!("rank{index}of3"));
        let rank = &record["rank"];
        assert!(name.contains(rank["run_id"].as_str().unwrap()), "{name}");
        assert_eq!((&rank["index"], &rank["count"]), (&index.into(), &3.into()));
        assert_eq!(
            (&rank["source"], &rank["start_source"]),
            (&"--rank".into(), &"--start-at".into())
        );
        assert!((record["rate"]["planned_per_s"].as_f64().unwrap() - 301.0 / 3.0).abs() < 1e-9);
        let us = |key: &str| rank[key].as_u64().unwrap();
        assert_eq!(
            us("planned_start_unix_us"),
            (start.parse::<f64>().unwrap() * 1e6).round() as u64
        );
        let late =
            us("start_unix_us").checked_sub(us("planned_start_unix_us")).expect("not before");
        assert_eq!(rank["met_deadline"], late <= 10_000, "{rank}");
        let warnings = record["warnings"].to_string();
        assert_eq!(warnings.contains("late-start: "), late > 10_000, "{warnings}");
        // The window has the whole length, late or not.
        assert_eq!(us("window_end_unix_us") - us("window_start_unix_us"), 1_000_000);
        records.push(record);
    }
    assert_eq!(
        records.iter().map(|it| it["conns"].as_u64().unwrap()).collect::<Vec<_>>(),
        [3, 2, 2]
    );
    assert_eq!(sum(&records, |record| &record["rate"]["planned"]), 301);
    for key in ["run_id", "options_digest"] {
        assert!(records.iter().all(|it| it["rank"][key] == records[0]["rank"][key]), "{key}");
    }
    // Without --seed, all have the same.
    assert!(
        records[0]["seed"].is_u64() && records.iter().all(|it| it["seed"] == records[0]["seed"])
    );
    let report = run(&[
        "report",
        directory.path().join(stored(directory.path(), "rank1of3").0).to_str().unwrap(),
    ]);
    assert!(report.stdout.contains("\nrank 1 of 3 of run "), "{report:#?}");
    assert!(report.stdout.contains(" after the agreed instant\n"), "{report:#?}");
}

#[test]
fn requests_of_a_run_are_shared_exactly() {
    let server = Server::start(echo);
    let target = server.target();
    for load in [&[][..], &["--rate", "1k"]] {
        let args = ["--target", &target, "--conns", "6", "-n", "100", "--warmup", "0", "--json"];
        let start = start_in(0.5);
        let args = [&args[..], load, &["--start-at", &start, "--run-id", "me-1"]].concat();
        let finished = run_ranks(3, &args);
        let records: Vec<Value> = finished.iter().map(Finished::record).collect();
        let shares: Vec<u64> = records.iter().map(|it| it["exchanges"].as_u64().unwrap()).collect();
        assert_eq!(shares, [34, 33, 33]);
        assert!(records.iter().all(|record| record["rank"]["run_id"] == "me-1"));
    }
}

#[test]
fn late_rank_starts_late_and_has_its_whole_window() {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["--target", &target, "--conns", "2", "-d", "300ms", "--warmup", "0", "--json"];
    for load in [&[][..], &["--rate", "1k"]] {
        let start = start_in(-5.0);
        let place = ["--rank", "0", "--ranks", "2", "--start-at", &start];
        let finished = run(&[&args[..], &place, load].concat());
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        let record = finished.record();
        let rank = &record["rank"];
        let us = |key: &str| rank[key].as_u64().unwrap();
        assert!(us("start_unix_us") >= us("planned_start_unix_us") + 5_000_000, "{rank}");
        assert_eq!(rank["met_deadline"], false);
        assert_eq!(us("window_end_unix_us") - us("window_start_unix_us"), 300_000);
        assert!(record["warnings"].to_string().contains("late-start: "), "{record}");
    }
}

#[test]
fn load_of_a_run_without_ranks_starts_at_the_instant() {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let of_server = arrivals.clone();
    let server = Server::start(move |stream, _| {
        let (arrivals, mut requests) = (of_server.clone(), 0);
        echo_with(stream, move |_| {
            requests += 1;
            // The first exchange of a connection is no load.
            if requests > 1 {
                arrivals.lock().unwrap().push(SystemTime::now());
            }
            true
        });
    });
    let target = server.target();
    for load in [&[][..], &["--rate", "1k"]] {
        arrivals.lock().unwrap().clear();
        let start = start_in(0.7);
        let args = ["--target", &target, "--conns", "2", "-d", "200ms", "--warmup", "100ms"];
        let finished = run(&[&args[..], &["--json", "--start-at", &start], load].concat());
        finished.assert_measured();
        let record = finished.record();
        let rank = &record["rank"];
        assert_eq!((&rank["index"], &rank["count"]), (&0.into(), &1.into()));
        assert_eq!(rank["source"], "default");
        let instant = UNIX_EPOCH + Duration::from_secs_f64(start.parse().unwrap());
        let first = *arrivals.lock().unwrap().iter().min().expect("there is load");
        assert!(first + Duration::from_micros(10) >= instant, "{first:?} {instant:?}");
        assert!(finished.stderr.starts_with("the load starts at "), "{finished:#?}");
    }
}

#[test]
fn rank_is_read_from_the_launchers_environment() {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["--target", &target, "--conns", "4", "-n", "8", "--warmup", "0", "--json"];
    for (environment, ranks, source) in [
        ("PMI_RANK=1 PMI_SIZE=2", "auto", "PMI_RANK, PMI_SIZE"),
        ("JOB_COMPLETION_INDEX=1", "2", "JOB_COMPLETION_INDEX, --ranks"),
        (
            "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=3 SLURM_JOB_ID=4711",
            "auto",
            "SLURM_PROCID, SLURM_STEP_NUM_TASKS",
        ),
    ] {
        let start = start_in(0.3);
        let args = [&args[..], &["--ranks", ranks, "--start-at", &start]].concat();
        let finished = Finished::of(rank_in(environment, &args).output().unwrap());
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        assert!(finished.stderr.contains(&format!("({source})")), "{finished:#?}");
        let rank = &finished.record()["rank"];
        assert_eq!((&rank["index"], &rank["source"]), (&1.into(), &source.into()));
        assert_eq!(rank["run_id"] == "4711.3", environment.contains("SLURM"), "{rank}");
    }
}

#[test]
fn usage_errors_of_ranks_exit_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("run.json");
    let (file, directory) = (file.to_str().unwrap(), directory.path().to_str().unwrap());
    let (soon, far, past) = (start_in(30.0), start_in(4000.0), start_in(-400.0));
    let place = ["--rank", "0", "--ranks", "4", "--start-at", &soon];
    let target = ["--target", "127.0.0.1:1"];
    let json = ["--json"];
    for (args, words) in [
        (&[&["--rank", "0"][..]][..], "--ranks"),
        (&[&["--rank", "4", "--ranks", "4"], &target, &json], "rank 4 of 4"),
        (&[&["--rank", "-1", "--ranks", "4"]], "-1"),
        (&[&["--ranks", "0"]], "at least 1"),
        (&[&["--ranks", "many"]], "many"),
        (&[&["--ranks", "4"], &target, &json], "--rank K"),
        (&[&["--ranks", "auto"], &target, &json], "no rank and number"),
        (&[&["--rank", "0", "--ranks", "4"], &target, &json], "need --start-at"),
        (&[&place, &json], "start no server"),
        (&[&place, &target], "a record each"),
        (&[&place, &target, &["-o", file]], "is no directory"),
        (&[&place, &target, &["-o", file], &json], "is no directory"),
        (&[&place, &target, &["-o", directory, "--conns", "3"]], "--conns 3 for 4 ranks"),
        (&[&place, &target, &["-o", directory, "-n", "3"]], "--requests 3 for 4 ranks"),
        (&[&place, &target, &["-o", directory, "--rate", "3", "-d", "1s"]], "--rate is too low"),
        (&[&place, &target, &["-o", directory, "--warmup", "auto"]], "--warmup auto"),
        (&[&place, &target, &["-o", directory, "--fail-if", "p99>1s"]], "--fail-if"),
        (&[&["--start-at", &far], &target], "at most 1h"),
        (&[&["--start-at", &past], &target], "ago"),
        (&[&["--start-at", "noon"], &target], "not an instant"),
        (&[&["--start-at", "2026-11-28T18:06:54"], &target], "no time zone"),
        (&[&["--run-id", "a/b"], &target], "letters"),
        (&[&["--run-id", ""], &target], "empty"),
        (&[&["compare", "mio", "blocking", "--ranks", "2"]], "unexpected argument"),
        (&[&["sweep", "--conns", "1,2", "--start-at", &soon]], "unexpected argument"),
    ] {
        let finished = Finished::of(rank_in("", &args.concat()).output().unwrap());
        finished.assert_complains(2, words);
    }
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
}

#[test]
fn invalid_rank_exits_with_0_and_failures_do_not() {
    let args = ["--conns", "4", "--warmup", "0", "--json", "--rank", "1", "--ranks", "2"];
    let against = |target: &str, more: &[&str]| {
        let server = ["--target", target, "--start-at", &start_in(0.3)];
        run(&[&server[..], &args, more].concat())
    };
    let server = Server::start(echo);
    let unreachable = ["--rate", "200M", "-d", "300ms", "--timeout", "500ms"];
    let finished = against(&server.target(), &unreachable);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(finished.record()["valid"], false);
    // Closed after the first exchange.
    let closing = Server::start(|stream, _| {
        let mut replies = 0;
        echo_with(stream, move |_| {
            replies += 1;
            replies <= 2
        });
    });
    let finished = against(&closing.target(), &["-d", "60s"]);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let wrong = Server::start(|stream, _| {
        let mut replies = 0;
        echo_with(stream, move |bytes| {
            replies += 1;
            bytes[0] ^= u8::from(replies > 2);
            true
        });
    });
    let finished = against(&wrong.target(), &["-d", "60s"]);
    assert_eq!(finished.code, Some(6), "{finished:#?}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let finished = against(&closed.to_string(), &["-d", "300ms"]);
    assert_eq!(finished.code, Some(4), "{finished:#?}");
    let record = finished.record();
    assert_eq!(record["rank"]["met_deadline"], false, "{record}");
}

#[test]
fn signal_ends_the_wait_for_the_start() {
    let (server, requests) = counting_echo(Duration::ZERO);
    let (target, start) = (server.target(), start_in(600.0));
    let args = ["--target", &target, "--conns", "2", "--json", "--start-at", &start];
    let running = Running::start(&mut loadgen(&args));
    wait_until("the connections are open", || requests.load(Relaxed) == 2);
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    assert_eq!(requests.load(Relaxed), 2, "no load before the start");
    let record = finished.record();
    assert_eq!(record["rank"]["met_deadline"], false);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("record.json");
    fs::write(&file, record.to_string()).unwrap();
    let report = run(&["report", file.to_str().unwrap()]);
    assert!(!report.stdout.contains("after the agreed instant"), "{report:#?}");
}
