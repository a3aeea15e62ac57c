//! Signals in every phase of a run.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{Running, Server, counting_echo, echo_with, loadgen, two_cpus, wait_until};

#[test]
fn signal_prints_the_partial_result() {
    let signals =
        [(Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131), (Signal::TERM, 143)];
    for (signal, code) in signals {
        let (server, requests) = counting_echo(Duration::ZERO);
        let target = server.target();
        let args = ["--target", &target, "--conns", "4", "-d", "100s", "--warmup", "0", "--json"];
        let running = Running::start(&mut loadgen(&args));
        wait_until("the run measures", || requests.load(Relaxed) > 200);
        running.signal(signal);
        let finished = running.finish();
        assert_eq!(finished.code, Some(code), "{finished:#?}");
        let record = finished.record();
        assert_eq!(record["interrupted"], true);
        assert!(record["exchanges"].as_u64() > Some(0), "{record}");
        assert_eq!(record["errors_total"], 0, "an exchange that was cut is no failure: {record}");
        let (rate, seconds) = (&record["throughput_per_s"], &record["duration_s"]);
        let exchanges = rate.as_f64().unwrap() * seconds.as_f64().unwrap();
        assert!((exchanges - record["exchanges"].as_f64().unwrap()).abs() < 1e-3, "{record}");
    }
}

/// As under nohup(1).
#[test]
fn hangup_stays_ignored() {
    let (server, requests) = counting_echo(Duration::ZERO);
    let mut command = Command::new("sh");
    let script = "trap '' HUP; exec \"$@\" --conns 2 -d 100s --warmup 0 --no-floor --json";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_loadgen"), &server.target()]);
    let running = Running::start(&mut command);
    wait_until("the run measures", || requests.load(Relaxed) > 100);
    running.signal(Signal::HUP);
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    assert_eq!(finished.record()["interrupted"], true);
}

#[test]
fn signal_prints_the_rounds_of_the_floor() {
    if two_cpus().is_none() {
        return;
    }
    let args = ["floor", "--size", "1", "-d", "70s", "--json"];
    let running = Running::start(&mut loadgen(&args));
    let pid = running.pid().as_raw_nonzero();
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    // One thread more than in the first form, whose measurement is over.
    wait_until("two threads exchange", || threads() == 5);
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    let record = finished.record();
    assert_eq!((&record["interrupted"], &record["floor"]["rounds"]), (&true.into(), &1.into()));
    assert_eq!(record["floor"]["one_thread"][0]["conns"], 1);
}

#[test]
fn signal_during_warmup_records_no_exchange() {
    let (server, requests) = counting_echo(Duration::ZERO);
    let target = server.target();
    let args = ["--target", &target, "--conns", "2", "--warmup", "100s", "--json"];
    let running = Running::start(&mut loadgen(&args));
    wait_until("the run warms up", || requests.load(Relaxed) > 100);
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    let record = finished.record();
    assert_eq!((&record["exchanges"], &record["valid"]), (&0.into(), &false.into()));
    assert_eq!(record["duration_s"], 0.0);
}

#[test]
fn signal_while_connecting_ends_the_run() {
    // The listen queue is full, so further connects wait.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let target = listener.local_addr().unwrap().as_socket().unwrap().to_string();
    let args = ["--target", &target, "--conns", "10", "--timeout", "100s", "--json"];
    let begin = Instant::now();
    let running = Running::start(&mut loadgen(&args));
    let queued = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X}", listener.local_addr().unwrap().as_socket().unwrap().port());
        // State 02 is SYN_SENT.
        table.lines().any(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            fields.get(2).is_some_and(|remote| remote.ends_with(&port)) && fields[3] == "02"
        })
    };
    wait_until("a connect waits", queued);
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    let record = finished.record();
    assert_eq!(record["interrupted"], true);
    assert_eq!(record["exchanges"], 0);
    assert!(begin.elapsed() < Duration::from_secs(50), "the timeout was waited for");
}

#[test]
fn second_signal_ends_the_run_immediately() {
    // The server stops replying, so the first signal waits for the reply on its way.
    let requests = Arc::new(AtomicU64::new(0));
    let counter = requests.clone();
    let server = Server::start(move |stream, _| {
        let counter = counter.clone();
        echo_with(stream, move |_| {
            while counter.fetch_add(1, Relaxed) >= 100 {
                thread::park();
            }
            true
        });
    });
    let target = server.target();
    let args = ["--target", &target, "--conns", "1", "--warmup", "0", "--timeout", "100s"];
    let running = Running::start(&mut loadgen(&args));
    wait_until("a request is on its way", || requests.load(Relaxed) > 100);
    running.signal(Signal::INT);
    // The same signal twice is one until the first is delivered.
    let status = format!("/proc/{}/status", running.pid().as_raw_nonzero());
    wait_until("the first signal is delivered", || {
        let status = fs::read_to_string(&status).unwrap();
        status.contains("ShdPnd:\t0000000000000000\n")
    });
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
}
