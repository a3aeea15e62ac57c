//! Signals in every phase of a run.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{Running, Server, counting_echo, echo_with, loadgen, wait_until};

#[test]
fn signal_prints_the_partial_result() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
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
