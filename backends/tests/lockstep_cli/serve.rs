//! Servers from the start to the end: limits, signals, the choice of `auto`.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::child::{Served, lockstep};
use crate::common::kernel;

/// Ctrl-C must work right after the start as well.
#[test]
fn signal_right_after_the_start_is_not_lost() {
    for round in 0..20 {
        let server = Served::start("mio", []);
        thread::sleep(Duration::from_micros(round * 100));
        server.process.signal(Signal::INT);
        assert_eq!(server.process.wait().status.code(), Some(0));
    }
}

#[test]
fn statistics_without_exchanges_have_no_ratio() {
    let stats = Served::start("mio", []).stop();
    assert_eq!(stats.get("syscalls_per_exchange"), None, "absent, not 0: {stats}");
}

#[test]
fn auto_prints_its_choice_and_why() {
    let stats = Served::start("auto", []).stop();
    let (backend, auto) = (stats["backend"].as_str().unwrap(), stats["auto"].as_str().unwrap());
    assert!(auto.starts_with(&format!("{backend} (")), "{stats}");
    let server = Served::start_command(lockstep(["serve", "--listen", "127.0.0.1:0"]));
    let said = server.process.stderr.next().unwrap();
    assert!(said.starts_with("backend auto: "), "{said}");
}

/// By default, the limit is what the descriptors allow: no accept fails.
#[test]
fn connection_limit_fits_the_limit_of_descriptors() {
    let server = Served::start_limited(100, "mio", &["--shards", "1"]);
    let mut clients: Vec<_> = (0..90).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(b"served?");
    }
    for mut client in clients {
        assert_eq!(client.receive(7), b"served?");
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((&stats["accepted"], &stats["exchanges"]), (&90.into(), &90.into()));
    assert_eq!(stats["accept_errors"], serde_json::json!({}));
    assert!(stats["connections_peak"].as_u64() < Some(90), "{stats}");
}

#[test]
fn server_without_connections_ends_immediately() {
    let server = Served::start("mio", ["--drain-timeout", "1h"]);
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(20));
}
