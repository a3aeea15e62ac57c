//! Metrics of a running server (`--metrics`).

use std::fs;
use std::io::Write;
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::child::{Process, Served, lockstep};
use crate::common::client::Client;
use crate::common::kernel::{descriptors, listen_queues, until_stuck};
use crate::common::metrics::{Metrics, receive, send};
use crate::common::{PATIENCE, noise, skip, until};
use crate::harness::{assert_complains, run};

on_every_backend! {
    counts_are_exact_while_the_server_runs
    no_count_falls_while_connections_come_and_go
    readiness_ends_when_the_drain_begins_and_metrics_last_until_the_end
}

/// A server with metrics.
struct Measured {
    server: Served,
    metrics: Metrics,
}

impl Measured {
    fn start(backend: &str, args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", backend, args)
    }

    fn start_at(metrics: &str, backend: &str, args: &[&str]) -> Self {
        let mut command = lockstep(["serve", "--json", "--listen=127.0.0.1:0"]);
        command.args(["--metrics", metrics, "--backend", backend]).args(args);
        let process = Process::start(command);
        let line = process.stdout.next().expect("a readiness line");
        let last = line.rsplit(' ').next().and_then(|field| field.strip_prefix("metrics="));
        let metrics = Metrics(last.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap());
        let addr = line.split(' ').find_map(|field| field.strip_prefix("addr="));
        Self { server: Served { process, addr: addr.unwrap().parse().unwrap() }, metrics }
    }
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
    server.metrics.until(&[
        ("lockstep_connections", 10.0),
        ("lockstep_exchanges_total", 1000.0),
        ("lockstep_received_bytes_total", 9000.0),
        ("lockstep_sent_bytes_total", 9000.0),
        ("lockstep_accepted_total", 20.0),
        ("lockstep_closed_total{cause=\"eof\"}", 10.0),
        ("lockstep_closed_total{cause=\"drain\"}", 0.0),
        ("lockstep_accept_queue", 0.0),
        ("lockstep_accept_queue_limit", 2048.0),
        ("lockstep_shards", 2.0),
    ]);
    assert!(server.metrics.samples()["process_cpu_seconds_total"] > 0.0);
    drop(clients);
    until("all are closed", || server.metrics.closed() == 20.0);
    let syscalls = server.metrics.samples()["lockstep_syscalls_total"];
    let stats = server.server.stop();
    assert_eq!((&stats["exchanges"], &stats["accepted"]), (&1000.into(), &20.into()));
    assert!(stats["syscalls"].as_f64() >= Some(syscalls));
}

fn no_count_falls_while_connections_come_and_go(backend: &str) {
    const ROUNDS: usize = 30;
    const CLIENTS: usize = 10;
    let server = Measured::start(backend, &[]);
    let (metrics, ended) = (server.metrics, AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = metrics.samples();
            while !ended.load(Relaxed) {
                let next = metrics.samples();
                for (name, value) in last.iter().filter(|(name, _)| name.contains("_total")) {
                    assert!(next[name] >= *value, "{name} has fallen from {value} to {next:?}");
                }
                last = next;
            }
        });
        for round in 0..ROUNDS {
            let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.server.connect()).collect();
            clients.iter_mut().for_each(|client| client.exchange(b"request"));
            match round % 3 {
                0 => clients.into_iter().for_each(Client::reset),
                1 => drop(clients),
                _ => clients.iter_mut().for_each(Client::finish),
            }
        }
        ended.store(true, Relaxed);
        reader.join().unwrap();
    });
    until("all are closed", || server.metrics.closed() == (ROUNDS * CLIENTS) as f64);
    server.metrics.until(&[
        ("lockstep_connections", 0.0),
        ("lockstep_exchanges_total", (ROUNDS * CLIENTS) as f64),
        ("lockstep_accepted_total", (ROUNDS * CLIENTS) as f64),
    ]);
    server.server.stop();
}

