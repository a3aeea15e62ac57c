//! Connections that go to the shard on the CPU where their packets are processed: on loopback, the
//! CPU of the client.

use std::thread;

use lockstep_backends::Options;
use lockstep_core::Echo;

use super::SUBJECT;
use crate::common::{kernel, noise, skip};
use crate::harness::{Running, options, start_with};

/// Connects from the CPU, with an exchange on every connection.
fn connect_from(server: &Running, cpu: usize, count: usize) {
    let connect = || {
        lockstep_sys::cpus::pin(&[cpu]).unwrap();
        let mut clients = server.connect_many(count);
        clients.iter_mut().for_each(|client| client.exchange(&noise(cpu as u64, 100)));
    };
    thread::scope(|scope| scope.spawn(connect).join().unwrap());
}

#[test]
fn connections_go_to_the_shard_on_their_cpu() {
    let cpus = lockstep_sys::cpus::allowed().unwrap();
    let [first, second, ..] = cpus[..] else { return skip("two-cpus", "one CPU is allowed") };
    for (from_first, from_second) in [(24, 8), (0, 32), (32, 0)] {
        let Some(server) = start_with(&SUBJECT, Echo, options(&SUBJECT)) else { return };
        connect_from(&server, first, from_first);
        connect_from(&server, second, from_second);
        kernel::until_closed(server.addr);
        let stats = server.stop();
        assert_eq!(stats.accepted_per_shard, [from_first as u64, from_second as u64], "{stats:?}");
        assert_eq!(stats.exchanges, 32, "{stats:?}");
    }
}

#[test]
fn unsteered_connections_are_spread_over_shards() {
    let cpu = lockstep_sys::cpus::allowed().unwrap()[0];
    let spread = Options { steer: false, ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, spread) else { return };
    connect_from(&server, cpu, 64);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!(stats.accepted_per_shard.iter().sum::<u64>(), 64, "{stats:?}");
    assert!(stats.accepted_per_shard.iter().all(|count| *count > 0), "{stats:?}");
}

/// If no shard is on the CPU, the kernel spreads connections as if they were not steered.
#[test]
fn connections_from_other_cpus_are_served() {
    let cpus = lockstep_sys::cpus::allowed().unwrap();
    let [first, second, ..] = cpus[..] else { return skip("two-cpus", "one CPU is allowed") };
    let elsewhere = Options { pin: vec![first], ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, elsewhere) else { return };
    connect_from(&server, second, 64);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!(stats.accepted_per_shard.iter().sum::<u64>(), 64, "{stats:?}");
    assert!(stats.accepted_per_shard.iter().all(|count| *count > 0), "{stats:?}");
}
