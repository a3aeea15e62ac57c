//! Stopping, on every backend: signals, exit codes and the statistics.

use std::io;
use std::os::unix::process::CommandExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::child::{Served, lockstep, statistics};
use crate::common::client::Client;
use crate::common::kernel::{listen_queues, open_connections};
use crate::common::{noise, until};

on_every_backend! {
    sigterm_sigint_and_sigquit_drain
    second_signal_ends_immediately
    drain_timeout_closes_connections_with_exit_code_5
    statistics_are_one_json_object
    statistics_are_text_without_json
}

fn sigterm_sigint_and_sigquit_drain(backend: &str) {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let server = Served::start(backend, []);
        let mut clients = [(); 3].map(|()| server.connect());
        for client in &mut clients[1..] {
            client.exchange(b"hello!");
        }
        server.process.signal(signal);
        for client in &mut clients {
            client.expect_end();
        }
        drop(clients);
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let stats = statistics(&ended);
        assert_eq!((&stats["accepted"], &stats["closed"]["drain"]), (&json!(3), &json!(3)));
    }
}

/// SIGHUP, when the terminal closes, drains the server unless it was ignored, as by nohup(1).
#[test]
fn sighup_drains_unless_ignored_from_the_start() {
    for (disposition, goes_on) in [(libc::SIG_DFL, false), (libc::SIG_IGN, true)] {
        let mut command = lockstep(["serve", "--json", "--backend=mio", "--listen=127.0.0.1:0"]);
        // SAFETY: no handler is installed.
        let dispose = move || match unsafe { libc::signal(libc::SIGHUP, disposition) } {
            libc::SIG_ERR => Err(io::Error::last_os_error()),
            _ => Ok(()),
        };
        // SAFETY: between fork and exec it only makes a system call.
        unsafe { command.pre_exec(dispose) };
        let server = Served::start_command(command);
        let mut client = server.connect();
        client.exchange(b"hello!");
        server.process.signal(Signal::HUP);
        if goes_on {
            client.exchange(b"still there?");
            drop(client);
            assert_eq!(server.stop()["exchanges"], 2);
        } else {
            client.expect_end();
            drop(client);
            assert_eq!(server.process.wait().status.code(), Some(0));
        }
    }
}

fn second_signal_ends_immediately(backend: &str) {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (server, _clients) = serve_clients_that_never_read(backend, "1h");
        server.process.signal(signal);
        until("the first signal has been taken", || listen_queues(server.addr).is_empty());
        // Two signals of timeout(1) are one.
        server.process.signal(signal);
        thread::sleep(Duration::from_millis(250));
        server.process.signal(signal);
        assert_eq!(server.process.wait().status.code(), Some(code));
    }
}

fn drain_timeout_closes_connections_with_exit_code_5(backend: &str) {
    // So little, lest the kernel make room for the last reply meanwhile.
    let (server, _clients) = serve_clients_that_never_read(backend, "1ms");
    server.process.signal(Signal::TERM);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(5), "{ended:?}");
    assert!(statistics(&ended)["drain_cut"].as_u64() >= Some(1), "{ended:?}");
}

/// A server that waits to send: its clients send, and do not receive.
///
/// There are several, since a last reply may fit after all: the kernel wakes a sender only for a
/// good deal of room, and the drain tries once more.
fn serve_clients_that_never_read(backend: &str, drain_timeout: &str) -> (Served, Vec<Client>) {
    const CLIENTS: usize = 8;
    const A_WHILE: Duration = Duration::from_millis(200);
    let server = Served::start(backend, ["--shards", "1", "--drain-timeout", drain_timeout]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect_narrow(server.addr)).collect();
    let bytes = noise(1, 64 * 1024);
    let (mut before, mut since) = (Vec::new(), Instant::now());
    until("the server is stuck", || {
        let more = clients.iter_mut().map(|client| client.push(&bytes)).sum::<usize>();
        let rows = open_connections(server.addr);
        if more > 0 || rows != before {
            (before, since) = (rows, Instant::now());
        }
        let stuck = before.iter().filter(|socket| socket.rqueue > 0 && socket.wqueue > 0).count();
        stuck > CLIENTS / 2 && since.elapsed() >= A_WHILE
    });
    (server, clients)
}

