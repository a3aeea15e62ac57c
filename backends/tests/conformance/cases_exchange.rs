//! Every receive is matched by one send, whatever the pieces in which the bytes travel.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use lockstep_core::Cause;
use lockstep_core::{Echo, Hi};
use socket2::SockRef;

use super::SUBJECT;
use crate::common::client::Client;
use crate::common::{kernel, noise, skipped};
use crate::harness::{options, start, start_at, start_with};

#[test]
fn a_request_gets_its_reply() {
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
fn every_request_gets_its_reply() {
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
            client.say(&request(number));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let request = request(number);
            assert!(client.hear(request.len()) == request, "client {number}, round {round}");
        }
    }
    drop(clients);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.exchanges, stats.connections_peak), (64, 64 * 20, 64));
}

#[test]
fn as_much_as_one_receive_takes_is_one_exchange() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    server.connect().exchange(&noise(1, 1024));
    assert_eq!(server.stop().exchanges, 1);
}

#[test]
fn one_byte_more_is_two_exchanges() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    server.connect().exchange(&noise(1, 1025));
    assert_eq!(server.stop().exchanges, 2);
}

#[test]
fn a_byte_at_a_time_comes_back_in_order() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut clients = server.connect_many(8);
    let bytes = noise(1, 300);
    for byte in &bytes {
        for client in &mut clients {
            client.say(&[*byte]);
        }
    }
    for client in &mut clients {
        assert!(client.hear(bytes.len()) == bytes);
    }
    drop(clients);
    assert_eq!(server.stop().bytes_sent, 8 * 300);
}

#[test]
fn pipelined_megabytes_come_back_in_order() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let bytes = noise(1, 8 << 20);
    let mut client = Client::connect_narrow(server.addr);
    thread::scope(|scope| {
        let mut writer = Client { stream: client.stream.try_clone().unwrap() };
        let bytes = &bytes;
        scope.spawn(move || {
            writer.say(bytes);
            writer.finish();
        });
        kernel::until_stuck(server.addr, 1);
        assert!(client.hear_the_rest() == *bytes, "the bytes differ");
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
fn a_half_closed_connection_still_gets_its_reply() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    for round in 0..1000 {
        let request = noise(round, 64);
        let mut client = server.connect();
        match round % 2 {
            0 => client.say_and_finish(&request),
            _ => {
                client.say(&request);
                client.finish();
            }
        }
        assert!(client.hear_the_rest() == request, "round {round}");
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Eof)), (1000, 1000), "{stats:?}");
}

#[test]
fn a_half_closed_connection_gets_all_its_replies() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    for round in 0..50 {
        let requests = noise(round, 20_000);
        let mut client = server.connect();
        client.say_and_finish(&requests);
        assert!(client.hear_the_rest() == requests, "round {round}");
    }
    kernel::until_closed(server.addr);
    assert_eq!(server.stop().closed.count(Cause::Eof), 50);
}

/// A receive stops short of the byte that was sent as urgent data (tcp(7)), although there is
/// more behind it: a short receive does not always mean that nothing is left.
#[test]
fn urgent_data_does_not_hold_up_what_follows() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    for round in 0..100 {
        let mut client = server.connect();
        if round % 2 == 0 {
            client.exchange(b"a"); // it is waiting for the next request
        }
        client.say(b"before");
        SockRef::from(&client.stream).send_out_of_band(b"!").unwrap();
        client.say(b"after");
        assert_eq!(client.hear(11), b"beforeafter", "the urgent byte is not in the stream");
    }
    server.stop();
}

#[test]
fn hi_is_answered_and_then_comes_the_end() {
    let Some(server) = start(&SUBJECT, Hi) else { return };
    for request in [&b"hello!"[..], b"h", &noise(1, 1024)] {
        let mut client = server.connect();
        client.say(request);
        assert_eq!(client.hear_the_rest(), b"hi");
    }
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Done)), (3, 3));
    assert_eq!(stats.bytes_sent, 6);
}

/// Their connection is closed at once, and the next has the same descriptor: nothing that was
/// meant for one may reach the other.
#[test]
fn hi_reaches_everybody_who_has_finished_speaking() {
    let Some(server) = start(&SUBJECT, Hi) else { return };
    for round in 0..500 {
        let mut client = server.connect();
        client.say_and_finish(b"hello!");
        assert_eq!(client.hear_the_rest(), b"hi", "round {round}");
    }
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Done)), (500, 500), "{stats:?}");
}

/// Closing a socket while bytes are unread answers with a reset, which can overtake the reply.
#[test]
fn who_says_too_much_still_hears_hi_and_the_end() {
    let Some(server) = start(&SUBJECT, Hi) else { return };
    for round in 0..100 {
        let mut client = server.connect();
        client.push(&noise(round, 100 + 300 * round as usize));
        assert_eq!(client.hear_the_rest(), b"hi", "round {round}");
    }
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Done)), (100, 100));
}

#[test]
fn who_says_nothing_to_hi_hears_the_end() {
    let Some(server) = start(&SUBJECT, Hi) else { return };
    let mut client = server.connect();
    client.finish();
    client.hear_the_end();
    drop(client);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.exchanges, stats.closed.count(Cause::Eof)), (0, 1));
}

#[test]
fn a_greedy_client_starves_nobody() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            let mut reader = server.connect();
            let mut writer = Client { stream: reader.stream.try_clone().unwrap() };
            let enough = &enough;
            scope.spawn(move || {
                while !enough.load(Relaxed) {
                    writer.say(&[b'x'; 65_536]);
                }
                writer.finish();
            });
            scope.spawn(move || assert!(reader.hear_the_rest().iter().all(|byte| *byte == b'x')));
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
fn the_real_port_is_known_when_the_kernel_chooses_it() {
    let Some(server) = start_with(&SUBJECT, Echo, options(&SUBJECT)) else { return };
    assert_ne!(server.addr.port(), 0);
    server.connect().exchange(b"x");
    server.stop();
}

#[test]
fn ipv6_is_served() {
    if let Err(error) = std::net::TcpListener::bind("[::1]:0") {
        return skipped(&format!("no ::1 here: {error}"));
    }
    let here = "[::1]:0".parse().unwrap();
    let Some(server) = start_at(here, &SUBJECT, Echo, options(&SUBJECT)) else { return };
    assert!(server.addr.is_ipv6());
    server.connect().exchange(b"x");
    server.stop();
}
