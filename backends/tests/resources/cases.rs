//! Rules for one backend.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{BACKEND, MEMORY_PER_DEAF_PEER};
use crate::common::child::{Served, is_available};
use crate::common::client::Client;
use crate::common::{kernel, noise, until};

/// Memory growth that needs no explanation: pages that the allocator keeps.
const SLACK: u64 = 1 << 20;

fn serve(args: &[&str]) -> Option<Served> {
    is_available(BACKEND).then(|| Served::start(BACKEND, args.iter().copied()))
}

/// Suspends every thread of the server.
fn suspend(server: &Served) {
    server.process.signal(Signal::STOP);
    until("it is stopped", || kernel::thread_states(server.id()).iter().all(|state| *state == 'T'));
}

fn resume(server: &Served) {
    server.process.signal(Signal::CONT);
}

#[test]
fn ten_thousand_connections_leak_nothing() {
    let Some(server) = serve(&["--shards", "1"]) else { return };
    // Once it is served, everything that the server needs for itself is there.
    let mut bystander = server.connect();
    bystander.exchange(b"here");
    let idle = kernel::descriptors(server.id());
    let until_idle = || {
        until("every descriptor is closed", || kernel::descriptors(server.id()) == idle);
    };
    let mut bytes = 4;
    let mut churn = |count: usize| {
        for round in 0..count {
            let mut client = server.connect();
            match round % 8 {
                0 => drop(client),
                1 => client.exchange(b"and leave"),
                2..5 => {
                    client.exchange(b"and break off");
                    client.reset();
                }
                _ => {
                    client.send(b"and do not wait");
                    client.reset();
                }
            }
            bytes += [0, 9, 13, 13, 13, 15, 15, 15][round % 8];
        }
        until_idle();
    };
    churn(1000);
    let memory = kernel::anonymous_memory(server.id());
    churn(9000);
    let grown = kernel::anonymous_memory(server.id()).saturating_sub(memory);
    assert!(grown <= SLACK, "{grown} bytes more after 9,000 connections");
    drop(bystander);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!(stats["accepted"], 10_001);
    assert_eq!((&stats["closed"]["eof"], &stats["closed"]["error"]), (&2501.into(), &7500.into()));
    // Some requests were overtaken by the reset that came after them.
    assert!(stats["bytes_received"].as_u64() <= Some(bytes), "{stats}");
}

/// Server and greedy clients share one CPU. With a thread per connection, the one that accepts is
/// one of many.
#[test]
fn thousand_connections_are_served_beside_greedy_clients() {
    const GREEDY: u64 = 16;
    let cpu = lockstep_sys::cpus::allowed().unwrap()[0].to_string();
    let Some(server) = serve(&["--shards", "1", "--pin", &cpu]) else { return };
    lockstep_sys::limits::raise_open_files();
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let _enough = SetOnDrop(&enough); // whatever the test finds
        for _ in 0..GREEDY {
            let client = server.connect();
            let mut reader = client.stream.try_clone().unwrap();
            scope.spawn({
                let (mut client, enough) = (client, &enough);
                move || {
                    while !enough.load(Relaxed) {
                        client.send(&[b'x'; 65_536]);
                    }
                    client.finish();
                }
            });
            scope.spawn(move || io::copy(&mut reader, &mut io::sink()).unwrap());
        }
        let mut clients: Vec<_> = (0..1000).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| client.send(b"served?"));
        for client in &mut clients {
            assert_eq!(client.receive(7), b"served?");
        }
    });
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!(stats["accepted"], 1000 + GREEDY);
    assert_eq!(stats["closed"]["eof"], 1000 + GREEDY);
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn missing_descriptors_neither_stop_nor_spin_the_server() {
    if !is_available(BACKEND) {
        return;
    }
    const DESCRIPTORS: u32 = 64;
    let args = ["--shards", "1", "--max-conns", "1000"];
    let server = Served::start_limited(DESCRIPTORS, BACKEND, &args);
    let start = Instant::now();
    let mut clients: Vec<_> = (0..120).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(b"served?");
    }
    until("no descriptor is left", || {
        let open = kernel::descriptors(server.id());
        (0..DESCRIPTORS).all(|descriptor| open.contains(&descriptor))
            && clients.iter().filter(|client| client.is_readable()).count() > 30
    });

    let used = kernel::cpu_time(server.id());
    thread::sleep(Duration::from_secs(1));
    let used = kernel::cpu_time(server.id()) - used;
    assert!(used <= Duration::from_millis(100), "it used {used:?} of a second to do nothing");

    let (mut served, waiting): (Vec<_>, Vec<_>) =
        clients.into_iter().partition(|client| client.is_readable());
    assert!(!waiting.is_empty());
    for client in &mut served {
        assert_eq!(client.receive(7), b"served?");
        client.exchange(b"and on");
    }
    drop(served);
    for mut client in waiting {
        assert_eq!(client.receive(7), b"served?");
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!(stats["accepted"], 120);
    let errors = stats["accept_errors"]["EMFILE"].as_u64().unwrap_or_default();
    // At most one attempt each 10 ms, and one whenever a connection has ended.
    let most = start.elapsed().as_millis() as u64 / 10 + 120;
    assert!((1..=most).contains(&errors), "{errors} failed accepts, {most} at most: {stats}");
}

