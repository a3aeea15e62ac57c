//! The same script against every backend: the same bytes come back, with the same counts.
//!
//! A script is made from a seed: clients connect and close, send in one piece or in several,
//! half-close or reset, and some are connected when the server drains. It waits for each reply
//! before the next step, so that its outcome is determined, including the number of exchanges.
//!
//! `LOCKSTEP_SEED` repeats a run; each run prints its seed.

mod common;

#[path = "conformance/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use lockstep_backends::blocking::Blocking;
use lockstep_backends::io_uring::IoUring;
use lockstep_backends::mio::Mio;
use lockstep_backends::poll::Poll;
use lockstep_backends::{Closed, Stats};
use lockstep_core::{Echo, Hi};
use serde_json::Value;

use common::child::{Served, is_available, statistics};
use common::client::Client;
use common::{kernel, noise};
use harness::{Subject, TestService, start};

const SCRIPTS: u64 = 4;
const STEPS: usize = 300;

/// Most bytes sent before a receive. They travel in one piece, so that the server receives them in
/// as few requests as possible.
const AT_ONCE_MAX: usize = 16 * 1024;

const FEW: IoUring = IoUring { buffers: 16 };

const SUBJECTS: [(&str, Subject); 6] = [
    ("blocking", Subject::of(&Blocking)),
    ("blocking, 40 threads", Subject { threads: Some(40), ..Subject::of(&Blocking) }),
    ("poll", Subject::of(&Poll)),
    ("mio", Subject::of(&Mio)),
    ("io-uring", Subject::of(&IoUring::DEFAULT)),
    ("io-uring, 16 buffers", Subject::of(&FEW)),
];

/// Step of a client; the number is the client's.
#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    /// Sends this many bytes in one piece, and receives the reply.
    Exchange(usize, usize),
    /// Sends this many bytes one by one, and receives the reply to each before the next.
    Pieces(usize, usize),
    /// Sends this many bytes with a FIN behind them, and receives the reply and the FIN.
    HalfClose(usize, usize),
    Close(usize),
    Reset(usize),
    Pause(Duration),
}

/// Outcome of a script: the bytes received by each client, and the counts.
#[derive(Debug, PartialEq)]
struct Outcome {
    heard: BTreeMap<usize, Vec<u8>>,
    counted: Counted,
}

/// Counts that do not depend on the I/O model.
#[derive(Debug, PartialEq)]
struct Counted {
    accepted: u64,
    closed: Closed,
    exchanges: u64,
    bytes_received: u64,
    bytes_sent: u64,
    sends_short: u64,
    accept_errors: BTreeMap<String, u64>,
    io_errors: BTreeMap<String, u64>,
    drain_cut: u64,
}

impl From<Stats> for Counted {
    fn from(stats: Stats) -> Self {
        Self {
            accepted: stats.accepted,
            closed: stats.closed,
            exchanges: stats.exchanges,
            bytes_received: stats.bytes_received,
            bytes_sent: stats.bytes_sent,
            sends_short: stats.sends_short,
            accept_errors: stats.accept_errors,
            io_errors: stats.io_errors,
            drain_cut: stats.drain_cut,
        }
    }
}

#[test]
fn echo_is_alike_on_every_backend() {
    compare("echo", Echo, echo_script, echo);
}

#[test]
fn hi_is_alike_on_every_backend() {
    compare("hi", Hi, hi_script, hi);
}

type Play = fn(&harness::Running, &[Step], &mut BTreeMap<usize, Vec<u8>>);

fn compare(name: &str, service: impl TestService, script: fn(&mut Rng) -> Vec<Step>, play: Play) {
    let seed = seed();
    println!("{name}: LOCKSTEP_SEED={seed} cargo test -p lockstep-backends --test differential");
    for number in 0..SCRIPTS {
        let script = script(&mut Rng::with_seed(seed.wrapping_add(number)));
        let mut first: Option<(&str, Outcome)> = None;
        for (name, subject) in &SUBJECTS {
            let Some(server) = start(subject, service) else { continue };
            let mut heard = BTreeMap::new();
            play(&server, &script, &mut heard);
            let outcome = Outcome { heard, counted: server.join().into() };
            match &first {
                None => first = Some((name, outcome)),
                Some((other, expected)) => {
                    let differs = format!("{name} differs from {other}, script {number}");
                    assert_eq!(outcome.counted, expected.counted, "{differs}");
                    assert!(outcome.heard == expected.heard, "{differs}: the bytes heard");
                }
            }
        }
    }
}

fn seed() -> u64 {
    match std::env::var("LOCKSTEP_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("LOCKSTEP_SEED={text} is no number")),
        Err(_) => fastrand::u64(..),
    }
}

fn echo_script(random: &mut Rng) -> Vec<Step> {
    let (mut steps, mut open, mut count) = (Vec::new(), Vec::new(), 0);
    while steps.len() < STEPS {
        if open.len() < 3 || (open.len() < 30 && random.u8(..8) == 0) {
            open.push(count);
            steps.push(Step::Connect(count));
            count += 1;
            continue;
        }
        let at = random.usize(..open.len());
        let client = open[at];
        let step = match random.u8(..20) {
            0 => Step::Close(client),
            1 => Step::Reset(client),
            2 => Step::HalfClose(client, random.usize(1..=AT_ONCE_MAX)),
            3 => Step::Pause(Duration::from_micros(random.u64(..3000))),
            4..8 => Step::Pieces(client, random.usize(1..=20)),
            8..12 => Step::Exchange(client, random.usize(1024..=AT_ONCE_MAX)),
            _ => Step::Exchange(client, random.usize(1..=1024)),
        };
        if matches!(step, Step::Close(_) | Step::Reset(_) | Step::HalfClose(..)) {
            open.swap_remove(at);
        }
        steps.push(step);
    }
    steps
}