fn readiness_ends_when_the_drain_begins_and_metrics_last_until_the_end(backend: &str) {
    let server = Measured::start(backend, &["--shards=1", "--drain-timeout=1h"]);
    let (head, body) = server.metrics.get("/readyz");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "ready\n", "{head}\n{body}");
    // Clients that do not read keep the server from ending.
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect_narrow(server.server.addr)).collect();
    let bytes = noise(1, 64 * 1024);
    clients.iter_mut().for_each(|client| while client.push(&bytes) > 0 {});
    until_stuck(server.server.addr, clients.len());
    server.server.process.signal(Signal::TERM);
    until("the server drains", || listen_queues(server.server.addr).is_empty());
    let (head, body) = server.metrics.get("/readyz");
    assert!(head.starts_with("HTTP/1.1 503 ") && body == "draining\n", "{head}\n{body}");
    assert!(server.metrics.get("/healthz").0.starts_with("HTTP/1.1 200 OK\r\n"));
    let samples = server.metrics.samples();
    assert!(samples["lockstep_connections"] >= 1.0, "{samples:?}");
    assert_eq!(samples["lockstep_accept_queue_limit"], 0.0, "it does not listen any more");
    drop(clients);
    assert!(server.server.process.wait().status.success());
    assert!(TcpStream::connect(server.metrics.0).is_err(), "the metrics end with the server");
}

#[test]
fn every_request_gets_its_status() {
    let server = Measured::start("mio", &[]);
    for (request, status) in [
        ("GET /metrics HTTP/1.0\r\n\r\n", "200 OK"),
        ("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", "200 OK"),
        ("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK"),
        ("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\n\r\n", "200 OK"),
        ("GET /nothing HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("DELETE /metrics HTTP/1.0\r\n\r\n", "405 Method Not Allowed"),
        ("GET /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET /metrics HTTP/3.0\r\n\r\n", "505 HTTP Version Not Supported"),
        ("\x16\x03\x01\x00\x01", "400 Bad Request"),
        ("GET /metrics HT", "408 Request Timeout"),
        ("", ""),
    ] {
        let expected = if status.is_empty() { String::new() } else { format!("HTTP/1.1 {status}") };
        let mut response = String::new();
        // If this thread is too slow, the connection is closed before the request is sent.
        until(&format!("{request:?} gets {status:?}"), || {
            response = String::from_utf8(send(server.metrics.0, request.as_bytes())).unwrap();
            response.lines().next().unwrap_or_default() == expected
        });
        if let Some((head, body)) = response.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.expect("a length").parse().unwrap();
            let with_body = !request.starts_with("HEAD");
            assert_eq!(body.len(), if with_body { length } else { 0 }, "{request:?}: {response}");
            assert!(head.contains("\r\nConnection: close"), "{head}");
        }
    }
    server.server.stop();
}

/// Each is closed soon, and neither the server nor another client of the metrics notices.
#[test]
fn hostile_clients_of_the_metrics_cost_nothing_else() {
    let server = Measured::start("mio", &["--shards=1"]);
    let mut client = server.server.connect();
    client.exchange(b"before");
    let before = descriptors(server.server.id());
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: ";
    let long = [&request[..], &vec![b'x'; 1 << 20], b"\r\n\r\n"].concat();
    let response = send(server.metrics.0, &long);
    assert!(response.is_empty() || response.starts_with(b"HTTP/1.1 431 "), "{response:?}");
    for seed in 0..200 {
        let bytes = noise(seed, seed as usize * 7);
        let response = send(server.metrics.0, &bytes);
        assert!(response.is_empty() || response.starts_with(b"HTTP/1.1 4"), "seed {seed}");
    }
    let metrics = server.metrics;
    let connect = || TcpStream::connect(metrics.0).unwrap();
    let write_slowly = |mut stream: TcpStream| {
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| write_slowly(connect()));
        scope.spawn(|| {
            let mut after_response = connect();
            after_response.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            write_slowly(after_response);
        });
        scope.spawn(|| {
            let mut endless = connect();
            while endless.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let silent: Vec<_> = (0..500).map(|_| connect()).collect();
        client.exchange(b"meanwhile");
        server.metrics.samples();
        let own_table = own_descriptors(server.server.id());
        assert!(own_table < 100, "{own_table} descriptors of the metrics' thread");
        for stream in silent {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(receive(stream), b"");
        }
    });
    assert_eq!(descriptors(server.server.id()), before, "the clients cost no descriptor");
    client.exchange(b"after");
    drop(client);
    assert_eq!(server.server.stop()["exchanges"], 3);
}

