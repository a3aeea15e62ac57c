//! Failing system calls. strace(1) injects them: the kernel returns an error for certain calls of a
//! process without performing them. Without strace, or if it may not trace, the tests are skipped
//! with a note, or fail if `LOCKSTEP_REQUIRE` names `strace`.
//!
//! `when=F..L` and `when=F+S` count the calls of each thread by itself.

mod common;

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::child::{LOCKSTEP, Process, Served, is_available, statistics};
use common::client::Client;
use common::{kernel, noise, skip, until};
use rustix::process::Signal;
use serde_json::Value;

/// Command for `lockstep serve` with failing calls. With `-D`, strace is in the background, and the
/// child is the server.
fn command(fault: &str, backend: &str) -> Command {
    let calls = fault.split(':').next().unwrap();
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-o", "/dev/null"]);
    command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={fault}")]);
    command.args([LOCKSTEP, "serve", "--listen", "127.0.0.1:0", "--json", "--shards", "1"]);
    command.args(["--backend", backend]);
    command
}

fn serve(fault: &str, backend: &str) -> Option<Served> {
    can_inject(backend).then(|| Served::start_command(command(fault, backend)))
}

fn can_inject(backend: &str) -> bool {
    let mut trial = Command::new("strace");
    trial.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "inject=close:error=EBADF:when=99"]);
    let trial = trial.arg("true").stdin(Stdio::null()).stderr(Stdio::null()).status();
    if trial.is_ok_and(|status| status.success()) {
        return is_available(backend);
    }
    skip("strace", "not found, or may not trace");
    false
}

/// Every request is answered, whichever call has to be made again.
fn assert_unharmed(server: &Served) {
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for round in 0..20 {
        for client in &mut clients {
            client.exchange(&noise(round, 1 + round as usize * 100));
        }
    }
    let bytes = noise(1, 50_000);
    for client in &mut clients {
        client.send(&bytes);
        client.finish();
    }
    for mut client in clients {
        assert!(client.receive_to_end() == bytes, "the bytes differ");
    }
    kernel::until_closed(server.addr);
}

#[test]
fn interrupted_call_is_made_again() {
    let cases: [(&str, &[&str]); 4] = [
        ("blocking", &["recvfrom", "sendto", "accept4"]),
        ("poll", &["recvfrom", "sendto", "accept4", "poll,ppoll"]),
        ("mio", &["recvfrom", "sendto", "accept4", "epoll_wait"]),
        ("io-uring", &["io_uring_enter"]),
    ];
    for (backend, calls) in cases {
        for call in calls {
            let fault = format!("{call}:error=EINTR:when=2+3");
            let Some(server) = serve(&fault, backend) else { continue };
            assert_unharmed(&server);
            let stats = server.stop();
            let eof = &stats["closed"]["eof"];
            assert_eq!((&stats["accepted"], eof), (&4.into(), &4.into()), "{fault}: {stats}");
            assert_eq!(stats["accept_errors"], serde_json::json!({}), "{fault}");
            assert_eq!(stats["io_errors"], serde_json::json!({}), "{fault}");
        }
    }
}

/// EAGAIN, ENOMEM: out of memory; EBUSY: completions have to be taken first (io_uring_enter(2)).
#[test]
fn busy_ring_is_entered_again() {
    for errno in ["EAGAIN", "EBUSY", "ENOMEM"] {
        let fault = format!("io_uring_enter:error={errno}:when=3+5");
        let Some(server) = serve(&fault, "io-uring") else { continue };
        assert_unharmed(&server);
        assert_eq!(server.stop()["closed"]["eof"], 4, "{fault}");
    }
}

/// 291 calls in a row, some three seconds.
#[test]
fn ring_without_memory_for_a_while_loses_no_connection() {
    let Some(server) = serve("io_uring_enter:error=ENOMEM:when=10..300", "io-uring") else {
        return;
    };
    assert_unharmed(&server);
    assert_eq!(server.stop()["closed"]["eof"], 4);
}

