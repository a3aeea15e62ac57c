//! What a server sends, or does not, and how that is counted.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Server, echo, echo_with, run_with, with_each_engine};

with_each_engine! {
    an_echo_is_right_at_every_size
    a_reply_may_come_byte_by_byte
    every_flipped_bit_is_counted_and_no_other
    a_stale_reply_is_wrong
    a_byte_too_many_is_surplus
    what_was_not_asked_for_is_surplus
    a_known_delay_is_what_is_measured
    a_server_that_hangs_up_fails_each_connection_once
    an_end_that_comes_with_the_reply_is_seen
    lost_connections_make_no_exchange_count_twice
    a_reset_is_named
    silence_is_a_timeout
    what_timed_out_is_among_the_latencies
    half_a_reply_is_a_timeout_too
    some_may_fail_while_the_rest_goes_on
    as_many_exchanges_as_asked_for
    the_shorter_of_duration_and_requests_ends_the_run
    connections_are_paced
}

fn an_echo_is_right_at_every_size(engine: &str) {
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

fn a_reply_may_come_byte_by_byte(engine: &str) {
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

fn every_flipped_bit_is_counted_and_no_other(engine: &str) {
    // Replies 100, 200 and 300 of the server's life are wrong in one bit.
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
    // The rest of the connections do all that was asked for.
    assert_eq!(record["exchanges"], 1000);
    assert_eq!(record["valid"], false);
    let first = record["errors"][0]["first"].as_str().unwrap();
    assert!(first.contains("byte 32 of the reply"), "{first}");
}

fn a_stale_reply_is_wrong(engine: &str) {
    // The answer to the first request, to every request.
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

fn a_byte_too_many_is_surplus(engine: &str) {
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

fn what_was_not_asked_for_is_surplus(engine: &str) {
    // Right replies, and something more once the connection rests: the loop begins only when
    // the last connection has been opened.
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

fn a_known_delay_is_what_is_measured(engine: &str) {
    let server = Server::start(|stream, _| {
        echo_with(stream, |_| {
            thread::sleep(Duration::from_millis(10));
            true
        });
    });
    let args =
        ["--target", &server.target(), "--conns", "4", "-n", "200", "--warmup", "0", "--json"];
    let finished = run_with(engine, &args);
    finished.assert_measured();
    let exchange = &finished.record()["latency"]["exchange"];
    let ns = |key: &str| exchange[key].as_u64().unwrap();
    assert!(ns("min_ns") >= 9_990_000, "{exchange}");
    assert!((9_990_000..20_000_000).contains(&ns("p50_ns")), "{exchange}");
}

fn a_server_that_hangs_up_fails_each_connection_once(engine: &str) {
    // Five replies a connection, then the end.
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
    // With a request on its way, the end may come as a reset.
    let errors = finished.errors();
    assert_eq!(errors.iter().map(|(_, count)| count).sum::<u64>(), 4, "{errors:?}");
    let ends = ["eof", "receive/ECONNRESET", "send/EPIPE", "send/ECONNRESET"];
    assert!(errors.iter().all(|(kind, _)| ends.contains(&kind.as_str())), "{errors:?}");
    let record = finished.record();
    assert_eq!(record["unserved"], 0);
    // One of the five is the first exchange.
    assert_eq!(record["exchanges"], 16);
    assert!(record["duration_s"].as_f64().unwrap() < 50.0, "the run ends when nobody is left");
}

fn an_end_that_comes_with_the_reply_is_seen(engine: &str) {
    // The server goes on reading, so nothing but the FIN tells.
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
    assert!(begin.elapsed() < Duration::from_secs(40), "without waiting for a timeout");
}

fn lost_connections_make_no_exchange_count_twice(engine: &str) {
    // Ten connections of three replies each; the first of each is not measured.
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

fn a_reset_is_named(engine: &str) {
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

fn silence_is_a_timeout(engine: &str) {
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
    assert!(record["latency"].get("exchange").is_none(), "absent, not zero");
    assert!(record.get("fairness").is_none(), "absent, not zero");
}

fn what_timed_out_is_among_the_latencies(engine: &str) {
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

fn half_a_reply_is_a_timeout_too(engine: &str) {
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

fn some_may_fail_while_the_rest_goes_on(engine: &str) {
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
    // They stay in the denominator.
    assert_eq!(record["fairness"]["min"], 0);
    let jain = record["fairness"]["jain"].as_f64().unwrap();
    assert!(jain <= 0.5, "five of ten did all the work: {jain}");
}

fn as_many_exchanges_as_asked_for(engine: &str) {
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

fn the_shorter_of_duration_and_requests_ends_the_run(engine: &str) {
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

fn connections_are_paced(engine: &str) {
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
    // Six of one thread, 40 ms apart.
    assert!(begin.elapsed() >= Duration::from_millis(200));
}
