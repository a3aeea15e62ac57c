//! The reference servers do what `lockstep serve` does, as far as a comparison needs it.

mod exchange;
mod harness;

use std::fs;
use std::io::{ErrorKind, Write};
use std::time::Duration;

use lockstep_sys::cpus;

use harness::PEERS;

#[test]
fn the_readiness_line_is_that_of_our_own_servers() {
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
fn every_peer_ends_while_connections_are_open_and_starts_again_on_the_same_port() {
    for peer in &PEERS {
        let mut listen = "127.0.0.1:0".to_owned();
        for _ in 0..2 {
            let server = peer.start_with(&["--listen", &listen]);
            listen = server.addr().to_string();
            let _idle = server.connect();
            // One that sends and does not receive, until neither side can go on.
            let mut stuck = server.connect();
            stuck.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let trouble = loop {
                if let Err(trouble) = stuck.write_all(&[1; 1 << 16]) {
                    break trouble.kind();
                }
            };
            assert_eq!(trouble, ErrorKind::WouldBlock, "{}", peer.name);
            server.finish();
        }
    }
}

#[test]
fn every_thread_runs_where_its_process_is_pinned() {
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
fn as_many_workers_serve_as_are_asked_for() {
    for peer in PEERS.iter().filter(|peer| peer.has_workers) {
        let threads = |workers| {
            let arguments = ["--listen", "127.0.0.1:0", "--workers", workers];
            let server = peer.start_with(&arguments);
            // Connections start no thread of their own, and find all that there are.
            let mut clients = lockstep_bench::Clients::connect(server.addr(), 20, 64);
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
fn every_peer_refuses_what_it_cannot_do_in_one_line() {
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
fn a_peer_without_its_ring_is_not_available_and_never_listens() {
    for peer in PEERS.iter().filter(|peer| peer.needs_io_uring) {
        // Standard input, output and error, and the two that carry signals: none is left.
        let output = peer.run(&["--listen", "127.0.0.1:0"], Some(5));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.starts_with(&format!("error: {} cannot run here: ", peer.name)), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!(output.stdout, b"", "it never was ready");
    }
}
