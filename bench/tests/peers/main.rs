//! The parts of `lockstep serve` that a comparison needs, tested with the reference servers.

mod exchange;
mod harness;

use std::fs;
use std::io::{ErrorKind, Write};
use std::time::Duration;

use lockstep_sys::cpus;

use harness::PEERS;
use lockstep_bench::{Clients, Load};

#[test]
fn ready_line_is_that_of_lockstep_serve() {
    for peer in &PEERS {
        let server = peer.start_with(&["--listen", "127.0.0.1:0", "--backlog", "64"]);
        let shards = match peer.is_sharded {
            true => cpus::allowed().unwrap().len(),
            false => 1,
        };
        let (name, pid) = (peer.name, server.pid());
        let rest = format!(" backend={name} shards={shards} backlog=64 pid={pid}\n");
        assert!(server.line.ends_with(&rest), "{}", server.line);
        server.finish();
    }
}

#[test]
fn peers_end_with_open_connections_and_restart_on_the_same_port() {
    for peer in &PEERS {
        let mut listen = "127.0.0.1:0".to_owned();
        for _ in 0..2 {
            let server = peer.start_with(&["--listen", &listen]);
            listen = server.addr().to_string();
            let _idle = server.connect();
            // This client sends without receiving, until both sides are blocked.
            let mut stuck = server.connect();
            stuck.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let error = loop {
                if let Err(error) = stuck.write_all(&[1; 1 << 16]) {
                    break error.kind();
                }
            };
            assert_eq!(error, ErrorKind::WouldBlock, "{}", peer.name);
            server.finish();
        }
    }
}

#[test]
fn pin_applies_to_every_thread() {
    for peer in &PEERS {
        let server = peer.start_with(&["--listen", "127.0.0.1:0", "--pin", "0-0"]);
        assert!(!peer.is_sharded || server.line.contains(" shards=1 "), "{}", server.line);
        let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        for thread in threads {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert!(status.contains("Cpus_allowed_list:\t0\n"), "{}: {status}", peer.name);
        }
        server.finish();
    }
}

#[test]
fn workers_sets_the_number_of_threads() {
    for peer in PEERS.iter().filter(|peer| peer.has_workers) {
        let threads = |workers| {
            let arguments = ["--listen", "127.0.0.1:0", "--workers", workers];
            let server = peer.start_with(&arguments);
            // Connections start no further thread.
            let mut clients = Clients::connect(server.addr(), 20, 64);
            clients.exchange();
            let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count();
            clients.finish();
            server.finish();
            threads
        };
        assert_eq!(threads("3"), threads("1") + 2, "{}", peer.name);
    }
}

#[test]
fn errors_are_one_line_with_the_exit_code_of_lockstep_serve() {
    for peer in &PEERS {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let output = peer.run(&["--listen", &addr], None);
        assert_eq!(output.status.code(), Some(4), "{}", peer.name);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with(&format!("error: cannot listen on {addr}: ")), "{error}");
        assert_eq!(error.lines().count(), 1);

        for wrong in ["", "1-0", "x", "0,", "5000"] {
            let output = peer.run(&["--pin", wrong], None);
            assert_eq!(output.status.code(), Some(2), "{}: {wrong:?}", peer.name);
        }
    }
}

#[test]
fn peers_without_io_uring_are_unavailable_and_never_listen() {
    for peer in PEERS.iter().filter(|peer| peer.needs_io_uring) {
        // Standard input, output and error, and two for signals: no descriptor is left.
        let output = peer.run(&["--listen", "127.0.0.1:0"], Some(5));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.starts_with(&format!("error: {} cannot run here: ", peer.name)), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!(output.stdout, b"", "no ready line");
    }
}
