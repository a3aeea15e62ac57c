//! A server's life: ready, told to stop, ended.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::child::{Process, Served, lockstep, statistics};
use crate::common::client::Client;
use crate::common::kernel;

#[test]
fn the_line_that_says_it_is_ready_is_one_that_scripts_can_read() {
    let command = lockstep("serve --backend mio --listen 127.0.0.1:0 --shards 2".split(' '));
    let process = Process::start(command);
    let line = process.stdout.next().unwrap();
    let fields: Vec<_> = line.split(' ').collect();
    let [listening, addr, backend, shards, backlog, pid] = fields[..] else { panic!("{line:?}") };
    assert_eq!((listening, backend, shards), ("listening", "backend=mio", "shards=2"));
    assert_eq!((backlog, pid), ("backlog=1024", &*format!("pid={}", process.id())));
    let port = addr.strip_prefix("addr=127.0.0.1:").unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0, "the real port");
    process.signal(Signal::TERM);
    assert_eq!(process.wait().stdout, [""; 0], "nothing more");
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Served::start("mio", []);
        let mut clients = [server.connect(), server.connect()];
        clients[0].exchange(b"x");
        server.process.signal(signal);
        clients.iter_mut().for_each(Client::hear_the_end);
        drop(clients);
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{signal:?}: {:?}", ended.stderr);
        assert_eq!(statistics(&ended)["closed"]["drain"], 2);
    }
}

/// Signals are what a person at a terminal has: Ctrl-C right after the start must work as well.
#[test]
fn a_signal_right_after_the_start_is_not_lost() {
    for round in 0..20 {
        let server = Served::start("mio", []);
        thread::sleep(Duration::from_micros(round * 100));
        server.process.signal(Signal::INT);
        assert_eq!(server.process.wait().status.code(), Some(0));
    }
}

#[test]
fn the_statistics_are_one_object_with_the_names_that_scripts_rely_on() {
    let server = Served::start("mio", ["--shards", "1"]);
    let mut client = server.connect();
    client.exchange(b"12345");
    client.exchange(b"123");
    drop(client);
    kernel::until_closed(server.addr);
    server.process.signal(Signal::TERM);
    let ended = server.process.wait();
    assert_eq!(ended.stderr.len(), 1, "one line: {:?}", ended.stderr);
    let stats = statistics(&ended);
    let keys: BTreeSet<&str> = stats.as_object().unwrap().keys().map(String::as_str).collect();
    for key in [
        "accept_errors",
        "accepted",
        "backend",
        "bytes_received",
        "bytes_sent",
        "closed",
        "connections_peak",
        "drain_cut",
        "exchanges",
        "schema",
        "sends_short",
        "shards",
        "syscalls",
        "syscalls_per_exchange",
    ] {
        assert!(keys.contains(key), "no {key}: {stats}");
    }
    let causes: Vec<&str> = stats["closed"].as_object().unwrap().keys().map(|it| &**it).collect();
    assert_eq!(causes, ["bye", "done", "drain", "eof", "error", "idle"]);
    assert_eq!((&stats["schema"], &stats["backend"]), (&1.into(), &"mio".into()));
    assert_eq!((&stats["accepted"], &stats["closed"]["eof"]), (&1.into(), &1.into()));
    assert_eq!((&stats["exchanges"], &stats["connections_peak"]), (&2.into(), &1.into()));
    assert_eq!((&stats["bytes_received"], &stats["bytes_sent"]), (&8.into(), &8.into()));
    let per_exchange = stats["syscalls"].as_f64().unwrap() / 2.0;
    assert_eq!(stats["syscalls_per_exchange"].as_f64(), Some(per_exchange));
}

#[test]
fn without_exchanges_there_is_no_number_of_system_calls_per_exchange() {
    let stats = Served::start("mio", []).stop();
    assert_eq!(stats.get("syscalls_per_exchange"), None, "absent, not 0: {stats}");
}

#[test]
fn the_statistics_are_also_there_for_people() {
    let command = lockstep("serve --backend blocking --listen 127.0.0.1:0".split(' '));
    let server = Served::start_command(command);
    server.connect().exchange(b"12345");
    kernel::until_closed(server.addr);
    server.process.signal(Signal::TERM);
    let ended = server.process.wait();
    let text = ended.stderr.join("\n");
    for part in ["1 accepted", "eof 1", "exchanges", "5 bytes received, 5 sent"] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn auto_says_what_it_chose_and_why() {
    let server = Served::start("auto", []);
    let said = server.process.stderr.next().unwrap();
    server.connect().exchange(b"x");
    server.process.signal(Signal::TERM);
    let stats = statistics(&server.process.wait());
    let chosen = stats["backend"].as_str().unwrap();
    assert!(said.starts_with(&format!("backend auto: {chosen} (")), "{said:?}");
}

/// With its limits left to itself, it serves as many as there are descriptors for, and not one more
/// that would fail.
#[test]
fn the_limit_of_connections_fits_the_limit_of_descriptors() {
    let server = Served::start_limited(100, "mio", &["--shards", "1"]);
    let mut clients: Vec<_> = (0..90).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.say(b"served?");
    }
    for mut client in clients {
        assert_eq!(client.hear(7), b"served?");
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((&stats["accepted"], &stats["exchanges"]), (&90.into(), &90.into()));
    assert_eq!(stats["accept_errors"], serde_json::json!({}));
    assert!(stats["connections_peak"].as_u64() < Some(90), "{stats}");
}

/// Where the tutorial's server prints 'b' and its client gets `hi`.
#[test]
fn the_tutorials_client_gets_its_hi() {
    for backend in ["blocking", "mio", "io-uring"] {
        if !crate::common::child::is_available(backend) {
            continue;
        }
        let server = Served::start(backend, ["--service", "hi"]);
        let mut client = server.connect();
        client.say(b"hello!");
        assert_eq!(client.hear(2), b"hi", "{backend}");
        client.hear_the_end();
        drop(client);
        assert_eq!(server.stop()["closed"]["done"], 1);
    }
}

#[test]
fn a_server_that_nobody_came_to_ends_at_once() {
    let server = Served::start("mio", ["--drain-timeout", "1h"]);
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(20));
}
