//! Memory of the server: of an idle connection, for the backends without a thread per connection
//! (in the kernel it is the same for all), and what blocking keeps after a peak of connections.
//!
//! The server is a process of its own. The measure is `Anonymous` of /proc/PID/smaps_rollup:
//! private pages of heap, stacks and mappings, counted one by one; the faster `RssAnon` of
//! /proc/PID/status may lag behind (proc_pid_status(5)). It is read with a few connections and with
//! many, each of which has had an exchange and has an idle timeout. The difference includes memory
//! reserved for more connections.

mod common;

use common::child::{Served, is_available};
use common::{kernel, noise, until};

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

/// Stacks that glibc keeps for further threads, of at most 40 MiB of address space: two or three
/// pages of each of 128 KiB. The table of threads and fragments of the heap come to the rest.
#[test]
fn blocking_returns_memory_after_a_peak() {
    const KEPT_MAX: u64 = 6 << 20;
    let server = Served::start("blocking", ["--shards", "1"]);
    server.connect().exchange(b"x");
    let before = kernel::anonymous_memory(server.id());
    let possible = lockstep_sys::limits::raise_open_files().saturating_sub(100) / 4;
    let mut clients: Vec<_> = (0..CONNECTIONS.min(possible)).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.exchange(b"x"));
    drop(clients);
    until("all threads have ended", || kernel::threads(server.id()).len() == 2);
    let kept = kernel::anonymous_memory(server.id()).saturating_sub(before);
    eprintln!("blocking keeps {kept} bytes");
    assert!(kept <= KEPT_MAX, "{kept} bytes kept");
    server.stop();
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
