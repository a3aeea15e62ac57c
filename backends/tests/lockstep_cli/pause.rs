//! `--accept-pause`: the server is ready, and accepts only after SIGUSR1 or a time.

use rustix::process::Signal;

use crate::common::child::{Process, Served, lockstep, statistics};
use crate::common::{client::Client, kernel};

on_every_backend! {
    sigusr1_ends_the_accept_pause
    accept_pause_ends_on_a_signal
    sigusr1_without_a_pause_has_no_effect
}

fn sigusr1_ends_the_accept_pause(backend: &str) {
    let server = Served::start(backend, ["--shards=1", "--backlog=8", "--accept-pause"]);
    let mut clients: Vec<_> = (0..9).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(b"hello!"));
    assert_eq!(kernel::listen_queues(server.addr), [9], "listen(8) has room for nine");
    server.process.signal(Signal::USR1);
    for client in &mut clients {
        assert_eq!(client.receive(6), b"hello!");
    }
    drop(clients);
    kernel::until_closed(server.addr);
    assert_eq!(server.stop()["closed"]["eof"], 9);
}

fn accept_pause_ends_on_a_signal(backend: &str) {
    let server = Served::start(backend, ["--accept-pause"]);
    let (mut asking, mut silent) = (server.connect(), server.connect());
    asking.send(b"hello!");
    server.process.signal(Signal::TERM);
    assert_eq!(asking.receive_to_end(), b"hello!");
    silent.expect_end();
    drop((asking, silent));
    let stats = statistics(&server.process.wait());
    assert_eq!((&stats["accepted"], &stats["closed"]["drain"]), (&2.into(), &2.into()), "{stats}");
}

fn sigusr1_without_a_pause_has_no_effect(backend: &str) {
    let server = Served::start(backend, []);
    server.process.signal(Signal::USR1);
    server.connect().exchange(b"hello!");
    kernel::until_closed(server.addr);
    assert_eq!(server.stop()["accepted"], 1);
}

#[test]
fn accept_pause_without_a_length_prints_how_to_end_it() {
    let args = "serve --backend=mio --listen=127.0.0.1:0 --accept-pause";
    let process = Process::start(lockstep(args.split(' ')));
    let how = format!("accepting nothing until SIGUSR1: kill -USR1 {}", process.id());
    assert_eq!(process.stderr.next(), Some(how));
    process.signal(Signal::TERM);
    assert_eq!(process.wait().status.code(), Some(0));
}

#[test]
fn accept_pause_takes_a_length_or_none() {
    let args = "serve --backend=mio --listen=127.0.0.1:0 --accept-pause 200ms --shards 1";
    let process = Process::start(lockstep(args.split(' ')));
    let line = process.stdout.next().unwrap();
    let addr = line.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap();
    Client::connect(addr.parse().unwrap()).exchange(b"hello!");
    process.signal(Signal::TERM);
    assert_eq!(process.wait().status.code(), Some(0));
}
