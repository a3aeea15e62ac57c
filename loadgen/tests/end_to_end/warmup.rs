//! `--warmup auto`: warm-ups that last until the load is steady.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Running, Server, counting_echo, echo_with, loadgen, run, wait_until};

#[test]
fn auto_warmup_counts_every_exchange_once() {
    for limit in [["--duration", "300ms"], ["--requests", "5000"]] {
        let args = ["--conns", "8", "--backend", "blocking", "--warmup", "auto", "--json"];
        let finished = run(&[&args[..], &limit[..]].concat());
        let record = finished.record();
        // Both sides must have counted the same exchanges, else the reason is `miscount`.
        assert_eq!(record["errors_total"], 0);
        assert!(!record["invalid_reasons"].to_string().contains("miscount"), "{record}");
        let warmup_s = record["warmup_s"].as_f64().unwrap();
        assert!((0.2..60.0).contains(&warmup_s), "{warmup_s}");
        let end = record["warmup_end"].as_str().unwrap();
        let warned = record["warnings"].to_string().contains("not-steady: the load had not");
        assert_eq!(end == "bound", warned, "{record}");
        let exchanges = record["exchanges"].as_u64().unwrap();
        let timed = record["latency"]["exchange"]["count"].as_u64().unwrap();
        match limit[0] {
            "--requests" => assert_eq!((exchanges, timed), (5000, 5000)),
            // Each connection may have one exchange across each edge of the window.
            _ => assert!(exchanges.abs_diff(timed) <= 8, "{exchanges} {timed}"),
        }
    }
}

/// The first ten exchanges of a connection take ten times as long.
#[test]
fn auto_warmup_excludes_slow_first_exchanges() {
    let server = Server::start(|stream, _| {
        let mut exchanges = 0;
        echo_with(stream, |_| {
            exchanges += 1;
            thread::sleep(Duration::from_millis(if exchanges <= 10 { 20 } else { 2 }));
            true
        });
    });
    let target = server.target();
    let args = ["--target", &target, "--conns", "4", "--warmup", "auto", "-d", "200ms", "--json"];
    let record = run(&args).record();
    assert!(record["warmup_s"].as_f64() >= Some(0.2), "{record}");
    let p50 = record["latency"]["exchange"]["p50_ns"].as_f64().unwrap();
    assert!(p50 < 20e6, "the median is that of the slow exchanges: {p50}");
}

#[test]
fn sigint_during_auto_warmup_records_no_exchange() {
    // At 400 ms an exchange, the warm-up cannot find the load steady.
    let (server, requests) = counting_echo(Duration::from_millis(400));
    let target = server.target();
    let args = ["--target", &target, "--conns", "1", "--warmup", "auto", "--json"];
    let running = Running::start(&mut loadgen(&args));
    // The first exchange precedes the warm-up.
    wait_until("the warm-up has begun", || requests.load(Relaxed) > 1);
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    let record = finished.record();
    assert_eq!((&record["duration_s"], &record["exchanges"]), (&0.0.into(), &0.into()), "{record}");
}