#[test]
fn ring_without_memory_obeys_the_drain_timeout() {
    if !can_inject("io-uring") {
        return;
    }
    let mut command = command("io_uring_enter:error=ENOMEM", "io-uring");
    command.args(["--drain-timeout", "200ms"]);
    let server = Served::start_command(command);
    let _client = server.connect();
    server.process.signal(Signal::TERM);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.join("\n").contains("refused until the drain timeout"), "{ended:?}");
}

/// The listener cannot be made nonblocking when the server stops: the rest of the listen queue is
/// lost, but what is open is drained.
#[test]
fn failed_ioctl_at_the_stop_does_not_prevent_the_drain() {
    let Some(server) = serve("ioctl:error=ENOMEM:when=1+", "io-uring") else { return };
    let mut client = server.connect();
    client.exchange(b"before the stop");
    server.process.signal(Signal::TERM);
    client.expect_end();
    drop(client);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let stats = statistics(&ended);
    assert_eq!((&stats["closed"]["drain"], &stats["drain_cut"]), (&1.into(), &0.into()), "{stats}");
}

/// The error concerns one client or is transient; the next client is served.
#[test]
fn failed_accept_is_counted_and_the_next_succeeds() {
    for backend in ["blocking", "poll", "mio"] {
        for errno in ["ECONNABORTED", "EPROTO", "EPERM", "ENFILE", "ENOMEM", "ENOBUFS"] {
            let fault = format!("accept4:error={errno}:when=3..5");
            let Some(server) = serve(&fault, backend) else { continue };
            for _ in 0..6 {
                server.connect().exchange(b"served?");
            }
            kernel::until_closed(server.addr);
            let stats = server.stop();
            assert_eq!(stats["accept_errors"], serde_json::json!({ errno: 3 }), "{fault}");
            assert_eq!((&stats["accepted"], &stats["closed"]["eof"]), (&6.into(), &6.into()));
        }
    }
}

/// Failures that do not end are retried after a delay, of 200 ms in the end.
#[test]
fn accept_that_always_fails_does_not_spin() {
    for backend in ["blocking", "poll", "mio"] {
        for errno in ["ECONNABORTED", "EPERM", "ENOMEM"] {
            if !can_inject(backend) {
                return;
            }
            let mut command = command(&format!("accept4:error={errno}"), backend);
            command.args(["--backlog", "4"]);
            let start = Instant::now(); // blocking accepts before anything has come
            let server = Served::start_command(command);
            let _waiting = server.connect();
            thread::sleep(Duration::from_millis(300));
            let stats = server.stop();
            let most = 12 + start.elapsed().as_millis() as u64 / 100;
            let errors = stats["accept_errors"][errno].as_u64().unwrap();
            assert!((1..=most).contains(&errors), "{backend}: {errors} times {errno}");
        }
    }
}

/// Connections that were open are drained, and so are those of other shards.
#[test]
fn listener_that_fails_for_good_ends_the_server() {
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        for shards in ["1", "2"] {
            if !is_available(backend) {
                continue;
            }
            let server = Served::start(backend, ["--shards", shards]);
            let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
            clients.iter_mut().for_each(|client| client.exchange(b"served?"));
            kernel::shut_down_a_listener(server.id());
            clients.iter_mut().for_each(Client::expect_end);
            drop(clients);
            let ended = server.process.wait();
            assert_eq!(ended.status.code(), Some(1), "{backend}: {ended:?}");
            let [error] = &ended.stderr[..] else { panic!("{backend}: {ended:?}") };
            let cause = format!("cannot accept on {}: invalid argument (EINVAL)", server.addr);
            assert_eq!(*error, format!("error: the server failed: {cause}"));
        }
    }
}

/// A wait without memory is tried again after a delay. The stop signal is not missed.
#[test]
fn wait_that_always_fails_does_not_spin() {
    // The first waits are the standard library's and those before the server is ready.
    let poll = "poll,ppoll:error=ENOMEM";
    let cases = [("blocking", poll), ("poll", poll), ("mio", "epoll_wait:error=ENOMEM")];
    for (backend, fault) in cases {
        let Some(server) = serve(fault, backend) else { return };
        let (mut waiting, start) = (server.connect(), Instant::now());
        let before = kernel::cpu_time(server.id());
        thread::sleep(Duration::from_millis(500));
        let used = kernel::cpu_time(server.id()) - before;
        assert!(used < start.elapsed() / 2, "{backend} used {used:?}");
        server.process.signal(Signal::TERM);
        waiting.expect_end();
        drop(waiting);
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{backend}: {ended:?}");
    }
}

