//! What an idle connection costs in the server's own memory, on the backends where it has no
//! thread. (What it costs in the kernel's is the same for all.)
//!
//! The server is a process of its own. What counts is `Anonymous` of /proc/PID/smaps_rollup: the
//! pages that belong to it alone, be they heap, stacks or mappings, counted one by one; the faster
//! `RssAnon` of /proc/PID/status may lag behind (proc_pid_status(5)). It is read twice, with a few
//! connections and with many. By then each has had an exchange and waits for the next request,
//! with a deadline: what is kept for the deadline is counted as well. The difference also contains
//! whatever was set aside for more connections to come.

mod common;

use common::child::{Served, is_available};
use common::{kernel, noise};

const CONNECTIONS: u64 = 4000;

/// Bytes for each, at most.
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
