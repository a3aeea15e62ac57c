//! Connections that a server closes, resets or leaves unanswered, and how they are counted.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Server, echo, echo_with, run_with, with_each_engine};

with_each_engine! {
    server_close_fails_each_connection_once
    fin_with_the_reply_is_detected
    lost_connections_do_not_change_the_requested_count
    reset_is_reported_as_econnreset
    missing_reply_is_a_timeout
    timeouts_are_in_the_latency_histogram
    half_a_reply_is_a_timeout
    failed_connections_do_not_stop_the_others
}

fn server_close_fails_each_connection_once(engine: &str) {
    // The server closes after five replies.
    let server = Server::start(|stream, _| {
        let mut replies = 0;
        echo_with(stream, move |_| {
            replies += 1;
            replies <= 5
        });
    });
    let args =
        ["--target", &server.target(), "--conns", "4", "-d", "60s", "--warmup", "0", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    // With a request on its way, the client may see a reset.
    let errors = finished.errors();
    assert_eq!(errors.iter().map(|(_, count)| count).sum::<u64>(), 4, "{errors:?}");
    let ends = ["eof", "receive/ECONNRESET", "send/EPIPE", "send/ECONNRESET"];
    assert!(errors.iter().all(|(kind, _)| ends.contains(&kind.as_str())), "{errors:?}");
    let record = finished.record();
    assert_eq!(record["unserved"], 0);
    // One of the five is the first exchange.
    assert_eq!(record["exchanges"], 16);
    assert!(record["duration_s"].as_f64().unwrap() < 50.0, "the run went on without connections");
}

fn fin_with_the_reply_is_detected(engine: &str) {
    // The server goes on reading, so only the FIN shows the end.
    let server = Server::start(|mut stream, _| {
        let mut buffer = [0; 64];
        let count = stream.read(&mut buffer).unwrap_or(0);
        let _ = stream.write_all(&buffer[..count]);
        let _ = stream.shutdown(Shutdown::Write);
        while let Ok(1..) = stream.read(&mut buffer) {}
    });
    let args = [
        "--target",
        &server.target(),
        "--conns",
        "4",
        "-d",
        "60s",
        "--warmup",
        "0",
        "--timeout",
        "50s",
        "--json",
    ];
    let begin = Instant::now();
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    assert_eq!(finished.errors(), [("eof".to_owned(), 4)]);
    assert!(begin.elapsed() < Duration::from_secs(40), "the timeout was waited for");
}

fn lost_connections_do_not_change_the_requested_count(engine: &str) {
    // Ten connections get three replies each, the first of which is not measured.
    let server = Server::start(|mut stream, _| {
        let mut buffer = [0; 64];
        for _ in 0..3 {
            let Ok(count @ 1..) = stream.read(&mut buffer) else { return };
            let _ = stream.write_all(&buffer[..count]);
        }
        let _ = stream.shutdown(Shutdown::Write);
        while let Ok(1..) = stream.read(&mut buffer) {}
    });
    for requests in [1, 15, 20] {
        let args = [
            "--target",
            &server.target(),
            "--conns",
            "10",
            "-n",
            &requests.to_string(),
            "--warmup",
            "0",
            "--json",
        ];
        let finished = run_with(engine, &args);
        let record = finished.record();
        assert_eq!(record["exchanges"], requests, "{finished:#?}");
        assert_eq!(record["latency"]["exchange"]["count"], requests);
    }
}

fn reset_is_reported_as_econnreset(engine: &str) {
    let server = Server::start(|mut stream, _| {
        // Closing with unread data sends a reset (RFC 2525, 2.17).
        let _ = stream.read(&mut [0; 1]);
    });
    let args = ["--target", &server.target(), "--conns", "3", "-d", "60s", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    assert_eq!(finished.errors(), [("receive/ECONNRESET".to_owned(), 3)]);
    assert_eq!(finished.record()["unserved"], 3);
}

fn missing_reply_is_a_timeout(engine: &str) {
    let server = Server::start(|mut stream, _| while let Ok(1..) = stream.read(&mut [0; 64]) {});
    let args =
        ["--target", &server.target(), "--conns", "3", "-d", "60s", "--timeout", "200ms", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    assert_eq!(finished.errors(), [("timeout".to_owned(), 3)]);
    let record = finished.record();
    assert_eq!(record["unserved"], 3);
    assert_eq!(record["exchanges"], 0);
    assert_eq!(record["valid"], false);
    assert!(record["latency"].get("exchange").is_none(), "present without exchanges");
    assert!(record.get("fairness").is_none(), "present without exchanges");
}

fn timeouts_are_in_the_latency_histogram(engine: &str) {
    let server = Server::start(|stream, _| {
        let mut left = 100;
        echo_with(stream, |_| {
            if left == 0 {
                loop {
                    thread::park();
                }
            }
            left -= 1;
            true
        });
    });
    let args = [
        "--target",
        &server.target(),
        "--conns",
        "3",
        "-d",
        "60s",
        "--warmup",
        "0",
        "--timeout",
        "200ms",
        "--json",
    ];
    let finished = run_with(engine, &args);
    assert_eq!(finished.errors(), [("timeout".to_owned(), 3)]);
    let record = finished.record();
    let exchange = &record["latency"]["exchange"];
    assert_eq!(exchange["count"], record["exchanges"].as_u64().unwrap() + 3);
    assert!(exchange["max_ns"].as_u64().unwrap() >= 200_000_000, "{record}");
    assert!(record["invalid_reasons"][0].as_str().unwrap().starts_with("connections-lost: 3 of 3"));
}

fn half_a_reply_is_a_timeout(engine: &str) {
    let server = Server::start(|mut stream, _| {
        let mut buffer = [0; 64];
        let count = stream.read(&mut buffer).unwrap_or(0);
        let _ = stream.write_all(&buffer[..count / 2]);
        while let Ok(1..) = stream.read(&mut buffer) {}
    });
    let args =
        ["--target", &server.target(), "--conns", "1", "-d", "60s", "--timeout", "200ms", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let first = finished.record()["errors"][0]["first"].as_str().unwrap().to_owned();
    assert!(first.contains("32 bytes of the reply within 200ms"), "{first}");
}

fn failed_connections_do_not_stop_the_others(engine: &str) {
    let server = Server::start(|stream, number| match number % 2 {
        0 => echo(stream, number),
        _ => drop(stream),
    });
    let args =
        ["--target", &server.target(), "--conns", "10", "-n", "300", "--warmup", "0", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    let record = finished.record();
    assert_eq!(record["exchanges"], 300);
    assert_eq!(record["errors_total"], 5);
    assert_eq!(record["unserved"], 5);
    // Failed connections count in the fairness.
    assert_eq!(record["fairness"]["min"], 0);
    let jain = record["fairness"]["jain"].as_f64().unwrap();
    assert!(jain <= 0.5, "five of ten connections did all exchanges: {jain}");
}