#[test]
fn clients_that_never_read_cost_little_memory() {
    const PEERS: u64 = 64;
    let Some(server) = serve(&["--shards", "1"]) else { return };
    server.connect().exchange(&noise(1, 1024));
    let before = kernel::anonymous_memory(server.id());
    let mut deaf: Vec<_> = (0..PEERS).map(|_| Client::connect_narrow(server.addr)).collect();
    for client in &mut deaf {
        client.push(&noise(1, 1 << 20));
    }
    kernel::until_stuck(server.addr, deaf.len());
    let grown = kernel::anonymous_memory(server.id()).saturating_sub(before);
    let most = PEERS * MEMORY_PER_DEAF_PEER + SLACK;
    assert!(grown <= most, "{grown} bytes for {PEERS} peers, {most} at most");
    drop(deaf);
    server.stop();
}

/// The queue holds one more than the backlog (`sk_acceptq_is_full`, include/net/sock.h).
#[test]
fn listen_queue_has_the_backlog_asked_for() {
    for backlog in [1, 8, 200] {
        let asked = backlog.to_string();
        let Some(server) = serve(&["--shards", "1", "--backlog", &asked]) else { return };
        suspend(&server);
        let mut queued: Vec<_> = (0..=backlog).map(|_| server.connect()).collect();
        let refused = TcpStream::connect_timeout(&server.addr, Duration::from_millis(300));
        assert!(refused.is_err(), "one more than {backlog} + 1 found a place");
        assert_eq!(kernel::listen_queues(server.addr), [backlog + 1]);
        resume(&server);
        for client in &mut queued {
            client.exchange(b"served after all");
        }
        drop(queued);
        server.stop();
    }
}

#[test]
fn every_shard_serves_connections() {
    let Some(server) = serve(&["--shards", "2"]) else { return };
    suspend(&server);
    let mut clients: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let queues = kernel::listen_queues(server.addr);
    assert_eq!((queues.len(), queues.iter().sum::<u32>()), (2, 64));
    assert!(queues.iter().all(|queue| *queue > 0), "the kernel has spread them: {queues:?}");
    resume(&server);
    for (client, number) in clients.iter_mut().zip(0..) {
        client.exchange(&noise(number, 100));
    }
    drop(clients);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((&stats["shards"], &stats["accepted"]), (&2.into(), &64.into()));
    assert_eq!((&stats["exchanges"], &stats["closed"]["eof"]), (&64.into(), &64.into()));
}

/// Requests sent during the suspension count as activity.
#[test]
fn suspended_server_does_not_time_out_its_clients() {
    // Long enough for all to be here in time, on a busy machine, too.
    let idle_timeout = Duration::from_millis(1500);
    let Some(server) = serve(&["--shards", "1", "--idle-timeout", "1500ms"]) else { return };
    let connect = |_| {
        let mut client = server.connect();
        client.exchange(b"here");
        client
    };
    let mut clients: Vec<_> = (0..40).map(connect).collect();
    suspend(&server);
    for client in &mut clients {
        client.send(b"still here");
    }
    thread::sleep(idle_timeout + idle_timeout / 2);
    resume(&server);
    for client in &mut clients {
        assert_eq!(client.receive(10), b"still here");
    }
    drop(clients);
    kernel::until_closed(server.addr);
    assert_eq!(server.stop()["exchanges"], 80);
}

/// A reader of the tutorial does this most: start, stop, start again.
#[test]
fn port_is_free_immediately_after_a_kill() {
    let Some(mut server) = serve(&[]) else { return };
    for round in 0..10 {
        let addr = server.addr;
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.exchange(b"before the end");
        }
        match round % 2 {
            // With connections open, and with some that are over: they are in TIME_WAIT.
            0 => server.process.signal(Signal::KILL),
            _ => {
                server.process.signal(Signal::TERM);
                clients.iter_mut().for_each(|client| client.expect_end());
            }
        }
        drop(clients);
        server.process.wait();
        let listen = addr.to_string();
        server = Served::start(BACKEND, ["--listen", &listen]);
        assert_eq!(server.addr, addr);
    }
    server.stop();
}
