//! Exchanges: one send for each receive, however the bytes are cut into pieces.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use lockstep_core::Cause;
use lockstep_core::{Echo, Hi};
use socket2::SockRef;

use super::SUBJECT;
use crate::common::client::Client;
use crate::common::{kernel, noise, skip};
use crate::harness::{options, start, start_at, start_with};

#[test]
fn request_gets_its_reply() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut client = server.connect();
    client.exchange(b"hello!");
    drop(client);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.exchanges), (1, 1));
    assert_eq!((stats.bytes_received, stats.bytes_sent, stats.sends_short), (6, 6, 0));
    assert_eq!((stats.closed.count(Cause::Eof), stats.connections_peak), (1, 1));
}

#[test]
fn every_request_of_every_length_gets_its_reply() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut client = server.connect();
    let mut total = 0;
    for round in 0..1000 {
        let request = noise(round, 1 + (round as usize * 7) % 1024);
        client.exchange(&request);
        total += request.len() as u64;
    }
    drop(client);
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.bytes_received, stats.bytes_sent), (1000, total, total));
}

#[test]
fn connections_do_not_mix() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut clients = server.connect_many(64);
    for round in 0..20 {
        let request = |client: usize| noise((round * 64 + client) as u64, 1 + client * 16);
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&request(number));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let request = request(number);
            assert!(client.receive(request.len()) == request, "client {number}, round {round}");
        }
    }
    drop(clients);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.exchanges, stats.connections_peak), (64, 64 * 20, 64));
}

#[test]
fn longest_request_is_one_exchange() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    server.connect().exchange(&noise(1, 1024));
    assert_eq!(server.stop().exchanges, 1);
}

#[test]
fn longest_request_plus_one_byte_is_two_exchanges() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    server.connect().exchange(&noise(1, 1025));
    assert_eq!(server.stop().exchanges, 2);
}

#[test]
fn single_bytes_come_back_in_order() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut clients = server.connect_many(8);
    let bytes = noise(1, 300);
    for byte in &bytes {
        for client in &mut clients {
            client.send(&[*byte]);
        }
    }
    for client in &mut clients {
        assert!(client.receive(bytes.len()) == bytes);
    }
    drop(clients);
    assert_eq!(server.stop().bytes_sent, 8 * 300);
}

#[test]
fn pipelined_requests_come_back_in_order() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let bytes = noise(1, 8 << 20);
    let mut client = Client::connect_narrow(server.addr);
    thread::scope(|scope| {
        let mut writer = Client { stream: client.stream.try_clone().unwrap() };
        let bytes = &bytes;
        scope.spawn(move || {
            writer.send(bytes);
            writer.finish();
        });
        kernel::until_stuck(server.addr, 1);
        assert!(client.receive_to_end() == *bytes, "the bytes differ");
    });
    drop(client);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.bytes_received, stats.bytes_sent), (8 << 20, 8 << 20));
    assert_eq!(stats.closed.count(Cause::Eof), 1);
    // A send that may wait takes all, so it is never short.
    let waits = SUBJECT.backend.thread_per_connection();
    assert_eq!(stats.sends_short > 0, !waits, "short sends where the peer reads late: {stats:?}");
}

#[test]
fn half_close_still_gets_the_reply() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    for round in 0..1000 {
        let request = noise(round, 64);
        let mut client = server.connect();
        match round % 2 {
            0 => client.send_and_finish(&request),
            _ => {
                client.send(&request);
                client.finish();
            }
        }
        assert!(client.receive_to_end() == request, "round {round}");
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Eof)), (1000, 1000), "{stats:?}");
}

#[test]
fn half_close_still_gets_all_replies() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    for round in 0..50 {
        let requests = noise(round, 20_000);
        let mut client = server.connect();
        client.send_and_finish(&requests);
        assert!(client.receive_to_end() == requests, "round {round}");
    }
    kernel::until_closed(server.addr);
    assert_eq!(server.stop().closed.count(Cause::Eof), 50);
}

/// A receive ends before the byte sent as urgent data (tcp(7)), although more is in the socket: a
/// short receive does not always mean that the socket is empty.
#[test]
fn urgent_data_does_not_block_the_stream() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    for round in 0..100 {
        let mut client = server.connect();
        if round % 2 == 0 {
            client.exchange(b"a"); // it is waiting for the next request
        }
        client.send(b"before");
        SockRef::from(&client.stream).send_out_of_band(b"!").unwrap();
        client.send(b"after");
        assert_eq!(client.receive(11), b"beforeafter", "the urgent byte is not in the stream");
    }
    server.stop();
}

#[test]
fn hi_replies_once_and_closes() {
    let Some(server) = start(&SUBJECT, Hi) else { return };
    for request in [&b"hello!"[..], b"h", &noise(1, 1024)] {
        let mut client = server.connect();
        client.send(request);
        assert_eq!(client.receive_to_end(), b"hi");
    }
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Done)), (3, 3));
    assert_eq!(stats.bytes_sent, 6);
}

/// The connection is closed immediately, and the next one has the same descriptor: an operation of
/// one must not reach the other.
#[test]
fn hi_reaches_half_closed_clients() {
    let Some(server) = start(&SUBJECT, Hi) else { return };
    for round in 0..500 {
        let mut client = server.connect();
        client.send_and_finish(b"hello!");
        assert_eq!(client.receive_to_end(), b"hi", "round {round}");
    }
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Done)), (500, 500), "{stats:?}");
}

/// Closing a socket with unread bytes answers with a reset, which can overtake the reply.
#[test]
fn hi_and_fin_survive_unread_bytes() {
    let Some(server) = start(&SUBJECT, Hi) else { return };
    for round in 0..100 {
        let mut client = server.connect();
        client.push(&noise(round, 100 + 300 * round as usize));
        assert_eq!(client.receive_to_end(), b"hi", "round {round}");
    }
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Done)), (100, 100));
}

#[test]
fn hi_closes_after_a_fin_without_a_request() {
    let Some(server) = start(&SUBJECT, Hi) else { return };
    let mut client = server.connect();
    client.finish();
    client.expect_end();
    drop(client);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Eof)), (0, 1));
}

#[test]
fn greedy_client_does_not_starve_others() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            let mut reader = server.connect();
            let mut writer = Client { stream: reader.stream.try_clone().unwrap() };
            let enough = &enough;
            scope.spawn(move || {
                while !enough.load(Relaxed) {
                    writer.send(&[b'x'; 65_536]);
                }
                writer.finish();
            });
            scope.spawn(move || assert!(reader.receive_to_end().iter().all(|byte| *byte == b'x')));
        }
        let mut modest = server.connect();
        for round in 0..100 {
            modest.exchange(&noise(round, 64));
        }
        enough.store(true, Relaxed);
    });
    let stats = server.stop();
    assert_eq!(stats.bytes_received, stats.bytes_sent);
}

#[test]
fn port_zero_becomes_the_real_port() {
    let Some(server) = start_with(&SUBJECT, Echo, options(&SUBJECT)) else { return };
    assert_ne!(server.addr.port(), 0);
    server.connect().exchange(b"x");
    server.stop();
}

#[test]
fn ipv6_is_served() {
    if let Err(error) = std::net::TcpListener::bind("[::1]:0") {
        return skip("ipv6", error);
    }
    let here = "[::1]:0".parse().unwrap();
    let Some(server) = start_at(here, &SUBJECT, Echo, options(&SUBJECT)) else { return };
    assert!(server.addr.is_ipv6());
    server.connect().exchange(b"x");
    server.stop();
}
