//! The measured window: pauses of the generator, requests that outlast it, and all that was sent.

use std::io::{BufRead, BufReader, Lines};
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::embedded::children;
use crate::harness::{
    Finished, Running, Server, echo_with, loadgen, run, run_with, with_each_engine,
};

with_each_engine! {
    request_that_outlasts_the_window_is_a_lower_bound
}

/// Starts a run and waits until its window has begun.
fn start(args: &[&str]) -> (Running, Lines<BufReader<ChildStdout>>) {
    let all = ["--conns", "4", "-d", "1500ms", "--warmup", "100ms", "--interval", "200ms"];
    let all = [&all[..], &["--json-lines", "--backend", "mio"], args].concat();
    let mut running = Running::start(&mut loadgen(&all));
    let stdout = running.0.as_mut().and_then(|child| child.stdout.take()).unwrap();
    let mut lines = BufReader::new(stdout).lines();
    lines.next().expect("the line of the first interval").unwrap();
    (running, lines)
}

fn stop_for(pid: Pid, time: Duration) {
    kill_process(pid, Signal::STOP).unwrap();
    thread::sleep(time);
    kill_process(pid, Signal::CONT).unwrap();
}

/// Reasons of the record that the run prints last, and its exit code.
fn reasons(running: Running, lines: Lines<BufReader<ChildStdout>>) -> (String, Option<i32>) {
    let record: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
    (record["invalid_reasons"].to_string(), running.finish().code)
}

#[test]
fn stopped_generator_is_invalid_with_the_length() {
    for args in [&[][..], &["--rate", "200"]] {
        let (running, lines) = start(args);
        stop_for(running.pid(), Duration::from_millis(600));
        let (reasons, code) = reasons(running, lines);
        assert_eq!(code, Some(8), "{reasons}");
        let rest = reasons.split_once("stopped: the generator was stopped for ").expect(&reasons).1;
        let ms: f64 = rest.split_once("ms in the").expect(&reasons).0.parse().unwrap();
        // Less by the time between two looks, and more if this process waited for a CPU.
        assert!(ms > 400.0, "{reasons}");
    }
}

#[test]
fn stopped_server_is_no_pause_of_the_generator() {
    let (running, lines) = start(&[]);
    let server = children(running.pid().as_raw_nonzero().get())[0];
    stop_for(Pid::from_raw(server).unwrap(), Duration::from_millis(400));
    let (reasons, _) = reasons(running, lines);
    assert!(!reasons.contains("stopped"), "{reasons}");
}

#[test]
fn generator_stopped_before_the_window_is_a_warning() {
    // Nothing is accepted before the generator was stopped, so it opens its connections.
    let server = Server::start(|stream, _| {
        thread::sleep(Duration::from_millis(800));
        echo_with(stream, |_| true);
    });
    let args = ["--target", &server.target(), "--conns", "1", "-d", "300ms", "-w", "0", "--json"];
    let running = Running::start(&mut loadgen(&args));
    crate::harness::wait_until("it connects", || server.accepted.load(Relaxed) > 0);
    stop_for(running.pid(), Duration::from_millis(500));
    let finished = running.finish();
    finished.assert_measured();
    let warnings = finished.record()["warnings"].to_string();
    assert!(warnings.contains("before the measured window"), "{warnings}");
}

/// A server that never answers the second request of its first connection.
fn silent_connection() -> Server {
    Server::start(|stream, number| {
        let mut requests = 0;
        echo_with(stream, |_| {
            requests += 1;
            if number == 0 && requests > 1 {
                thread::park();
            }
            true
        });
    })
}

fn request_that_outlasts_the_window_is_a_lower_bound(engine: &str) {
    let server = silent_connection();
    for load in [&[][..], &["--rate", "100"], &["--rate", "100", "--fail-if", "max>100ms"]] {
        let server = if load.is_empty() { &server } else { &silent_connection() };
        let args = ["--conns", "4", "-d", "500ms", "--warmup", "500ms", "--timeout", "20s"];
        let target = server.target();
        let finished =
            run_with(engine, &[&args[..], &["--target", &target, "--json"], load].concat());
        let record = finished.record();
        assert_eq!(record["outstanding"], 1, "{record}");
        for name in ["exchange", "response", "service"] {
            let latency = &record["latency"][name];
            if latency.is_null() {
                continue;
            }
            assert!(latency["max_ns"].as_u64() >= Some(500_000_000), "{name}: {record}");
            assert_eq!(latency["unanswered"], 1, "{name}");
            let bounds = latency["lower_bounds"].to_string();
            assert!(bounds.contains("max_ns") && !bounds.contains("p50_ns"), "{name}: {bounds}");
        }
        if load.is_empty() {
            assert_eq!(record["conns_without_exchange"], 1, "{record}");
            let warnings = record["warnings"].to_string();
            assert!(warnings.contains("silent: 1 of 4 connections"), "{warnings}");
        }
        if load.contains(&"--fail-if") {
            assert_eq!(record["thresholds"][0]["held"], false, "{record}");
        }
    }
}

