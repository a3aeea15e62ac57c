//! The generator's engines and `--spin`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Finished, Server, delayed_echo, echo, has_engine, loadgen, run, run_with, skip,
    with_each_engine,
};

with_each_engine! {
    record_names_the_engine
    refused_connect_fails_every_connection
    unsolicited_first_bytes_are_surplus
    close_during_a_request_fails_each_connection_once
    busy_poll_time_is_not_generator_load
    unsuccessful_busy_poll_backs_off
}

fn record_names_the_engine(engine: &str) {
    let server = Server::start(echo);
    let target = server.target();
    let args = ["--target", &target, "--conns", "2", "-n", "50", "--warmup", "0"];
    let finished = run_with(engine, &[&args[..], &["--json"]].concat());
    finished.assert_measured();
    let record = finished.record();
    assert_eq!(record["engine"], engine);
    assert!(record.get("spin_ns").is_none(), "absent, not zero");
    let text = run_with(engine, &[&args[..], &["--spin", "20us"]].concat()).stdout;
    let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(&format!("({engine})")), "{text}");
    assert!(text.contains("spinning 20.0us"), "{text}");
}

#[test]
fn default_engine_is_io_uring_closed_and_epoll_open() {
    let server = Server::start(echo);
    let target = server.target();
    let engine = |more: &[&str]| {
        let args = ["--target", &target, "--conns", "2", "-d", "50ms", "--warmup", "0", "--json"];
        run(&[&args[..], more].concat()).record()["engine"].clone()
    };
    assert_eq!(engine(&[]), if has_engine("io-uring") { "io-uring" } else { "epoll" });
    assert_eq!(engine(&["--rate", "100"]), "epoll");
}

fn refused_connect_fails_every_connection(engine: &str) {
    let target = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let finished = run_with(engine, &["--target", &target, "--conns", "5", "--json"]);
    assert_eq!(finished.code, Some(4), "{finished:#?}");
    assert_eq!(finished.errors(), [("connect/ECONNREFUSED".to_owned(), 5)]);
}

fn unsolicited_first_bytes_are_surplus(engine: &str) {
    let server = Server::start(|mut stream, _| {
        let _ = stream.write_all(b"220 ready");
        while let Ok(1..) = stream.read(&mut [0; 64]) {}
    });
    let args = ["--target", &server.target(), "--conns", "3", "-d", "60s", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(6), "{finished:#?}");
    // Bytes that arrive after the request are a wrong reply.
    let errors = finished.errors();
    assert!(errors.iter().all(|(kind, _)| ["surplus", "mismatch"].contains(&kind.as_str())));
    assert_eq!(errors.iter().map(|(_, count)| count).sum::<u64>(), 3, "{errors:?}");
}

fn close_during_a_request_fails_each_connection_once(engine: &str) {
    // close(2) with unread data sends a reset. The request is larger than the socket's buffers.
    let server = Server::start(|mut stream, _| {
        let _ = stream.read(&mut [0; 1000]);
    });
    let target = server.target();
    let args = ["--target", &target, "--conns", "4", "--size", "1MiB", "-d", "60s", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let errors = finished.errors();
    let ends = ["receive/ECONNRESET", "send/EPIPE", "send/ECONNRESET"];
    assert!(errors.iter().all(|(kind, _)| ends.contains(&kind.as_str())), "{errors:?}");
    assert_eq!(errors.iter().map(|(_, count)| count).sum::<u64>(), 4, "{errors:?}");
    assert_eq!(finished.record()["unserved"], 4);
}

/// A run of one connection to a server that waits before each reply.
fn run_one_connection(engine: &str, delay: Duration, more: &[&str]) -> Finished {
    let server = delayed_echo(delay);
    let target = server.target();
    let args = ["--target", &target, "--conns", "1", "-d", "500ms", "--warmup", "0", "--json"];
    run_with(engine, &[&args[..], more].concat())
}

/// The generator's CPU time in the record, as a share of the window.
fn busy(finished: &Finished) -> f64 {
    finished.record()["client"]["busy"].as_f64().unwrap()
}

fn busy_poll_time_is_not_generator_load(engine: &str) {
    let finished = run_one_connection(engine, Duration::from_millis(1), &["--spin", "50ms"]);
    finished.assert_measured();
    assert_eq!(finished.record()["spin_ns"], 50_000_000);
    let sleeping = run_one_connection(engine, Duration::from_millis(1), &[]);
    assert!(busy(&finished) > 2.0 * busy(&sleeping), "{finished:#?} {sleeping:#?}");
    assert!(!finished.stdout.contains("generator-full"), "{finished:#?}");
}

fn unsuccessful_busy_poll_backs_off(engine: &str) {
    let finished = run_one_connection(engine, Duration::from_millis(20), &["--spin", "10ms"]);
    finished.assert_measured();
    // Busy-polling before every wait would take half the time.
    assert!(busy(&finished) < 0.25, "{finished:#?}");
}

#[test]
fn unknown_engine_lists_the_engines() {
    run(&["--engine", "kqueue"]).assert_complains(2, "possible values: epoll, io-uring");
}

/// EAGAIN: memory is short. EBUSY: completions have to be taken first (io_uring_enter(2)).
#[test]
fn io_uring_that_refuses_now_and_then_is_entered_again() {
    if !has_engine("io-uring") {
        return;
    }
    let server = Server::start(echo);
    let target = server.target();
    let args = ["--target", &target, "--conns", "8", "-n", "400", "--engine", "io-uring"];
    let loadgen = loadgen(&args);
    for errno in ["EAGAIN", "EBUSY"] {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_enter", "-e"]);
        command.arg(format!("inject=io_uring_enter:error={errno}:when=3+5"));
        command.arg(loadgen.get_program()).args(loadgen.get_args());
        match command.output() {
            Ok(output) if !output.stdout.is_empty() => Finished::of(output).assert_measured(),
            Ok(output) => return skip("strace", String::from_utf8_lossy(&output.stderr)),
            Err(error) => return skip("strace", error),
        }
    }
}
