//! Draining: every request sent before is answered, and no client can delay the end.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_backends::Options;
use lockstep_core::Cause;
use lockstep_core::Echo;

use super::SUBJECT;
use crate::common::client::Client;
use crate::common::{kernel, noise};
use crate::harness::{options, options_of, start, start_with};

/// Longest wait of a server for the client's FIN after its last reply.
const LINGER: Duration = Duration::from_secs(1);

#[test]
fn drain_closes_waiting_connections() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut clients = server.connect_many(16);
    for client in &mut clients[..8] {
        client.exchange(b"x");
    }
    server.drain();
    for client in &mut clients {
        client.expect_end();
    }
    drop(clients);
    let stats = server.join();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Drain)), (16, 16), "{stats:?}");
    assert_eq!((stats.exchanges, stats.drain_cut), (8, 0));
}

#[test]
fn drain_ends_every_shard() {
    let Some(server) = start_with(&SUBJECT, Echo, options_of(&SUBJECT, 2)) else { return };
    let mut clients = server.connect_many(32);
    clients.iter_mut().for_each(|client| client.exchange(b"x"));
    server.drain();
    clients.iter_mut().for_each(Client::expect_end);
    drop(clients);
    let stats = server.join();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Drain)), (32, 32), "{stats:?}");
    assert_eq!(stats.drain_cut, 0);
}

#[test]
fn drain_answers_requests_sent_before() {
    for round in 0..5 {
        let Some(server) = start(&SUBJECT, Echo) else { return };
        let mut clients = server.connect_many(64);
        for client in &mut clients {
            client.exchange(b"x");
        }
        let request = |client: u64| noise(round * 64 + client, 1024);
        for (client, number) in clients.iter_mut().zip(0..) {
            client.send(&request(number));
        }
        server.drain();
        for (client, number) in clients.iter_mut().zip(0..) {
            assert!(client.receive_to_end() == request(number), "client {number}, round {round}");
        }
        drop(clients);
        let stats = server.join();
        assert_eq!((stats.exchanges, stats.closed.count(Cause::Drain)), (128, 64), "{stats:?}");
        assert_eq!(stats.drain_cut, 0);
    }
}

/// They are connected, and the server has not accepted them.
#[test]
fn drain_serves_the_listen_queue() {
    let one = Options { conns_max: 1, backlog: 64, ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, one) else { return };
    let mut first = server.connect();
    first.exchange(b"x");
    let mut asking = server.connect_many(16);
    let mut silent = server.connect_many(16);
    for (client, number) in asking.iter_mut().zip(0..) {
        client.send(&noise(number, 100));
    }
    server.drain();
    first.expect_end();
    drop(first);
    for (mut client, number) in asking.into_iter().zip(0..) {
        assert!(client.receive_to_end() == noise(number, 100), "client {number}");
    }
    for client in &mut silent {
        client.expect_end();
    }
    drop(silent);
    let stats = server.join();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Drain)), (33, 33), "{stats:?}");
    assert_eq!((stats.exchanges, stats.drain_cut), (17, 0), "{stats:?}");
}

#[test]
fn drain_under_load_sends_whole_replies_and_a_fin() {
    const CLIENTS: u64 = 8;
    for round in 0..5 {
        let Some(server) = start(&SUBJECT, Echo) else { return };
        let (ready, exchanges) = (Barrier::new(CLIENTS as usize + 1), AtomicU64::new(0));
        thread::scope(|scope| {
            let (ready, exchanges) = (&ready, &exchanges);
            for number in 0..CLIENTS {
                let mut client = server.connect();
                scope.spawn(move || {
                    client.exchange(b"x");
                    ready.wait();
                    exchanges.fetch_add(1 + exchange_to_the_end(client, number), Relaxed);
                });
            }
            ready.wait();
            thread::sleep(Duration::from_millis(5 + round * 7));
            server.drain();
        });
        let stats = server.join();
        assert_eq!(stats.exchanges, exchanges.into_inner(), "replies sent and replies heard");
        assert_eq!(stats.closed.count(Cause::Drain), CLIENTS, "{stats:?}");
        assert_eq!((stats.drain_cut, stats.bytes_sent), (0, stats.bytes_received), "{stats:?}");
    }
}

