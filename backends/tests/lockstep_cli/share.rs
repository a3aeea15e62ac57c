//! Several servers on one port, on every backend.

use crate::common::child::Served;
use crate::common::client::Client;
use crate::common::kernel;
use crate::harness::{assert_complains, run};

on_every_backend! {
    reuse_port_spreads_over_two_servers
    reuse_port_needs_both_servers
    reuse_port_server_outlives_the_other
}

/// Enough that chance leaves neither server without a connection.
const CLIENTS: usize = 64;

/// Two servers on one port of the kernel's choice.
fn two(backend: &str) -> [Served; 2] {
    let first = Served::start(backend, ["--reuse-port", "--shards", "1"]);
    let listen = first.addr.to_string();
    let second = ["--reuse-port", "--shards", "2", "--listen", &listen];
    let second = Served::start(backend, second);
    assert_eq!(first.addr, second.addr);
    [first, second]
}

fn reuse_port_spreads_over_two_servers(backend: &str) {
    let servers = two(backend);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| servers[0].connect()).collect();
    clients.iter_mut().for_each(|client| client.exchange(b"whoever you are"));
    let addr = servers[0].addr;
    drop(clients);
    kernel::until_closed(addr);
    let stats = servers.map(Served::stop);
    for key in ["accepted", "exchanges"] {
        let counts = stats.each_ref().map(|stats| stats[key].as_u64().unwrap());
        assert_eq!(counts[0] + counts[1], CLIENTS as u64, "{key}: {counts:?}");
        assert!(counts[0] > 0 && counts[1] > 0, "{key}: {counts:?}");
    }
}

fn reuse_port_needs_both_servers(backend: &str) {
    for (shards, first, second) in [
        ("1", &["--reuse-port"][..], &[][..]),
        ("2", &["--reuse-port"], &[]),
        ("1", &[], &["--reuse-port"]),
    ] {
        let server = Served::start(backend, [&["--shards", shards], first].concat());
        let listen = server.addr.to_string();
        let args = ["serve", "--backend", backend, "--shards", shards, "--listen", &listen];
        let ended = run([&args, second].concat());
        assert_complains(&ended, 4, &[&listen, "(EADDRINUSE)"]);
        let hinted = ended.stderr[1].contains("--reuse-port");
        assert_eq!(hinted, !second.is_empty(), "{ended:?}");
        server.connect().exchange(b"the first server goes on");
        server.stop();
    }
}

fn reuse_port_server_outlives_the_other(backend: &str) {
    let [first, second] = two(backend);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| first.connect()).collect();
    clients.iter_mut().for_each(|client| client.exchange(b"both are there"));

    let stats = first.stop();
    let (ended, mut open): (Vec<_>, Vec<_>) = clients.into_iter().partition(Client::is_readable);
    assert_eq!(stats["closed"]["drain"], ended.len(), "{stats}");
    for mut client in ended {
        client.expect_end();
    }
    open.extend((0..CLIENTS).map(|_| second.connect()));
    open.iter_mut().for_each(|client| client.exchange(b"one is left"));
    let served = open.len();
    drop(open);
    kernel::until_closed(second.addr);
    assert_eq!(second.stop()["accepted"], served);
}