#[test]
fn json_is_one_object_with_any_options() {
    for args in [
        &["--accept-pause"][..],
        &["--shards=1", "--idle-timeout=1m", "--drain-timeout=1s", "--max-conns=5", "--reuse-port"],
        &["--steer=off", "--accept-delay=1ms", "--listen", "localhost:0"],
        &["--service=chat"],
    ] {
        let mut server = Served::start("auto", args.iter().copied());
        if args == ["--service=chat"] {
            let mut client = server.connect();
            client.send(b"hello");
            server.next_request();
            // The operator is told on standard output that it is too long.
            server.process.type_line(&"x".repeat(2000));
            client.receive(1024);
        }
        server.process.signal(Signal::TERM);
        let ended = server.process.wait();
        assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 1), "{ended:?}");
        statistics(&ended);
    }
}

fn statistics_are_one_json_object(backend: &str) {
    let server = Served::start(backend, ["--shards", "2"]);
    let mut clients = [(); 2].map(|()| server.connect());
    for client in &mut clients {
        client.exchange(b"one");
        client.exchange(b"twelve bytes");
    }
    clients[0].finish();
    clients[0].expect_end();
    server.process.signal(Signal::TERM);
    clients[1].expect_end();
    drop(clients);

    let ended = server.process.wait();
    assert_eq!(ended.stderr.len(), 1, "{ended:?}");
    let mut stats = statistics(&ended);
    let fields = stats.as_object_mut().unwrap();
    let syscalls = fields.remove("syscalls").as_ref().and_then(Value::as_u64).unwrap();
    let ratio = fields.remove("syscalls_per_exchange").as_ref().and_then(Value::as_f64).unwrap();
    assert!(syscalls > 0);
    assert_eq!(ratio, syscalls as f64 / 4.0);
    let spread = fields.remove("accepted_per_shard").expect("how they were spread");
    let spread: Vec<u64> = serde_json::from_value(spread).unwrap();
    assert_eq!((spread.len(), spread.iter().sum()), (2, 2), "{spread:?}");
    assert_eq!(fields.remove("spun_us"), Some(0.into()), "no --spin");
    let buffers_starved = fields.remove("buffers_starved");
    assert!(buffers_starved.is_none_or(|count| count.is_u64()));
    // As deep as it happened to be; overflown, by any server there is.
    for count in ["accept_queue_peak", "listen_overflows", "listen_drops"] {
        assert!(fields.remove(count).is_some_and(|count| count.is_u64()), "{count}");
    }
    let expected = json!({
        "schema": 1,
        "backend": backend,
        "service": "echo",
        "shards": 2,
        "steer": "off",
        "accepted": 2,
        "closed": {"bye": 0, "done": 0, "drain": 1, "eof": 1, "error": 0, "idle": 0},
        "exchanges": 4,
        "bytes_received": 30,
        "bytes_sent": 30,
        "sends_short": 0,
        "accept_errors": {},
        "io_errors": {},
        "connections_peak": 2,
        "accept_queue_limit": 1024,
        "drain_cut": 0,
    });
    assert_eq!(stats, expected);
}

fn statistics_are_text_without_json(backend: &str) {
    let args = ["serve", "--listen", "127.0.0.1:0", "--shards", "1", "--backend", backend];
    let server = Served::start_command(lockstep(args));
    let mut client = server.connect();
    client.exchange(b"hello!");
    client.finish();
    client.expect_end();
    server.process.signal(Signal::TERM);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    // There may be a line about overflows, of whatever server.
    let [head, connections, closed, queue, .., exchanges, calls] = &ended.stderr[..] else {
        panic!("not six lines: {ended:?}")
    };
    assert!(queue.starts_with("accept queue  ") && queue.ends_with(" at most, limit 1024"));
    assert_eq!(head, &format!("{backend} served echo, shards 1"));
    assert_eq!(connections, "connections   1 accepted, 1 open at most");
    assert_eq!(closed, "closed        eof 1");
    assert_eq!(exchanges, "exchanges     1 (6 bytes received, 6 sent, 0 short sends)");
    assert!(calls.starts_with("system calls ") && calls.ends_with(" per exchange"), "{calls}");
}
