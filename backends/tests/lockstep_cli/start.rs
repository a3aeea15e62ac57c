//! Starting, on every backend: the readiness line, taken ports, and restarts.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use rustix::process::Signal;

use crate::common::child::{Process, Served, lockstep};
use crate::common::kernel::listen_queues;
use crate::common::{client::Client, skip};
use crate::harness::{assert_complains, run};

on_every_backend! {
    readiness_line_names_address_backend_shards_backlog_pid
    defaults_are_the_documented_ones
    taken_port_is_an_error_in_one_line
    stopped_server_can_be_restarted_immediately
    killed_server_can_be_restarted_immediately
}

fn readiness_line_names_address_backend_shards_backlog_pid(backend: &str) {
    let args = ["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--backlog", "77"];
    let mut command = lockstep(args);
    command.args(["--backend", backend]);
    let process = Process::start(command);
    let line = process.stdout.next().expect("a readiness line");

    let addr = field(&line, "addr=").parse::<SocketAddr>().unwrap();
    let pid = process.id();
    let expected = format!("listening addr={addr} backend={backend} shards=2 backlog=77 pid={pid}");
    assert_eq!(line, expected);
    assert_ne!(addr.port(), 0);
    assert_eq!(listen_queues(addr).len(), 2, "a listener for each shard");
    Client::connect(addr).exchange(b"hello!");

    process.signal(Signal::TERM);
    assert_eq!(process.wait().stdout, [""; 0], "the readiness line is all there is");
}

fn defaults_are_the_documented_ones(backend: &str) {
    let process = Process::start(lockstep(["serve", "--listen=127.0.0.1:0", "--backend", backend]));
    let line = process.stdout.next().expect("a readiness line");
    let cpus = match backend {
        "blocking" => 1,
        _ => lockstep_sys::cpus::allowed().unwrap().len(),
    };
    assert_eq!(field(&line, "shards="), cpus.to_string());
    assert_eq!(field(&line, "backlog="), "1024");
}

fn taken_port_is_an_error_in_one_line(backend: &str) {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    for shards in ["1", "2"] {
        let server = Served::start(backend, ["--shards", shards]);
        for taken in [server.addr, stranger.local_addr().unwrap()] {
            let listen = taken.to_string();
            let ended =
                run(["serve", "--backend", backend, "--shards", shards, "--listen", &listen]);
            assert_complains(&ended, 4, &[&listen, "(EADDRINUSE)"]);
        }
        server.connect().exchange(b"the first server goes on");
        server.stop();
    }
}

/// The connections are in TIME_WAIT, since the server closed first.
fn stopped_server_can_be_restarted_immediately(backend: &str) {
    start_again_and_again(backend, |server, mut clients| {
        server.process.signal(Signal::TERM);
        clients.iter_mut().for_each(Client::expect_end);
        drop(clients);
        assert_eq!(server.process.wait().status.code(), Some(0));
    });
}

/// The kernel closes connections and listener: those of a ring some time after the process has
/// ended.
fn killed_server_can_be_restarted_immediately(backend: &str) {
    start_again_and_again(backend, |server, clients| {
        server.process.signal(Signal::KILL);
        assert_eq!(server.process.wait().status.code(), None);
        drop(clients);
    });
}

/// Starts servers on one port in sequence.
fn start_again_and_again(backend: &str, end: impl Fn(Served, Vec<Client>)) {
    for shards in ["1", "2"] {
        let mut server = Served::start(backend, ["--shards", shards]);
        let listen = server.addr.to_string();
        for _ in 0..5 {
            let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
            for client in &mut clients {
                client.exchange(b"hello!");
            }
            end(server, clients);
            server = Served::start(backend, ["--shards", shards, "--listen", &listen]);
            assert_eq!(server.addr.to_string(), listen);
        }
        server.connect().exchange(b"hello again");
        server.stop();
    }
}

#[test]
fn listen_takes_names_and_ipv6_addresses() {
    let server = Served::start("mio", ["--listen", "localhost:0"]);
    assert!(server.addr.ip().is_loopback());
    server.connect().exchange(b"hello!");
    server.stop();

    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        return skip("ipv6", error);
    }
    let server = Served::start("mio", ["--listen", "[::1]:0", "--shards", "2"]);
    assert!(server.addr.is_ipv6());
    server.connect().exchange(b"hello!");
    server.stop();
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|field| field.strip_prefix(name));
    found.unwrap_or_else(|| panic!("{line:?} has no {name}"))
}
