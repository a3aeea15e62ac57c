//! Warm-ups that last until the load is steady.

use std::thread;
use std::time::Duration;

use crate::harness::{Running, Server, echo_with, loadgen, run, wait_until};
use rustix::process::Signal;

#[test]
fn auto_warmup_counts_every_exchange_once() {
    for limit in [["--duration", "300ms"], ["--requests", "5000"]] {
        let args = ["--conns", "8", "--backend", "blocking", "--warmup", "auto", "--json"];
        let finished = run(&[&args[..], &limit[..]].concat());
        let record = finished.record();
        // That both sides counted the same is a condition of its own: `miscount`.
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
            // Each connection may have one that began before the window and one that ended after.
            _ => assert!(exchanges.abs_diff(timed) <= 8, "{exchanges} {timed}"),
        }
    }
}

/// The first exchanges take ten times as long: they are not in the measured window.
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
    assert!(p50 < 20e6, "the median is that of the later ones: {p50}");
}

#[test]
fn sigint_during_auto_warmup_records_no_exchange() {
    // Too rarely to be steady before the longest warm-up is over.
    let server = Server::start(|stream, _| {
        echo_with(stream, |_| {
            thread::sleep(Duration::from_millis(400));
            true
        });
    });
    let target = server.target();
    let args = ["--target", &target, "--conns", "1", "--warmup", "auto", "--json"];
    let running = Running::start(&mut loadgen(&args));
    wait_until("it is connected", || {
        server.accepted.load(std::sync::atomic::Ordering::Relaxed) > 0
    });
    thread::sleep(Duration::from_millis(600));
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    let record = finished.record();
    assert_eq!((&record["duration_s"], &record["exchanges"]), (&0.0.into(), &0.into()), "{record}");
}