/// Between two failures it serves.
#[test]
fn wait_without_memory_is_tried_again() {
    let Some(server) = serve("epoll_wait:error=ENOMEM:when=2+3", "mio") else { return };
    assert_unharmed(&server);
    assert_eq!(server.stop()["closed"]["eof"], 4);
}

/// At the end, a socket cannot be made not to wait.
#[test]
fn failed_ioctl_does_not_keep_blocking_from_draining() {
    let Some(server) = serve("ioctl:error=ENOMEM", "blocking") else { return };
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.exchange(b"served?"));
    server.process.signal(Signal::TERM);
    clients.iter_mut().for_each(Client::expect_end);
    drop(clients);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(statistics(&ended)["closed"]["drain"], 4, "{ended:?}");
}

#[test]
fn failed_receive_or_send_ends_only_its_own_connection() {
    for backend in ["blocking", "poll", "mio"] {
        for call in ["recvfrom", "sendto"] {
            for errno in ["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "EIO"] {
                let fault = format!("{call}:error={errno}:when=6");
                let Some(server) = serve(&fault, backend) else { continue };
                let mut other = server.connect();
                other.exchange(b"before");
                let mut client = server.connect();
                let answered = (0..10).take_while(|_| is_answered(&mut client)).count();
                assert!(answered < 6, "{backend}, {fault}: {answered} answered");
                drop(client);
                other.exchange(b"after");
                drop(other);
                kernel::until_closed(server.addr);
                let stats = server.stop();
                assert_eq!(stats["io_errors"], serde_json::json!({ errno: 1 }), "{fault}");
                let closed = (&stats["closed"]["error"], &stats["closed"]["eof"]);
                assert_eq!(closed, (&1.into(), &1.into()), "{fault}: {stats}");
            }
        }
    }
}

fn is_answered(client: &mut Client) -> bool {
    use std::io::{Read, Write};
    client.stream.write_all(b"there?").is_ok() && client.stream.read_exact(&mut [0; 6]).is_ok()
}

/// epoll_ctl(2): ENOSPC at the limit of `/proc/sys/fs/epoll/max_user_watches`.
#[test]
fn failed_registration_closes_the_connection() {
    for errno in ["ENOSPC", "ENOMEM"] {
        // The listener and the stop signal are the first two.
        let fault = format!("epoll_ctl:error={errno}:when=4");
        let Some(server) = serve(&fault, "mio") else { return };
        let mut first = server.connect();
        first.exchange(b"served?");
        server.connect().expect_end();
        server.connect().exchange(b"served?");
        first.exchange(b"served?");
        drop(first);
        kernel::until_closed(server.addr);
        let stats = server.stop();
        assert_eq!((&stats["accepted"], &stats["closed"]["error"]), (&3.into(), &1.into()));
        assert_eq!(stats["io_errors"], serde_json::json!({ errno: 1 }));
    }
}

/// No thread can be started: the limit of processes, or memory (pthread_create(3)).
#[test]
fn failed_thread_start_closes_the_connection() {
    // The main thread starts fewer than that; the one that accepts, one for each connection.
    let Some(server) = serve("clone3:error=EAGAIN:when=6", "blocking") else { return };
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.exchange(b"served?"));
    server.connect().expect_end();
    server.connect().exchange(b"served?");
    clients.iter_mut().for_each(|client| client.exchange(b"served?"));
    drop(clients);
    kernel::until_closed(server.addr);
    let stats = server.stop();
    assert_eq!((&stats["accepted"], &stats["closed"]["error"]), (&7.into(), &1.into()));
    assert_eq!(stats["accept_errors"], serde_json::json!({ "EAGAIN": 1 }));
}

