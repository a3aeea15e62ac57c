//! Signals, which reach the threads that serve: there are no others.

use std::time::Duration;

use rustix::process::Signal;

use crate::common::child::{Served, statistics};
use crate::common::{PATIENCE, kernel, noise, until};
use crate::harness::on;

on_every_backend! {
    server_has_a_thread_for_each_shard
    signals_do_not_interrupt_exchanges
    simultaneous_signals_end_the_server
}

fn server_has_a_thread_for_each_shard(backend: &str) {
    for (number, shards) in [(1, "1"), (3, "3")] {
        let server = Served::start(backend, ["--shards", shards]);
        let mut client = server.connect();
        client.exchange(b"hello!");
        let expected = match backend {
            "blocking" => 2 * number + 1, // each has an acceptor, and the client a conversation
            _ => number,
        };
        let all_there = || kernel::threads(server.id()).len() == expected;
        until("there are as many threads", all_there);
        for round in 0..100 {
            client.exchange(&noise(round, 1000));
        }
        assert!(all_there(), "{:?}", kernel::threads(server.id()));
        drop(client);
        server.stop();
    }
}

/// Each of them runs while the server serves.
fn signals_do_not_interrupt_exchanges(backend: &str) {
    const SIGNALS: u64 = 1000;
    let server = Served::start(backend, ["--shards", "1"]);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for round in 0..SIGNALS {
        let index = round as usize % clients.len();
        if round % 50 == 0 {
            clients[index] = server.connect();
        }
        let request = noise(round, 1 + round as usize);
        clients[index].send(&request);
        server.process.signal(Signal::USR1);
        assert!(clients[index].receive(request.len()) == request, "the reply differs");
    }
    let clients_ever = clients.len() as u64 + SIGNALS / 50;
    drop(clients);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!(stats["accepted"], clients_ever);
    assert_eq!(stats["closed"]["eof"], clients_ever, "{stats}");
    assert_eq!(stats["io_errors"], serde_json::json!({}));
}

/// Handlers may interrupt each other: the server neither hangs nor dies.
fn simultaneous_signals_end_the_server(backend: &str) {
    for _ in 0..10 {
        let server = Served::start(backend, ["--shards", "2"]);
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| client.exchange(b"hello!"));
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::TERM] {
            server.process.signal(signal);
        }
        drop(clients);
        let ended = server.process.wait();
        match ended.status.code() {
            Some(0) => assert_eq!(statistics(&ended)["accepted"], 4),
            code => assert!(matches!(code, Some(129 | 130 | 143)), "{ended:?}"),
        }
    }
}

/// It would busy-poll for longer than the test.
#[test]
fn signal_ends_a_busy_polling_server() {
    const FOR: Duration = PATIENCE.saturating_mul(60);
    for backend in ["mio", "io-uring"] {
        on(backend, |backend| {
            let spin = format!("--spin={}s", FOR.as_secs());
            let server = Served::start(backend, ["--shards", "1", spin.as_str()]);
            let mut client = server.connect();
            client.exchange(b"hello!");
            let used = || kernel::cpu_time(server.id());
            let before = used();
            until("it polls", || used() > before + Duration::from_millis(50));
            server.process.signal(Signal::TERM);
            client.expect_end();
            drop(client);
            let ended = server.process.wait();
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
            assert!(statistics(&ended)["spun_us"].as_u64() > Some(0));
        });
    }
}