/// Exchanges until the server closes; returns the number of replies, each of which must be whole.
fn exchange_to_the_end(mut client: Client, number: u64) -> u64 {
    for round in 0.. {
        let request = noise(round, 1 + (number * 131 + round * 17) as usize % 1024);
        let asked = Instant::now();
        let sent = client.stream.write_all(&request);
        let mut reply = vec![0; request.len()];
        let mut heard = 0;
        while heard < reply.len() {
            match client.stream.read(&mut reply[heard..]) {
                Ok(0) => {
                    assert_eq!(heard, 0, "a part of a reply");
                    return round;
                }
                Ok(count) => heard += count,
                // The server need not wait any longer for a client that is held up.
                Err(_) if asked.elapsed() >= LINGER && heard == 0 => return round,
                Err(error) => panic!("{error} after {heard} bytes; sending: {sent:?}"),
            }
        }
        assert!(reply == request, "the reply differs");
    }
    unreachable!()
}

#[test]
fn drain_sends_the_reply_owed_to_a_slow_reader() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let bytes = noise(1, 1 << 20);
    let mut slow = Client::connect_narrow(server.addr);
    slow.push(&bytes);
    kernel::until_stuck(server.addr, 1);
    server.drain();
    thread::sleep(Duration::from_millis(50)); // most likely it knows by now
    let heard = slow.receive_to_end();
    assert!(bytes.starts_with(&heard), "the bytes differ");
    drop(slow);
    let stats = server.join();
    assert_eq!(heard.len() as u64, stats.bytes_sent, "all that was sent was heard: {stats:?}");
    assert_eq!(stats.bytes_sent, stats.bytes_received, "the last reply was whole: {stats:?}");
    assert_eq!((stats.closed.count(Cause::Drain), stats.drain_cut), (1, 0), "{stats:?}");
}

#[test]
fn drain_timeout_cuts_clients_that_never_read() {
    let drain_timeout = Duration::from_millis(300);
    let short = Options { drain_timeout, ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, short) else { return };
    let mut deaf: Vec<_> = (0..3).map(|_| Client::connect_narrow(server.addr)).collect();
    for client in &mut deaf {
        client.push(&noise(1, 1 << 20));
    }
    kernel::until_stuck(server.addr, 3);
    let start = Instant::now();
    server.drain();
    let stats = server.join();
    assert!(start.elapsed() >= drain_timeout, "after {:?}", start.elapsed());
    assert_eq!(stats.closed.count(Cause::Drain), 3, "{stats:?}");
    // A reply is tried once more when the drain begins, and what the socket had not taken of it may
    // fit by then, since the kernel wakes a sender only for a good deal of room. Then the
    // conversation has ended with a whole reply, and only the peer's end is not awaited.
    assert_eq!(stats.drain_cut > 0, stats.bytes_sent < stats.bytes_received, "{stats:?}");
    assert!(stats.drain_cut <= 3, "{stats:?}");
}

/// It ends well before the drain timeout: every reply has been sent.
#[test]
fn drain_does_not_wait_for_clients_that_never_close() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut clients = server.connect_many(8);
    for client in &mut clients[..4] {
        client.exchange(b"x");
    }
    server.drain();
    let start = Instant::now();
    for client in &mut clients {
        client.expect_end();
    }
    let stats = server.join();
    assert!(start.elapsed() < LINGER * 10, "after {:?}", start.elapsed());
    assert_eq!((stats.closed.count(Cause::Drain), stats.drain_cut), (8, 0), "{stats:?}");
}

/// The same with clients that keep sending.
#[test]
fn drain_does_not_wait_for_clients_that_never_stop_sending() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let mut clients = server.connect_many(2);
    thread::scope(|scope| {
        for client in &mut clients {
            client.exchange(b"x");
            let mut writer = Client { stream: client.stream.try_clone().unwrap() };
            scope.spawn(move || {
                // Until the server has had enough, which breaks the connection.
                while writer.stream.write_all(&[0; 100]).is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let mut reader = Client { stream: client.stream.try_clone().unwrap() };
            scope.spawn(move || {
                let mut heard = Vec::new();
                let end = reader.stream.read_to_end(&mut heard);
                assert!(end.is_ok() || end.unwrap_err().kind() == ErrorKind::ConnectionReset);
            });
        }
        thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        server.drain();
        let stats = server.join();
        assert!(start.elapsed() < LINGER * 10, "after {:?}", start.elapsed());
        assert_eq!((stats.closed.count(Cause::Drain), stats.drain_cut), (2, 0), "{stats:?}");
        for client in &clients {
            let _gone = client.stream.shutdown(Shutdown::Both);
        }
    });
}

#[test]
fn drain_without_connections_ends_immediately() {
    let Some(server) = start(&SUBJECT, Echo) else { return };
    let addr = server.addr;
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.connections_peak), (0, 0));
    let refused = std::net::TcpStream::connect(addr).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