/// Number of descriptors in the table of the thread that serves metrics.
fn own_descriptors(pid: u32) -> usize {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let name = |path: &std::path::Path| fs::read_to_string(path.join("comm")).unwrap_or_default();
    let metrics = threads.map(|thread| thread.path()).find(|path| name(path) == "metrics\n");
    fs::read_dir(metrics.expect("its thread").join("fd")).unwrap().count()
}

#[test]
fn promtool_finds_no_fault() {
    let server = Measured::start("mio", &[]);
    server.server.connect().exchange(b"request");
    let (head, body) = server.metrics.get("/metrics");
    let build = format!("{{version=\"{}\",revision=\"", env!("CARGO_PKG_VERSION"));
    assert!(body.contains(&format!("lockstep_build_info{build}")), "{body}");
    assert!(body.contains("\",backend=\"mio\",service=\"echo\"} 1\n"), "{body}");
    let kind = "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(head.contains(kind), "{head}");
    let command = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    match command {
        Err(error) => skip("prometheus", error),
        Ok(mut promtool) => {
            promtool.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
            assert!(promtool.wait().unwrap().success(), "{body}");
        }
    }
    server.server.stop();
}

/// Prometheus takes its targets from the configuration after five seconds.
#[test]
fn prometheus_scrapes_the_metrics() {
    let server = Measured::start("mio", &[]);
    let folder = std::env::temp_dir().join(format!("lockstep-prometheus-{}", server.server.id()));
    fs::create_dir(&folder).unwrap();
    let target = format!("static_configs: [{{targets: ['{}']}}]", server.metrics.0);
    let config = format!("scrape_configs: [{{job_name: it, scrape_interval: 1s, {target}}}]\n");
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    // Of an address that no other test uses: of another, a connection could take the port.
    let port = TcpListener::bind("127.9.0.1:0").unwrap().local_addr().unwrap();
    let started = Command::new("prometheus")
        .arg(format!("--web.listen-address={port}"))
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .stderr(Stdio::null())
        .spawn();
    match started {
        Err(error) => skip("prometheus", error),
        Ok(mut prometheus) => {
            let query = "GET /api/v1/query?query=lockstep_shards HTTP/1.0\r\n\r\n";
            until("Prometheus has scraped the server", || {
                let Ok(mut stream) = TcpStream::connect(port) else { return false };
                let _not_ready = stream.write_all(query.as_bytes());
                String::from_utf8_lossy(&receive(stream))
                    .contains("\"__name__\":\"lockstep_shards\"")
            });
            prometheus.kill().unwrap();
            prometheus.wait().unwrap();
        }
    }
    fs::remove_dir_all(folder).unwrap();
    server.server.stop();
}

#[test]
fn address_of_the_metrics_is_checked_like_that_of_the_server() {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap().to_string();
    for reuse_port in [&[][..], &["--reuse-port"]] {
        let args = ["serve", "--backend=mio", "--listen=127.0.0.1:0", "--metrics", &taken];
        let ended = run([&args[..], reuse_port].concat());
        assert_complains(&ended, 4, &["cannot serve metrics on", &taken, "(EADDRINUSE)"]);
        // The same address as the server's, which is free.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let args = ["serve", "--backend=mio", "--listen", &free, "--metrics", &free];
        let ended = run([&args[..], reuse_port].concat());
        assert_complains(&ended, 4, &["cannot serve metrics on", &free, "(EADDRINUSE)"]);
        assert!(ended.stderr[1].contains("--listen has that port"), "{ended:?}");
    }
    for (malformed, code) in [("9100", 2), ("localhost", 2), ("nosuchhost.invalid:9100", 4)] {
        let ended = run(["serve", "--backend=mio", "--listen=127.0.0.1:0", "--metrics", malformed]);
        assert_complains(&ended, code, &["cannot serve metrics on", malformed]);
    }
    let server = Measured::start_at("localhost:0", "mio", &["--reuse-port"]);
    assert!(server.metrics.0.ip().is_loopback());
    server.metrics.samples();
    server.server.stop();
    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        return skip("ipv6", error);
    }
    let server = Measured::start_at("[::1]:0", "mio", &[]);
    assert!(server.metrics.0.is_ipv6());
    server.metrics.samples();
    server.server.stop();
}
