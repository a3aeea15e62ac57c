//! Replies of a server, and how they are verified and counted.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Server, delayed_echo, echo, echo_with, run_with, with_each_engine};

with_each_engine! {
    echo_of_every_size_is_verified
    reply_may_arrive_byte_by_byte
    flipped_bits_are_counted_exactly
    stale_reply_is_a_mismatch
    extra_byte_is_surplus
    unsolicited_bytes_are_surplus
    server_delay_is_the_measured_latency
    requests_option_counts_exactly
    shorter_of_duration_and_requests_ends_the_run
    connect_rate_paces_connections
}

fn echo_of_every_size_is_verified(engine: &str) {
    let server = Server::start(echo);
    for size in ["1", "2", "64", "1023", "1024", "1025", "100000", "1MiB"] {
        let finished = run_with(
            engine,
            &[
                "--target",
                &server.target(),
                "--conns",
                "3",
                "-n",
                "20",
                "--warmup",
                "0",
                "--size",
                size,
                "--json",
            ],
        );
        finished.assert_measured();
        let record = finished.record();
        assert_eq!(record["exchanges"], 20, "{size}");
        assert_eq!(record["latency"]["exchange"]["count"], 20);
        assert_eq!(record["latency"]["connect"]["count"], 3);
        assert_eq!(record["latency"]["first_exchange"]["count"], 3);
        assert_eq!(record["errors_total"], 0);
        assert_eq!(record["unserved"], 0);
    }
}

fn reply_may_arrive_byte_by_byte(engine: &str) {
    let server = Server::start(|mut stream, _| {
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            for byte in &buffer[..count] {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
            }
        }
    });
    let finished = run_with(
        engine,
        &["--target", &server.target(), "--conns", "2", "-n", "50", "--warmup", "0", "--json"],
    );
    finished.assert_measured();
    assert_eq!(finished.record()["exchanges"], 50);
}

fn flipped_bits_are_counted_exactly(engine: &str) {
    // One bit of the server's replies 100, 200 and 300 is wrong.
    let replies = AtomicU64::new(0);
    let replies = Arc::new(replies);
    let server = Server::start(move |stream, _| {
        let replies = replies.clone();
        echo_with(stream, move |reply| {
            let number = replies.fetch_add(1, Relaxed);
            if matches!(number, 100 | 200 | 300) {
                reply[reply.len() / 2] ^= 0x04;
            }
            true
        });
    });
    let args =
        ["--target", &server.target(), "--conns", "8", "-n", "1000", "--warmup", "0", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(6), "{finished:#?}");
    assert_eq!(finished.errors(), [("mismatch".to_owned(), 3)]);
    let record = finished.record();
    // The other connections complete the requested number.
    assert_eq!(record["exchanges"], 1000);
    assert_eq!(record["valid"], false);
    let first = record["errors"][0]["first"].as_str().unwrap();
    assert!(first.contains("byte 32 of the reply"), "{first}");
}

fn stale_reply_is_a_mismatch(engine: &str) {
    // Every reply is the one to the first request.
    let server = Server::start(|stream, _| {
        let mut first = None;
        echo_with(stream, move |reply| {
            reply.copy_from_slice(first.get_or_insert_with(|| reply.to_vec()));
            true
        });
    });
    let args =
        ["--target", &server.target(), "--conns", "4", "-n", "100", "--warmup", "0", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(6), "{finished:#?}");
    assert_eq!(finished.errors(), [("mismatch".to_owned(), 4)]);
    assert_eq!(finished.record()["unserved"], 0);
}

fn extra_byte_is_surplus(engine: &str) {
    let server = Server::start(|mut stream, _| {
        let mut buffer = [0; 65];
        while let Ok(count @ 1..) = stream.read(&mut buffer[..64]) {
            if stream.write_all(&buffer[..=count]).is_err() {
                return;
            }
        }
    });
    let args =
        ["--target", &server.target(), "--conns", "4", "-n", "100", "--warmup", "0", "--json"];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(6), "{finished:#?}");
    assert_eq!(finished.errors(), [("surplus".to_owned(), 4)]);
    assert_eq!(finished.record()["unserved"], 4);
}

