//! A server gives all of its descriptors back by the time that `Server::join` returns.

mod common;

#[path = "conformance/harness.rs"]
mod harness;

use std::fs;

use lockstep_backends::blocking::Blocking;
use lockstep_backends::io_uring::IoUring;
use lockstep_backends::mio::Mio;
use lockstep_backends::{Backend, Options};
use lockstep_core::Echo;

use common::client::Client;
use harness::{Subject, options, start_with};

const SERVERS: usize = 30;

/// Connections of a server that are open when it drains: their closes are the last that it does.
const CONNECTIONS: usize = 40;

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// One test, so that nothing else opens descriptors in this process.
#[test]
fn descriptors_are_back_after_join() {
    for backend in [&Blocking as &'static dyn Backend, &Mio, &IoUring::DEFAULT] {
        let subject = Subject::of(backend);
        let mut before = None;
        for _ in 0..=SERVERS {
            let metrics = Some("127.0.0.1:0".parse().unwrap());
            let with_metrics = Options { metrics, ..options(&subject) };
            let Some(server) = start_with(&subject, Echo, with_metrics) else { break };
            let mut clients = server.connect_many(CONNECTIONS);
            for client in &mut clients {
                client.exchange(b"request");
            }
            assert!(server.metrics().samples()["process_open_fds"] > CONNECTIONS as f64);
            server.drain();
            clients.iter_mut().for_each(Client::expect_end);
            drop(clients);
            server.join();
            // The first server also opens what the process keeps.
            before.get_or_insert_with(open_descriptors);
        }
        if let Some(before) = before {
            assert_eq!(open_descriptors(), before, "{}, {SERVERS} servers", backend.name());
        }
    }
}
