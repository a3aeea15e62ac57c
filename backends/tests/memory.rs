//! Memory of an idle connection in the server, for the backends without a thread per connection.
//! (In the kernel it is the same for all.)
//!
//! The server is a process of its own. The measure is `Anonymous` of /proc/PID/smaps_rollup:
//! private pages of heap, stacks and mappings, counted one by one; the faster `RssAnon` of
//! /proc/PID/status may lag behind (proc_pid_status(5)). It is read with a few connections and with
//! many, each of which has had an exchange and has an idle timeout. The difference includes memory
//! reserved for more connections.

mod common;

use common::child::{Served, is_available};
use common::{kernel, noise};

const CONNECTIONS: u64 = 4000;

/// Most bytes for each connection.
const COST_MAX: u64 = 128;

#[test]
fn idle_connection_is_cheap_with_mio() {
    idle_connection_is_cheap("mio");
}

#[test]
fn idle_connection_is_cheap_with_io_uring() {
    idle_connection_is_cheap("io-uring");
}

fn idle_connection_is_cheap(backend: &str) {
    if !is_available(backend) {
        return;
    }
    // All tests may run at once, and each needs a descriptor for each connection.
    let possible = lockstep_sys::limits::raise_open_files().saturating_sub(100) / 4;
    let connections = CONNECTIONS.min(possible);
    let server = Served::start(backend, ["--shards", "1", "--idle-timeout", "1h"]);
    let connect = |count| {
        (0..count)
            .map(|number| {
                let mut client = server.connect();
                client.exchange(&noise(number, 1024));
                client
            })
            .collect::<Vec<_>>()
    };
    let few = connect(200.min(connections / 2));
    let before = kernel::anonymous_memory(server.id());
    let many = connect(connections);
    let grown = kernel::anonymous_memory(server.id()).saturating_sub(before);
    eprintln!("{backend}: {} bytes for each of {connections}", grown / connections);
    assert!(
        grown <= connections * COST_MAX,
        "{grown} bytes for {connections} connections: more than {COST_MAX} for each"
    );
    drop((few, many));
    assert_eq!(server.stop()["drain_cut"], 0);
}
