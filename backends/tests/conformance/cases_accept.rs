//! Servers that accept later: the listen queue in the meantime, and its connections afterwards.

use std::thread;
use std::time::{Duration, Instant};

use lockstep_backends::Options;
use lockstep_core::Cause;
use lockstep_core::Echo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use super::SUBJECT;
use crate::common::client::Client;
use crate::common::{kernel, noise, until};
use crate::harness::{Running, options, options_of, start_with};

fn paused() -> Options {
    Options { accept_pause: Duration::MAX, ..options(&SUBJECT) }
}

/// Begins to connect; does not wait.
fn begin_to_connect(server: &Running) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
    let in_progress = socket.connect(&server.addr.into()).unwrap_err();
    assert_eq!(in_progress.raw_os_error(), Some(libc::EINPROGRESS));
    socket
}

/// True if the connection is established within `patience`.
fn is_connected(socket: &Socket, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&patience)).unwrap() > 0
}

/// The kernel admits one more than the backlog (`sk_acceptq_is_full`, include/net/sock.h). Further
/// clients get no answer, and try again after a second.
#[test]
fn accept_pause_fills_the_listen_queue_to_backlog_plus_one() {
    for backlog in [0, 1, 8] {
        let accept_pause = Duration::MAX;
        let few = Options { backlog, accept_pause, ..options_of(&SUBJECT, 1) };
        let Some(server) = start_with(&SUBJECT, Echo, few) else { return };
        let mut admitted = server.connect_many(backlog as usize + 1);
        let late = begin_to_connect(&server);
        for (client, number) in admitted.iter_mut().zip(0..) {
            client.send(&noise(number, 100));
        }
        assert!(!is_connected(&late, Duration::from_millis(100)), "listen({backlog})");
        assert_eq!(kernel::listen_queues(server.addr), [backlog + 1]);
        assert!(!admitted.iter().any(Client::is_readable), "served by a server that is paused");

        server.release();
        for (client, number) in admitted.iter_mut().zip(0..) {
            assert!(client.receive(100) == noise(number, 100), "client {number}");
        }
        assert!(is_connected(&late, crate::common::PATIENCE), "it tries again until it gets in");
        late.set_nonblocking(false).unwrap();
        drop(admitted);
        let mut late = Client { stream: late.into() };
        late.exchange(b"at last");
        drop(late);
        kernel::until_closed(server.addr);
        let stats = server.stop();
        assert_eq!(stats.accepted, u64::from(backlog) + 2, "{stats:?}");
        assert_eq!(stats.closed.count(Cause::Eof), stats.accepted, "{stats:?}");
        let queue = (stats.accept_queue_peak, stats.accept_queue_limit);
        assert_eq!(queue, (u64::from(backlog) + 1, u64::from(backlog)), "{stats:?}");
        // The counters are of the whole machine.
        assert!(stats.listen_overflows >= Some(1), "{stats:?}");
        assert!(stats.listen_drops >= stats.listen_overflows, "{stats:?}");
    }
}

#[test]
fn accept_pause_ends_after_its_length() {
    let pause = Duration::from_millis(300);
    let brief = Options { accept_pause: pause, ..options(&SUBJECT) };
    let start = Instant::now();
    let Some(server) = start_with(&SUBJECT, Echo, brief) else { return };
    let mut clients = server.connect_many(8);
    clients.iter_mut().for_each(|client| client.send(b"hello!"));
    for client in &mut clients {
        assert_eq!(client.receive(6), b"hello!");
    }
    assert!(start.elapsed() >= pause, "after {:?}", start.elapsed());
    drop(clients);
    assert_eq!(server.stop().accepted, 8);
}

#[test]
fn accept_pause_holds_every_shard() {
    let two = Options { accept_pause: Duration::MAX, ..options_of(&SUBJECT, 2) };
    let Some(server) = start_with(&SUBJECT, Echo, two) else { return };
    let mut clients = server.connect_many(64);
    clients.iter_mut().for_each(|client| client.send(b"hello!"));
    assert_eq!(kernel::listen_queues(server.addr).iter().sum::<u32>(), 64);
    server.release();
    server.release();
    for client in &mut clients {
        assert_eq!(client.receive(6), b"hello!");
    }
    drop(clients);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!(stats.closed.count(Cause::Eof), 64, "{stats:?}");
    assert!((32..=64).contains(&stats.accept_queue_peak), "the longer of two queues: {stats:?}");
}

#[test]
fn drain_during_accept_pause_serves_the_listen_queue() {
    let Some(server) = start_with(&SUBJECT, Echo, paused()) else { return };
    let mut asking = server.connect_many(16);
    for (client, number) in asking.iter_mut().zip(0..) {
        client.send(&noise(number, 100));
    }
    let mut silent = server.connect_many(16);
    server.drain();
    for (mut client, number) in asking.into_iter().zip(0..) {
        assert!(client.receive_to_end() == noise(number, 100), "client {number}");
    }
    silent.iter_mut().for_each(Client::expect_end);
    drop(silent);
    let stats = server.join();
    assert_eq!((stats.accepted, stats.closed.count(Cause::Drain)), (32, 32), "{stats:?}");
    assert_eq!((stats.exchanges, stats.drain_cut), (16, 0), "{stats:?}");
}

#[test]
fn drain_during_accept_pause_ends_immediately() {
    let Some(server) = start_with(&SUBJECT, Echo, paused()) else { return };
    assert_eq!(server.stop().accepted, 0);
}

/// Each connection waits for those before it; an accepted one does not wait any more.
#[test]
fn accept_delay_comes_before_each_accept() {
    const DELAY: Duration = Duration::from_millis(100);
    // One that accepts: where several do, each has a delay of its own.
    let threads = SUBJECT.threads.map(|_| 1);
    let slow = Options { accept_delay: DELAY, threads, ..options_of(&SUBJECT, 1) };
    let start = Instant::now();
    let Some(server) = start_with(&SUBJECT, Echo, slow) else { return };
    let clients = server.connect_many(5);
    for (mut client, number) in clients.into_iter().zip(1..) {
        client.exchange(b"hello!");
        assert!(start.elapsed() >= DELAY * number, "number {number} after {:?}", start.elapsed());
        client.exchange(b"again");
    }
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((stats.accepted, stats.exchanges), (5, 10), "{stats:?}");
}

/// The delay applies while the server runs, not when it drains.
#[test]
fn drain_during_accept_delay_serves_the_listen_queue() {
    let slow = Options { accept_delay: Duration::from_secs(3600), ..options(&SUBJECT) };
    let Some(server) = start_with(&SUBJECT, Echo, slow) else { return };
    let mut clients = server.connect_many(8);
    clients.iter_mut().for_each(|client| client.send(b"hello!"));
    thread::sleep(Duration::from_millis(50));
    until("they wait", || kernel::listen_queues(server.addr).iter().sum::<u32>() == 8);
    server.drain();
    for client in &mut clients {
        assert_eq!(client.receive_to_end(), b"hello!");
    }
    drop(clients);
    let stats = server.join();
    assert_eq!((stats.accepted, stats.exchanges, stats.drain_cut), (8, 8, 0), "{stats:?}");
}
