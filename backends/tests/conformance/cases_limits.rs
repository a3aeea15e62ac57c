//! Limits: idle time, and number of open connections.

use std::thread;
use std::time::{Duration, Instant};

use lockstep_backends::{Options, Stats};
use lockstep_core::Cause;
use lockstep_core::Echo;

use super::SUBJECT;
use crate::common::client::Client;
use crate::common::{kernel, noise, until};
use crate::harness::{options, options_of, start_with};

const IDLE_TIMEOUT: Duration = Duration::from_millis(400);

fn with_idle_timeout() -> Options {
    Options { idle_timeout: Some(IDLE_TIMEOUT), ..options(&SUBJECT) }
}

#[test]
fn idle_timeout_closes_silent_connections() {
    let Some(server) = start_with(&SUBJECT, Echo, with_idle_timeout()) else { return };
    let start = Instant::now();
    let mut silent = server.connect();
    let mut fell_silent = server.connect();
    fell_silent.exchange(b"x");
    for client in [&mut silent, &mut fell_silent] {
        client.expect_end();
        assert!(start.elapsed() >= IDLE_TIMEOUT, "after {:?}", start.elapsed());
    }
    drop((silent, fell_silent));
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Idle)), (2, 2), "{stats:?}");
}

#[test]
fn idle_timeout_spares_active_connections() {
    // A test that is itself held up for too long has been silent: that proves nothing.
    for _ in 0..10 {
        let Some(server) = start_with(&SUBJECT, Echo, with_idle_timeout()) else { return };
        let mut active = server.connect();
        let mut silent = server.connect();
        let start = Instant::now();
        let (mut last, mut longest) = (start, Duration::ZERO);
        while start.elapsed() < IDLE_TIMEOUT * 2 && longest < IDLE_TIMEOUT / 2 {
            active.exchange(&noise(1, 10));
            longest = longest.max(last.elapsed());
            last = Instant::now();
            thread::sleep(IDLE_TIMEOUT / 10);
        }
        longest = longest.max(last.elapsed());
        if longest >= IDLE_TIMEOUT / 2 {
            continue;
        }
        silent.expect_end();
        active.exchange(&noise(1, 10));
        drop((active, silent));
        let stats = server.stop();
        assert_eq!(stats.closed.count(Cause::Idle), 1, "the silent one only: {stats:?}");
        return;
    }
    panic!("this machine is too busy to be on time");
}

#[test]
fn idle_timeout_closes_clients_that_never_read() {
    let Some(server) = start_with(&SUBJECT, Echo, with_idle_timeout()) else { return };
    let mut deaf = Client::connect_narrow(server.addr);
    deaf.push(&noise(1, 1 << 20));
    deaf.wait_for_reset();
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Idle)), (1, 1), "{stats:?}");
}

#[test]
fn connection_limit_is_kept() {
    serve_in_turns(4, 1, 12, Duration::from_millis(50));
}

/// A slot released by one shard can be acquired by the other.
#[test]
fn connection_limit_is_shared_by_shards() {
    serve_in_turns(4, 2, 8, LONGEST_PAUSE);
}

#[test]
fn single_slot_goes_from_shard_to_shard() {
    serve_in_turns(1, 2, 5, LONGEST_PAUSE);
}

#[test]
fn connections_that_leave_the_listen_queue_take_no_slot() {
    let one = Options { conns_max: 1, ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, one) else { return };
    let mut first = server.connect();
    first.exchange(b"first");
    for number in 0..10 {
        let mut client = server.connect();
        client.send(b"never mind");
        if number % 2 == 0 {
            client.reset();
        }
    }
    kernel::until_queued(server.addr);
    let mut last = server.connect();
    last.send(b"last");
    first.exchange(b"still here");
    drop(first);
    assert_eq!(last.receive(4), b"last");
    drop(last);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.connections_peak), (12, 1), "{stats:?}");
}

/// Longer than the interval at which a server tries again to acquire a slot.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Serves more clients than there are slots: as many as there are slots, then when these leave as
/// many others, until all have been served. Each stays for a while.
fn serve_in_turns(places: usize, shards: usize, count: usize, stay: Duration) {
    let few = Options { conns_max: places, ..options_of(&SUBJECT, shards) };
    let Some(server) = start_with(&SUBJECT, Echo, few) else { return };
    let mut waiting = server.connect_many(count);
    for client in &mut waiting {
        client.send(b"served?");
    }
    while !waiting.is_empty() {
        until("every place is taken", || {
            waiting.iter().filter(|client| client.is_readable()).count()
                >= places.min(waiting.len())
        });
        thread::sleep(stay);
        let (served, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|client| client.is_readable());
        assert!(served.len() <= places, "{} served at once", served.len());
        for mut client in served {
            assert_eq!(client.receive(7), b"served?");
        }
        waiting = rest;
    }
    kernel::until_closed(server.addr);
    let stats: Stats = server.stop();
    assert_eq!((stats.accepted, stats.exchanges), (count as u64, count as u64));
    assert_eq!(stats.connections_peak, places as u64);
    assert_eq!(stats.closed.count(Cause::Eof), count as u64, "{stats:?}");
}