fn unsolicited_bytes_are_surplus(engine: &str) {
    // Right replies, and more bytes while the first connection is idle: the loop begins when the
    // last connection is open.
    let server = Server::start(|mut stream, number| {
        let mut buffer = [0; 64];
        for exchange in 0.. {
            let Ok(count @ 1..) = stream.read(&mut buffer) else { return };
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
            if number == 0 && exchange == 0 {
                thread::sleep(Duration::from_millis(20));
                let _ = stream.write_all(b"by the way");
            }
        }
    });
    let args = [
        "--target",
        &server.target(),
        "--conns",
        "10",
        "--connect-rate",
        "20",
        "-n",
        "100",
        "--warmup",
        "0",
        "--json",
    ];
    let finished = run_with(engine, &args);
    assert_eq!(finished.code, Some(6), "{finished:#?}");
    assert_eq!(finished.errors(), [("surplus".to_owned(), 1)]);
    assert_eq!(finished.record()["exchanges"], 100);
}

fn server_delay_is_the_measured_latency(engine: &str) {
    let server = delayed_echo(Duration::from_millis(10));
    let args =
        ["--target", &server.target(), "--conns", "4", "-n", "200", "--warmup", "0", "--json"];
    let finished = run_with(engine, &args);
    finished.assert_measured();
    let exchange = &finished.record()["latency"]["exchange"];
    let ns = |key: &str| exchange[key].as_u64().unwrap();
    assert!(ns("min_ns") >= 9_990_000, "{exchange}");
    assert!((9_990_000..20_000_000).contains(&ns("p50_ns")), "{exchange}");
}

fn requests_option_counts_exactly(engine: &str) {
    let server = Server::start(echo);
    for (conns, requests, threads) in [("7", 100, "2"), ("10", 3, "3"), ("1", 1, "1")] {
        let finished = run_with(
            engine,
            &[
                "--target",
                &server.target(),
                "--conns",
                conns,
                "-n",
                &requests.to_string(),
                "-t",
                threads,
                "--warmup",
                "50ms",
                "--json",
            ],
        );
        finished.assert_measured();
        let record = finished.record();
        assert_eq!(record["exchanges"], requests);
        assert_eq!(record["threads"].to_string(), threads);
        assert!(record["duration_s"].as_f64().unwrap() > 0.0);
    }
}

fn shorter_of_duration_and_requests_ends_the_run(engine: &str) {
    let server = Server::start(echo);
    let run = |limits: [&str; 4]| {
        let target = server.target();
        let mut args = vec!["--target", &target, "--conns", "2", "--warmup", "0", "--json"];
        args.extend(limits);
        let finished = run_with(engine, &args);
        finished.assert_measured();
        finished.record()
    };
    let record = run(["-n", "10", "-d", "60s"]);
    assert_eq!(record["exchanges"], 10);
    let record = run(["-n", "1000000000", "-d", "200ms"]);
    assert!((0.2..0.3).contains(&record["duration_s"].as_f64().unwrap()), "{record}");
}

fn connect_rate_paces_connections(engine: &str) {
    let server = Server::start(echo);
    let begin = Instant::now();
    let finished = run_with(
        engine,
        &[
            "--target",
            &server.target(),
            "--conns",
            "11",
            "--connect-rate",
            "50",
            "-t",
            "2",
            "-n",
            "11",
            "--warmup",
            "0",
            "--json",
        ],
    );
    finished.assert_measured();
    assert_eq!(server.accepted.load(Relaxed), 11);
    // One thread opens six, 40 ms apart.
    assert!(begin.elapsed() >= Duration::from_millis(200));
}