/// Memory for the stack (mmap(2)) or its protection (mprotect(2)) is missing from some call on.
#[test]
fn missing_memory_for_a_thread_closes_the_connection() {
    for fault in ["mmap:error=ENOMEM:when=60+", "mprotect:error=ENOMEM:when=30+"] {
        let Some(server) = serve(fault, "blocking") else { return };
        let mut clients: Vec<_> = (0..60).map(|_| server.connect()).collect();
        let served = clients.iter_mut().map(is_answered).filter(|served| *served).count() as u64;
        assert!((1..60).contains(&served), "{fault}: {served} served");
        let stats = server.stop();
        let closed = (&stats["closed"]["drain"], &stats["closed"]["error"]);
        assert_eq!(closed, (&served.into(), &(60 - served).into()), "{fault}: {stats}");
        assert_eq!(accept_errors(&stats), 60 - served, "{stats}");
    }
}

/// At the limit of address space, connections are turned away that the memory does not suffice for.
#[test]
fn limit_of_address_space_bounds_the_connections() {
    const CLIENTS: u64 = 400;
    lockstep_sys::limits::raise_open_files();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 50000; exec \"$@\"", "sh", LOCKSTEP, "serve", "--json"]);
    command.args(["--backend", "blocking", "--listen", "127.0.0.1:0"]).env("RUST_BACKTRACE", "1");
    let server = Served::start_command(command);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    clients.retain_mut(is_answered);
    let served = clients.len() as u64;
    assert!((1..CLIENTS).contains(&served), "{served} served");
    for client in &mut clients {
        client.exchange(b"still served?");
    }
    clients.truncate(clients.len() / 2);
    until("there is memory again", || {
        let mut client = server.connect();
        let served = is_answered(&mut client);
        served.then(|| clients.push(client)).is_some()
    });
    let stats = server.stop();
    let refused = stats["closed"]["error"].as_u64().unwrap();
    assert!(refused >= CLIENTS - served, "{stats}");
    assert_eq!(accept_errors(&stats), refused, "{stats}");
}

/// Number of all: ENOMEM, or EAGAIN of pthread_create(3).
fn accept_errors(stats: &Value) -> u64 {
    stats["accept_errors"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
}

/// EINVAL is the error of io_uring_setup(2) before Linux 6.1, and of io_uring_register(2) before
/// 5.19.
#[test]
fn old_kernel_is_named_as_the_cause() {
    if !can_inject("io-uring") {
        return;
    }
    for call in ["io_uring_setup", "io_uring_register"] {
        let fault = format!("{call}:error=EINVAL:when=1");
        let ended = Process::start(command(&fault, "io-uring")).wait();
        assert_eq!(ended.status.code(), Some(3), "{:?}", ended.stderr);
        let [error, hint] = &ended.stderr[..] else { panic!("{:?}", ended.stderr) };
        assert!(error.contains("too old (EINVAL)"), "{error}");
        assert!(hint.contains("Linux 6.1"), "{hint}");
    }
}

/// The shard ends, and the server with it; descriptors and memory go with the process.
#[test]
fn failed_ring_ends_the_server() {
    let fault = "io_uring_enter:error=EBADF:when=9+";
    let Some(server) = serve(fault, "io-uring") else { return };
    let mut client = server.connect();
    while is_answered(&mut client) {}
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.iter().any(|line| line.contains("EBADF")), "{ended:?}");
}

/// Also before the server listens.
#[test]
fn signal_before_ready_drains_once_ready() {
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        let Some(server) = serve("bind:signal=SIGTERM:when=1", backend) else { continue };
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(statistics(&ended)["accepted"], 0, "{backend}");
    }
}

#[test]
fn second_signal_before_ready_ends_immediately() {
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        if can_inject(backend) {
            // Two signals within 200 ms are one.
            let process =
                Process::start(command("bind,listen:signal=SIGINT:delay_exit=300000", backend));
            let ended = process.wait();
            assert_eq!((ended.status.code(), &ended.stdout[..]), (Some(130), &[][..]), "{ended:?}");
        }
    }
}
