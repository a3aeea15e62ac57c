//! The tutorial's programs in `docs/programs` print what the pages in `docs/` show.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use common::child::{Process, Served, is_available};
use common::skip;
use lockstep_backends::BACKENDS;

fn python(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/programs/").to_owned() + program;
    command.arg(path).args(args);
    command
}

/// Checks that Python is installed; prints a note if not.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        skip("python3", "not found");
    }
    found
}

fn printed(command: Command) -> Vec<String> {
    let ended = Process::start(command).wait();
    assert_eq!(ended.status.code(), Some(0), "{:?}", ended.stderr);
    ended.stdout
}

#[test]
fn server_and_client_program_talk_to_each_other() {
    if !has_python() {
        return;
    }
    let server = Process::start(python("tcp_server.py", &["0"]));
    let ready = server.stdout.next().unwrap();
    let port = ready.strip_prefix("listening on port ").unwrap();
    assert_eq!(printed(python("tcp_client.py", &[port])), ["b'hi'", "b''"]);
    assert_eq!(server.wait().stdout, ["b'hello!'"]);
}

#[test]
fn client_program_talks_to_every_backend() {
    if !has_python() {
        return;
    }
    for backend in BACKENDS.iter().map(|backend| backend.name()).filter(|name| is_available(name)) {
        let server = Served::start(backend, ["--service", "hi"]);
        let port = server.addr.port().to_string();
        assert_eq!(printed(python("tcp_client.py", &[&port])), ["b'hi'", "b''"]);
        assert_eq!(server.stop()["closed"]["done"], 1);
    }
}

/// The kernel decides how a stream is cut into receives; no byte may be lost.
#[test]
fn stream_program_shows_that_a_stream_has_no_messages() {
    if !has_python() {
        return;
    }
    for backend in BACKENDS.iter().map(|backend| backend.name()).filter(|name| is_available(name)) {
        let server = Served::start(backend, []);
        let port = server.addr.port().to_string();
        let lines = printed(python("stream.py", &[&port]));
        let total = |line: &str| -> u32 {
            let (_, sizes) = line.split_once('[').unwrap();
            sizes.trim_end_matches(']').split(", ").map(|size| size.parse::<u32>().unwrap()).sum()
        };
        assert_eq!(lines.iter().map(|line| total(line)).collect::<Vec<_>>(), [3000, 9]);
        assert_eq!(server.stop()["bytes_received"], 3009);
    }
}

#[test]
fn stream_program_ends_when_the_server_closes_early() {
    if !has_python() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 3000]).unwrap();
        stream.write_all(&[b'x'; 100]).unwrap();
    });
    let ended = Process::start(python("stream.py", &[&port])).wait();
    server.join().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.stderr, ["the server closed after 100 of 3000 bytes"]);
}

#[test]
fn time_wait_program_prints_what_the_page_shows() {
    if !has_python() {
        return;
    }
    let page = include_str!("../../docs/time-wait.md");
    let lines = printed(python("time_wait.py", &[]));
    assert_eq!(lines.len(), 10);
    assert!(page.contains(&lines.join("\n")), "the page shows otherwise: {lines:#?}");
}
