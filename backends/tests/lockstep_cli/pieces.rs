//! `lockstep talk` with piped input, and with servers that reply late, in pieces or not at all.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use crate::common::child::{Ended, LOCKSTEP, Process, Served, lockstep};
use crate::common::{PATIENCE, until};
use crate::harness::assert_printed;

on_every_backend! {
    piped_input_is_sent_line_by_line
}

fn piped_input_is_sent_line_by_line(backend: &str) {
    let server = Served::start(backend, []);
    let ended = talk_through_a_pipe(&server, "one\\ntwo\\r\\n\\n小文\\nno line ending");
    assert_printed(&ended, &["one", "two", "小文", "no line ending"]);
    assert_printed(&talk_through_a_pipe(&server, ""), &[]);
    let stats = server.stop();
    assert_eq!((&stats["exchanges"], &stats["accepted"]), (&4.into(), &2.into()));
}

#[test]
fn talk_sends_nothing_after_bye() {
    let server = Served::start("mio", []);
    assert_printed(&talk_through_a_pipe(&server, "one\\nbye\\nthree\\n"), &["one"]);
    let received = server.stop()["bytes_received"].as_u64().unwrap();
    assert_eq!(received, "onebye".len() as u64);
}

#[test]
fn talk_with_hi_works_in_a_pipe() {
    let server = Served::start("mio", ["--service", "hi"]);
    assert_printed(&talk_through_a_pipe(&server, "hello!\\n"), &["hi"]);
    assert_eq!(server.stop()["closed"]["done"], 1);
}

#[test]
fn talk_replaces_invalid_utf8() {
    let server = Served::start("mio", []);
    assert_printed(&talk_through_a_pipe(&server, "a\\377b\\n"), &["a\u{fffd}b"]);
    server.stop();
}

/// Runs `lockstep talk` with the output of printf(1) for `input`.
fn talk_through_a_pipe(server: &Served, input: &str) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", "printf \"$1\" | \"$2\" talk \"$3\"", "sh", input, LOCKSTEP]);
    command.arg(server.addr.to_string());
    Process::start(command).wait()
}

#[test]
fn talk_reports_a_close_instead_of_a_reply() {
    let (mut client, mut server) = talk_with_us();
    client.type_line("hello!");
    assert_eq!(receive(&mut server), b"hello!");
    drop(server);
    let ended = client.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, ["the server closed the connection"]);
}

#[test]
fn talk_prints_late_bytes_before_the_next_request() {
    let (mut client, mut server) = talk_with_us();
    client.type_line("hello!");
    assert_eq!(receive(&mut server), b"hello!");
    server.write_all(b"the first piece").unwrap();
    assert_eq!(client.stdout.next().as_deref(), Some("the first piece"));
    server.write_all(b"the second piece").unwrap();
    client.type_line("and you?");
    assert_eq!(client.stdout.next().as_deref(), Some("the second piece"));
    assert_eq!(receive(&mut server), b"and you?");
    server.write_all(b"bye").unwrap();
    assert_printed(&client.wait(), &["bye"]);
}

#[test]
fn talk_prints_late_bytes_at_the_end_of_input() {
    let (mut client, mut server) = talk_with_us();
    client.type_line("hello!");
    client.type_end();
    assert_eq!(receive(&mut server), b"hello!");
    server.write_all(b"the first piece").unwrap();
    assert_eq!(client.stdout.next().as_deref(), Some("the first piece"));
    assert_eq!(receive(&mut server), b"", "the end of the input is passed on");
    server.write_all(b"the second piece").unwrap();
    drop(server);
    assert_printed(&client.wait(), &["the second piece"]);
}

/// `lockstep talk`, and the server's side of its connection.
fn talk_with_us() -> (Process, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let client = Process::start(lockstep(["talk", &addr]));
    let mut accepted = None;
    until("the client has connected", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, _peer) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, stream)
}

/// Receives one request, which was sent in one piece.
fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut request = vec![0; 1024];
    let count = stream.read(&mut request).unwrap();
    request.truncate(count);
    request
}
