//! Clients that reset, send nothing, or do not read.

use lockstep_core::Cause;
use lockstep_core::Echo;

use super::SUBJECT;
use crate::common::client::Client;
use crate::common::{kernel, noise};
use crate::harness::start;

#[test]
fn reset_ends_only_its_own_connection() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut bystander = server.connect();
    for round in 0..500 {
        let mut client = server.connect();
        match round % 4 {
            0 => {} // before the first request
            1 => client.exchange(&noise(round, 100)),
            2 => client.send(&noise(round, 100)), // with a reply on its way
            _ => {
                client.push(&noise(round, 20_000));
                client.receive(1 + round as usize * 4); // in the middle of the replies
            }
        }
        client.reset();
        bystander.exchange(&noise(round, 10));
    }
    bystander.finish();
    bystander.expect_end();
    drop(bystander);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Error)), (501, 500), "{stats:?}");
    assert_eq!(stats.closed.count(Cause::Eof), 1, "{stats:?}");
    assert_eq!(stats.io_errors.values().sum::<u64>(), 500, "{stats:?}");
}

#[test]
fn silent_connections_are_counted() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    for _ in 0..1000 {
        drop(server.connect());
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Eof)), (1000, 1000), "{stats:?}");
    assert_eq!((stats.exchanges, stats.bytes_received), (0, 0));
}

#[test]
fn client_that_never_reads_does_not_starve_others() {
    clients_that_never_read_do_not_starve_others(1);
}

#[test]
fn many_clients_that_never_read_do_not_starve_others() {
    clients_that_never_read_do_not_starve_others(64);
}

/// They have kept to lockstep before.
#[test]
fn client_that_stops_reading_gets_all_replies_later() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let flood = noise(1, 1 << 20);
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect_narrow(server.addr)).collect();
    for round in 0..3 {
        clients.iter_mut().for_each(|client| client.exchange(&noise(round, 100)));
    }
    let pushed: Vec<_> = clients.iter_mut().map(|client| client.push(&flood)).collect();
    kernel::until_stuck(server.addr, clients.len());
    server.connect().exchange(b"and the others?");
    for (client, pushed) in clients.iter_mut().zip(pushed) {
        assert!(client.receive(pushed) == flood[..pushed], "the bytes differ");
        client.exchange(b"in lockstep again");
    }
    drop(clients);
    let stats = server.stop();
    assert_eq!(stats.bytes_sent, stats.bytes_received, "{stats:?}");
}

/// All are on one shard.
fn clients_that_never_read_do_not_starve_others(count: usize) {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let flood = noise(1, 1 << 20);
    let mut deaf: Vec<_> = (0..count).map(|_| Client::connect_narrow(server.addr)).collect();
    for client in &mut deaf {
        client.push(&flood);
    }
    kernel::until_stuck(server.addr, count);
    let mut client = server.connect();
    for round in 0..200 {
        client.exchange(&noise(round, 1 + round as usize * 5));
    }
    // They have not been forgotten: when they do read, all of it comes.
    for client in &mut deaf {
        assert!(client.receive(5000) == flood[..5000], "the bytes differ");
    }
    drop((client, deaf));
    let stats = server.stop();
    assert_eq!(stats.accepted, count as u64 + 1);
}