#[test]
fn lower_bounds_are_marked_in_the_text() {
    let server = silent_connection();
    let args = ["--conns", "4", "-d", "200ms", "--warmup", "100ms", "--target", &server.target()];
    let Finished { stdout, .. } = run(&args);
    assert!(stdout.contains("\noutstanding    1 request without a reply"), "{stdout}");
    assert!(stdout.contains("\n>: at least;"), "{stdout}");
    let exchange = stdout.lines().find(|line| line.starts_with("exchange ")).unwrap();
    assert!(exchange.contains(" >"), "{stdout}");
}

#[test]
fn everything_sent_is_counted_as_the_server_does() {
    let loads: [&[&str]; 4] = [
        &["-d", "200ms", "--warmup", "100ms"],
        &["-n", "500", "--warmup", "50ms"],
        &["--rate", "500", "-d", "200ms", "--warmup", "100ms", "--arrivals", "poisson"],
        &["--rate", "1k", "-n", "100", "--warmup", "0"],
    ];
    for backend in loadgen::servers::embedded::backend_names() {
        for load in loads {
            let args = ["--backend", backend, "--conns", "5", "--threads", "2", "--json"];
            let finished = run(&[&args[..], load].concat());
            if finished.code == Some(3) {
                crate::harness::skip(backend, finished.stderr);
                break;
            }
            let record = finished.record();
            let sent = &record["sent"];
            let count = |key: &str| sent[key].as_u64().unwrap();
            let counts = &record["server_statistics"];
            assert_eq!(sent["total"], counts["exchanges"], "{backend} {load:?}: {record}");
            assert_eq!(Some(count("total") * 64), counts["bytes_received"].as_u64());
            assert_eq!(count("first_exchanges"), 5);
            let phases = count("first_exchanges") + count("warmup") + count("window");
            assert_eq!(phases + count("after"), count("total"), "{sent}");
            if load.contains(&"-n") {
                let planned: u64 = load[load.len() - 3].parse().unwrap_or(500);
                assert!(count("window") >= planned.min(100), "{sent}");
            }
        }
    }
}

#[test]
fn requests_that_time_out_are_counted_as_sent() {
    // Bytes that the server has received, and a connection that gets no reply.
    let bytes = Arc::new(AtomicU64::new(0));
    let counter = bytes.clone();
    let server = Server::start(move |stream, number| {
        let mut requests = 0;
        echo_with(stream, |request| {
            requests += 1;
            counter.fetch_add(request.len() as u64, Relaxed);
            if number == 0 && requests > 1 {
                thread::sleep(Duration::from_secs(1));
            }
            true
        });
    });
    let args = ["-d", "300ms", "--warmup", "0", "--timeout", "200ms", "--conns", "3", "--json"];
    let record = run(&[&args[..], &["--target", &server.target()]].concat()).record();
    assert_eq!(record["errors_total"], 1, "{record}");
    assert_eq!(record["latency"]["exchange"]["unanswered"], 1, "{record}");
    assert_eq!(record["sent"]["total"].as_u64().map(|sent| sent * 64), Some(bytes.load(Relaxed)));
}

#[test]
fn rates_below_one_a_second_run_and_are_printed() {
    let record = run(&[
        "--rate",
        "120/m",
        "-d",
        "1s",
        "-w",
        "0",
        "--conns",
        "2",
        "--backend",
        "mio",
        "--json",
        "--fail-if",
        "throughput<0.5",
    ]);
    record.assert_measured();
    let record = record.record();
    assert_eq!((&record["rate"]["planned_per_s"], &record["exchanges"]), (&2.0.into(), &2.into()));
    assert_eq!(record["thresholds"][0]["held"], true, "{record}");
    let args = ["-d", "1s", "-w", "0", "--conns", "2", "--backend", "mio"];
    let text = run(&[&args[..], &["--rate", "0.4"]].concat()).stdout;
    assert!(text.contains("open loop, 0.4/s constant"), "{text}");
    let text = run(&[&args[..], &["--rate", "1/h", "--arrivals", "poisson"]].concat()).stdout;
    assert!(text.contains("request was due, so raise --rate"), "{text}");
}
