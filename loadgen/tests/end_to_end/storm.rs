//! `loadgen storm`: every connection is accounted for, and overflows are reported.

use std::fs;
use std::net::SocketAddr;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::harness::{Running, Server, echo, loadgen, run, skip, wait_until};

#[track_caller]
fn assert_accounted(storm: &Value) {
    let count = |key: &str| storm[key].as_u64().unwrap_or_else(|| panic!("no {key} in {storm}"));
    let sum = count("completed") + count("errors_total") + count("unfinished");
    assert_eq!(sum, count("conns"), "{storm}");
    let by_syn = storm["by_syn"].as_array().unwrap().iter();
    let connected: u64 = by_syn.map(|by| by["connections"].as_u64().unwrap()).sum();
    let connects = storm["latency"]["connect"]["count"].as_u64().unwrap_or(0);
    assert_eq!(connected, connects, "{storm}");
}

#[test]
fn burst_within_the_backlog_is_served_by_every_backend() {
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        let common = ["storm", "--conns", "200", "--backend", backend, "--backlog", "4096"];
        let more = ["--at-once", "--exchanges", "3", "--close", "rst", "--json"];
        let finished = run(&[&common[..], &more].concat());
        if finished.code == Some(3) {
            skip(backend, finished.stderr.trim_end());
            continue;
        }
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        let storm = finished.record();
        assert_accounted(&storm);
        assert_eq!(storm["completed"], 200, "{storm}");
        assert_eq!(storm["subject"]["backend"], backend);
        assert_eq!(storm["queue"]["limit"], 4096, "{storm}");
        assert_eq!(storm["by_syn"].as_array().map(Vec::len), Some(1), "{storm}");
        let latency = &storm["latency"];
        for (what, count) in [("connect", 200), ("first_exchange", 200), ("exchange", 600)] {
            assert_eq!(latency[what]["count"], count, "{storm}");
        }
    }
}

#[test]
fn storm_matrix_reports_every_cell() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("storms.json");
    let file = file.to_str().unwrap();
    let args = ["storm", "--backend", "mio,blocking", "--backlog", "64,4096", "--conns", "5,9,5"];
    let finished = run(&[&args[..], &["--json", "-o", file]].concat());
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let storms = finished.record();
    let storms = storms["storms"].as_array().unwrap();
    let cells = storms.iter().map(|storm| {
        assert_accounted(storm);
        let subject = &storm["subject"];
        let number = |value: &Value| value.as_u64().unwrap();
        (subject["backend"].as_str().unwrap(), number(&subject["backlog"]), number(&storm["conns"]))
    });
    let cells: Vec<_> = cells.collect();
    let expected = ["mio", "blocking"].into_iter().flat_map(|backend| {
        [(64, 5), (64, 9), (4096, 5), (4096, 9)].map(|(backlog, conns)| (backend, backlog, conns))
    });
    assert_eq!(cells, expected.collect::<Vec<_>>());
    let report = run(&["report", file]);
    assert_eq!(report.stdout.lines().count(), 11, "{report:#?}");
}

/// True if a connect to the port waits for its SYN to be answered (`/proc/net/tcp`, state 02).
fn syn_is_unanswered(port: u16) -> bool {
    let remote = format!(":{port:04X}");
    fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(2).is_some_and(|addr| addr.ends_with(&remote)) && fields.get(3) == Some(&"02")
    })
}

#[test]
fn accept_queue_overflow_is_reported() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(4).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    thread::spawn(move || {
        wait_until("a SYN was dropped", || syn_is_unanswered(addr.port()));
        let listener = std::net::TcpListener::from(listener);
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || echo(stream, 0));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("storm.json");
    let (file, target) = (file.to_str().unwrap(), addr.to_string());
    let args = ["storm", "--target", &target, "--conns", "12", "--at-once", "--json", "-o", file];
    let finished = run(&args);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let storm = finished.record();
    assert_accounted(&storm);
    assert_eq!(storm["completed"], 12, "{storm}");
    assert_eq!((&storm["queue"]["listeners"], &storm["queue"]["limit"]), (&1.into(), &4.into()));
    assert!(storm["counters"]["ListenOverflows"].as_u64() > Some(0), "{storm}");
    let longest = storm["latency"]["connect"]["max_ns"].as_u64();
    assert!(longest > Some(900_000_000), "{storm}");
    let report = run(&["report", file]);
    assert!(report.stdout.contains(" of connect is "), "{report:#?}");
    assert!(report.stdout.contains("the accept queue overflowed"), "{report:#?}");
}

#[test]
fn connect_rate_is_kept() {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["storm", "--target", &target, "--conns", "50", "--rate", "100", "--json"];
    let finished = run(&args);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let storm = finished.record();
    assert_accounted(&storm);
    // The last connect is due after 0.49 s.
    assert!(storm["issued_s"].as_f64() >= Some(0.49), "{storm}");
    assert_eq!(storm["rate_per_s"], 100.0);
}

#[test]
fn failed_connections_are_counted() {
    let server = Server::start(|stream, number| match number % 2 {
        0 => drop(stream),
        _ => echo(stream, number),
    });
    let target = server.target();
    let finished = run(&["storm", "--target", &target, "--conns", "20", "--json"]);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let storm = finished.record();
    assert_accounted(&storm);
    assert_eq!((&storm["completed"], &storm["errors_total"]), (&10.into(), &10.into()));
    let finished = run(&["storm", "--target", "127.0.0.1:1", "--conns", "3"]);
    assert_eq!(finished.code, Some(4), "{finished:#?}");
}

#[test]
fn sighup_keeps_the_partial_burst() {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["storm", "--target", &target, "--conns", "1000", "--rate", "10", "--json"];
    let running = Running::start(&mut loadgen(&args));
    let accepted = || server.accepted.load(std::sync::atomic::Ordering::Relaxed);
    wait_until("the burst has begun", || accepted() > 2);
    running.signal(Signal::HUP);
    let finished = running.finish();
    assert_eq!(finished.code, Some(129), "{finished:#?}");
    let storm = finished.record();
    assert_accounted(&storm);
    assert_eq!(storm["interrupted"], true);
    assert!(storm["unfinished"].as_u64() > Some(0), "{storm}");
}

#[test]
fn storm_usage_errors() {
    for (args, words) in [
        (&["--at-once", "--rate", "5"][..], "cannot be used with"),
        (&["--close", "slam"], "possible values: fin, rst"),
        (&["--exchanges", "0"], "at least 1"),
        (&["--conns", "0"], "at least 1"),
        (&["--target", "127.0.0.1:1", "--backlog", "5"], "cannot be used with"),
        (&["--target", "127.0.0.1"], "not an address with a port"),
        (&["-o", "/no/such/directory/record.json"], "/no/such/directory"),
    ] {
        run(&[&["storm"], args].concat()).assert_complains(2, words);
    }
}

#[test]
fn refused_target_is_an_error() {
    let finished = run(&["storm", "--target", "127.0.0.1:1", "--conns", "2,3"]);
    assert_eq!(finished.code, Some(4), "{finished:#?}");
    let refused = "error: cannot connect to 127.0.0.1:1: connection refused (ECONNREFUSED)\nhint: ";
    assert!(finished.stderr.contains(refused), "{finished:#?}");
}