fn echo(server: &harness::Running, script: &[Step], heard: &mut BTreeMap<usize, Vec<u8>>) {
    let mut open: BTreeMap<usize, Client> = BTreeMap::new();
    let mut bystander = server.connect();
    for (number, step) in (0..).zip(script) {
        match *step {
            Step::Connect(client) => drop(open.insert(client, server.connect())),
            Step::Exchange(client, size) => {
                let it = open.get_mut(&client).unwrap();
                it.send(&noise(number, size));
                heard.entry(client).or_default().extend(it.receive(size));
            }
            Step::Pieces(client, count) => {
                let it = open.get_mut(&client).unwrap();
                for byte in noise(number, count) {
                    it.send(&[byte]);
                    heard.entry(client).or_default().extend(it.receive(1));
                }
            }
            Step::HalfClose(client, size) => {
                let mut it = open.remove(&client).unwrap();
                it.send(&noise(number, size));
                it.finish();
                heard.entry(client).or_default().extend(it.receive_to_end());
            }
            Step::Close(client) => drop(open.remove(&client)),
            Step::Reset(client) => open.remove(&client).unwrap().reset(),
            Step::Pause(pause) => thread::sleep(pause),
        }
    }
    // The causes depend on the connections that are open when the server stops.
    open.values_mut().for_each(|client| client.exchange(b"left"));
    let left = open.len() + 1;
    let gone = || kernel::open_connections(server.addr).len() == left;
    common::until("the others are gone", gone);
    bystander.exchange(b"after them");
    bystander.finish();
    bystander.expect_end();
    drop(bystander);
    server.drain();
    for (number, mut client) in open {
        heard.entry(number).or_default().extend(client.receive_to_end());
    }
}

fn hi_script(random: &mut Rng) -> Vec<Step> {
    let steps = (0..STEPS / 4).map(|client| match random.u8(..8) {
        0 => Step::Close(client),
        1 => Step::Reset(client),
        2 => Step::HalfClose(client, random.usize(1..=1024)),
        3 => Step::Pause(Duration::from_micros(random.u64(..3000))),
        // More than one receive takes is not answered, and is not counted.
        _ => Step::Exchange(client, random.usize(1..=2048)),
    });
    steps.collect()
}

fn hi(server: &harness::Running, script: &[Step], heard: &mut BTreeMap<usize, Vec<u8>>) {
    for (number, step) in (0..).zip(script) {
        match *step {
            Step::Exchange(client, size) => {
                let mut it = server.connect();
                it.send(&noise(number, size));
                heard.insert(client, it.receive_to_end());
            }
            Step::HalfClose(client, size) => {
                let mut it = server.connect();
                it.send_and_finish(&noise(number, size));
                heard.insert(client, it.receive_to_end());
            }
            Step::Close(_) => drop(server.connect()),
            Step::Reset(_) => server.connect().reset(),
            Step::Pause(pause) => thread::sleep(pause),
            Step::Connect(_) | Step::Pieces(..) => unreachable!("not in this script"),
        }
    }
    // The last has been answered when all before it have been seen.
    let mut last = server.connect();
    last.send(b"the last");
    assert_eq!(last.receive_to_end(), b"hi");
    drop(last);
    kernel::until_closed(server.addr);
    server.drain();
}

/// Conversations in sequence, each with its lines: the client's, and the operator's answer. `bye`
/// from either ends it.
#[test]
fn chat_is_alike_on_every_backend() {
    let conversations: [&[(&str, &str)]; 4] = [
        &[("hello!", "hi"), ("how are you?", "fine"), ("bye", "")],
        &[("小文说", "明威说"), ("still there?", "bye")],
        &[("bye", "")],
        &[("by", "e"), ("bye bye", "Bye"), ("\u{1b}[2J", "no"), ("bye\n", "")],
    ];
    let mut first: Option<(Vec<String>, Value)> = None;
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        if !is_available(backend) {
            continue;
        }
        let mut server = Served::start(backend, ["--service", "chat"]);
        for conversation in conversations {
            let mut client = server.connect();
            for (said, answer) in conversation {
                client.send(said.as_bytes());
                if !answer.is_empty() {
                    server.process.type_line(answer);
                    assert_eq!(client.receive(answer.len()), answer.as_bytes());
                }
            }
            client.expect_end();
        }
        server.process.signal(rustix::process::Signal::TERM);
        let ended = server.process.wait();
        let mut stats = statistics(&ended);
        // What depends on how bytes are moved, and on who is quicker, the client or the server.
        for it in ["backend", "syscalls", "syscalls_per_exchange", "connections_peak"] {
            stats.as_object_mut().unwrap().remove(it);
        }
        for it in ["accept_queue_peak", "listen_overflows", "listen_drops"] {
            stats.as_object_mut().unwrap().remove(it);
        }
        // Without the clients' addresses, and without the lines of clients that connect or leave.
        let requests = ended.stdout.iter().filter_map(|line| Some(line.split_once(": ")?.1));
        let outcome = (requests.map(str::to_owned).collect(), stats);
        assert_eq!(first.get_or_insert_with(|| outcome.clone()), &outcome, "{backend}");
    }
}
