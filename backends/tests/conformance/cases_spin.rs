//! Busy-polling delays nothing, however long it is.

use std::time::{Duration, Instant};

use lockstep_backends::Options;
use lockstep_core::Cause;
use lockstep_core::Echo;

use super::SUBJECT;
use crate::common::client::Client;
use crate::common::{kernel, noise};
use crate::harness::{options, start_with};

const LONG: Duration = Duration::from_secs(3600);

/// Busy-polls for longer than a test takes.
fn spinning() -> Options {
    Options { spin: LONG, ..options(&SUBJECT) }
}

#[test]
fn busy_polling_finds_connections_and_requests() {
    let Some(server) = start_with(&SUBJECT, Echo, spinning()) else { return };
    for number in 0..5 {
        let mut client = server.connect();
        for round in 0..100 {
            client.exchange(&noise(round, 1 + (number * 200 + round as usize) % 1024));
        }
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.exchanges), (5, 500), "{stats:?}");
    assert!(stats.spun_us > 0, "{stats:?}");
}

#[test]
fn busy_polling_does_not_delay_the_drain() {
    let Some(server) = start_with(&SUBJECT, Echo, spinning()) else { return };
    let mut clients = server.connect_many(8);
    clients[0].exchange(b"x");
    server.drain();
    clients.iter_mut().for_each(Client::expect_end);
    drop(clients);
    let stats = server.join();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Drain)), (8, 8), "{stats:?}");
}

#[test]
fn busy_polling_keeps_deadlines() {
    let idle_timeout = Duration::from_millis(300);
    let limited = Options { idle_timeout: Some(idle_timeout), ..spinning() };
    let Some(server) = start_with(&SUBJECT, Echo, limited) else { return };
    let start = Instant::now();
    let mut silent = server.connect();
    silent.expect_end();
    assert!(start.elapsed() >= idle_timeout, "after {:?}", start.elapsed());
    drop(silent);
    let stats = server.stop();
    assert_eq!(stats.closed.count(Cause::Idle), 1, "{stats:?}");
}
