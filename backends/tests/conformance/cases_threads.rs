//! The blocking backend with a fixed number of threads; with one, the tutorial's server.

use lockstep_backends::Options;
use lockstep_core::Cause;
use lockstep_core::{Echo, Hi};

use super::SUBJECT;
use crate::common::{kernel, noise, until};
use crate::harness::{options, start_with};

#[test]
fn single_thread_leaves_others_in_the_listen_queue() {
    let one = Options { threads: Some(1), ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, one) else { return };
    let mut first = server.connect();
    first.exchange(b"first");
    let mut waiting = server.connect_many(3);
    for client in &mut waiting {
        client.send(b"next");
    }
    until("the rest wait in the listen queue", || kernel::listen_queues(server.addr) == [3]);
    for round in 0..100 {
        first.exchange(&noise(round, 100));
    }
    assert!(
        !waiting.iter().any(|client| client.is_readable()),
        "served although it was not its turn"
    );
    drop(first);
    for mut client in waiting {
        assert_eq!(client.receive(4), b"next", "in the order in which they came");
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.connections_peak), (4, 1), "{stats:?}");
    assert_eq!(stats.closed.count(Cause::Eof), 4, "{stats:?}");
}

#[test]
fn single_thread_serves_hi_in_sequence() {
    let one = Options { threads: Some(1), ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Hi, one) else { return };
    let mut clients = server.connect_many(10);
    for client in &mut clients {
        client.send(b"hello!");
    }
    for mut client in clients {
        assert_eq!(client.receive_to_end(), b"hi");
    }
    assert_eq!(server.stop().closed.count(Cause::Done), 10);
}

#[test]
fn single_thread_drains_the_listen_queue() {
    let one = Options { threads: Some(1), ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, one) else { return };
    let mut first = server.connect();
    first.exchange(b"first");
    let mut waiting = server.connect_many(3);
    for client in &mut waiting {
        client.send(b"next");
    }
    server.drain();
    first.expect_end();
    drop(first);
    for mut client in waiting {
        assert_eq!(client.receive_to_end(), b"next");
    }
    let stats = server.join();
    assert_eq!((stats.closed.count(Cause::Drain), stats.drain_cut), (4, 0), "{stats:?}");
}
