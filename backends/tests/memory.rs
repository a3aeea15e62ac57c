//! Memory of the server: of connections, idle or pipelining, for the backends without a thread per
//! connection (in the kernel it is the same for all), and what blocking keeps after a peak.
//!
//! The server is a process of its own. The measure is `Anonymous` of /proc/PID/smaps_rollup:
//! private pages of heap, stacks and mappings, counted one by one; the faster `RssAnon` of
//! /proc/PID/status may lag behind (proc_pid_status(5)).

mod common;

use std::io::Write;

use rustix::process::Signal;

use common::child::{Served, is_available};
use common::client::Client;
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
    const KEPT_MAX: u64 = 10 << 20;
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

/// Each connection has had an exchange and has an idle timeout. The growth includes memory reserved
/// for more connections.
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

/// Most bytes that a shard of io-uring uses for its receive buffers and for queued requests.
const SHARD_MAX: u64 = 9 << 20;

/// Most bytes for each connection, beside those.
const PIPELINING_COST_MAX: u64 = 4096;

/// Memory that an allocator may keep.
const KEPT_MAX: u64 = 1 << 20;

#[test]
fn clients_that_pipeline_after_lockstep_are_cheap_with_mio() {
    clients_that_pipeline_after_lockstep_are_cheap("mio");
}

#[test]
fn clients_that_pipeline_after_lockstep_are_cheap_with_io_uring() {
    clients_that_pipeline_after_lockstep_are_cheap("io-uring");
}

/// Every client has its requests in the server's sockets before the server receives the first of
/// them. A third of them have small buffers and never read.
fn clients_that_pipeline_after_lockstep_are_cheap(backend: &str) {
    if !is_available(backend) {
        return;
    }
    let possible = lockstep_sys::limits::raise_open_files().saturating_sub(100) / 4;
    let connections = 1200.min(possible);
    let server = Served::start(backend, ["--shards", "1", "--max-conns", "10000"]);
    let (mut clients, mut deaf) = (Vec::new(), Vec::new());
    for number in 0..connections {
        match number % 3 {
            0 => deaf.push(Client::connect_narrow(server.addr)),
            _ => clients.push(server.connect()),
        }
    }
    for round in 0..4 {
        for client in clients.iter_mut().chain(&mut deaf) {
            client.exchange(&noise(round, 1000));
        }
    }
    let before = kernel::anonymous_memory(server.id());
    kernel::reset_peak_memory(server.id());
    let peak_before = kernel::peak_memory(server.id());

    server.process.signal(Signal::STOP);
    let bytes = noise(5, 64 << 10);
    let push = |client: &mut Client| {
        client.stream.set_nonblocking(true).unwrap();
        let sent = client.stream.write(&bytes);
        client.stream.set_nonblocking(false).unwrap();
        sent.unwrap_or(0)
    };
    let sent: Vec<_> = clients.iter_mut().map(push).collect();
    let _sent: Vec<_> = deaf.iter_mut().map(push).collect();
    server.process.signal(Signal::CONT);
    for (client, sent) in clients.iter_mut().zip(sent) {
        assert!(client.receive(sent) == bytes[..sent], "the reply differs");
    }
    let grown = kernel::peak_memory(server.id()).saturating_sub(peak_before);
    eprintln!("{backend}: {} KiB for {connections} connections", grown >> 10);
    let most = connections * PIPELINING_COST_MAX + SHARD_MAX;
    assert!(grown <= most, "{grown} bytes for {connections} connections, {most} at most");

    drop(deaf);
    clients.iter_mut().for_each(|client| client.exchange(b"after the peak"));
    until("the memory is given back", || {
        kernel::anonymous_memory(server.id()) <= before + KEPT_MAX
    });
    drop(clients);
    kernel::until_closed(server.addr);
    server.stop();
}
