//! Metrics of a running server, on every backend (`--metrics`).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::common::child::{Process, Served, lockstep};
use crate::common::client::Client;
use crate::common::{PATIENCE, until};

on_every_backend! {
    counts_are_exact_while_the_server_runs
}

/// A server with metrics.
struct Measured {
    server: Served,
    metrics: SocketAddr,
}

impl Measured {
    fn start(backend: &str, args: &[&str]) -> Self {
        let mut command = lockstep(["serve", "--json", "--listen=127.0.0.1:0"]);
        command.args(["--metrics=127.0.0.1:0", "--backend", backend]).args(args);
        let process = Process::start(command);
        let line = process.stdout.next().expect("a readiness line");
        let last = line.rsplit(' ').next().and_then(|field| field.strip_prefix("metrics="));
        let metrics = last.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        let addr = line.split(' ').find_map(|field| field.strip_prefix("addr="));
        Self { server: Served { process, addr: addr.unwrap().parse().unwrap() }, metrics }
    }

    fn get(&self, path: &str) -> (String, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.metrics);
        let response = String::from_utf8(send(self.metrics, request.as_bytes())).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_owned(), body.to_owned())
    }

    /// The samples, by name and labels.
    fn samples(&self) -> BTreeMap<String, f64> {
        let (head, body) = self.get("/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let samples = body.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().unwrap())
        });
        samples.collect()
    }
}

/// Sends bytes, and returns what comes until the server closes.
fn send(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    let _ended = stream.shutdown(Shutdown::Both);
    response
}

fn counts_are_exact_while_the_server_runs(backend: &str) {
    let server = Measured::start(backend, &["--shards=2"]);
    let mut clients: Vec<Client> = (0..20).map(|_| server.server.connect()).collect();
    for client in &mut clients {
        (0..50).for_each(|_| client.exchange(b"a request"));
    }
    for mut client in clients.drain(10..) {
        client.finish();
        client.expect_end();
    }
    // The last exchange of an open connection may be counted with the next event of it.
    until("half of the connections are closed", || {
        server.samples()["lockstep_closed_total{cause=\"eof\"}"] == 10.0
    });
    let samples = server.samples();
    let exchanges = samples["lockstep_exchanges_total"];
    assert!((990.0..=1000.0).contains(&exchanges), "{samples:?}");
    assert_eq!(samples["lockstep_received_bytes_total"], 9000.0);
    assert_eq!(samples["lockstep_accepted_total"], 20.0);
    assert_eq!(samples["lockstep_shards"], 2.0);
    for client in &mut clients {
        client.finish();
        client.expect_end();
    }
    drop(clients);
    until("all are closed", || server.samples()["lockstep_connections"] == 0.0);
    let samples = server.samples();
    assert_eq!(samples["lockstep_exchanges_total"], 1000.0);
    assert_eq!(samples["lockstep_sent_bytes_total"], 9000.0);
    let stats = server.server.stop();
    assert_eq!((&stats["exchanges"], &stats["accepted"]), (&1000.into(), &20.into()));
    assert!(stats["syscalls"].as_f64().unwrap() >= samples["lockstep_syscalls_total"]);
}
