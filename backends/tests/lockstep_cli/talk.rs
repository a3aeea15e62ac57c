//! `lockstep talk`: the tutorial's client, in a pipe.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use rustix::process::Signal;

use crate::common::child::{LOCKSTEP, Process, Served, lockstep};
use crate::common::client::Client;
use crate::common::{kernel, until};
use crate::harness::{assert_complains, run};

fn talk(addr: SocketAddr) -> Process {
    Process::start(lockstep(["talk", &addr.to_string()]))
}

#[test]
fn talk_prints_the_reply_to_each_line() {
    let server = Served::start("mio", []);
    let mut client = talk(server.addr);
    for line in ["hello!", "小文说", "x", "bye bye"] {
        client.type_line(line);
        assert_eq!(client.stdout.next().as_deref(), Some(line));
    }
    client.type_line(""); // TCP cannot carry it
    client.type_line("again");
    assert_eq!(client.stdout.next().as_deref(), Some("again"));
    client.type_end();
    let ended = client.wait();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0), "{:?}", ended.stderr);
    let stats = server.stop();
    assert_eq!((&stats["exchanges"], &stats["closed"]["eof"]), (&5.into(), &1.into()), "{stats}");
}

#[test]
fn talk_sends_bye_and_ends() {
    let server = Served::start("mio", []);
    let mut client = talk(server.addr);
    client.type_line("hello!");
    client.type_line("bye");
    client.type_line("not said any more");
    let ended = client.wait();
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(0), &["hello!".to_owned()][..]));
    assert!(server.stop()["bytes_received"].as_u64() >= Some(6));
}

#[test]
fn long_line_is_sent_as_several_requests() {
    let server = Served::start("mio", []);
    let line = "明".repeat(1000); // 3000 bytes, 1023 at a time
    let mut client = talk(server.addr);
    client.type_line(&line);
    client.type_end();
    let ended = client.wait();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.stdout.concat(), line, "no character is torn");
    assert_eq!(server.stop()["exchanges"], 3);
}

#[test]
fn talk_prints_hi_and_ends() {
    let server = Served::start("mio", ["--service", "hi"]);
    let mut client = talk(server.addr);
    client.type_line("hello!");
    assert_eq!(client.stdout.next().as_deref(), Some("hi"));
    client.type_line("still there?");
    let ended = client.wait();
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(0), 0), "{:?}", ended.stderr);
    assert!(ended.stderr.concat().contains("closed the connection"), "{:?}", ended.stderr);
    server.stop();
}

#[test]
fn talk_and_chat_have_a_conversation() {
    let mut server = Served::start("mio", ["--service", "chat"]);
    for ends in ["client", "operator"] {
        let mut client = talk(server.addr);
        for (said, answer) in [("hello!", "hi"), ("小文说", "明威说")] {
            client.type_line(said);
            assert_eq!(server.next_request().1, said);
            server.process.type_line(answer);
            assert_eq!(client.stdout.next().as_deref(), Some(answer));
        }
        if ends == "client" {
            client.type_line("bye");
            assert_eq!(server.next_request().1, "bye");
        } else {
            client.type_line("one more");
            assert_eq!(server.next_request().1, "one more");
            server.process.type_line("bye");
            assert_eq!(client.stdout.next().as_deref(), Some("bye"));
        }
        let ended = client.wait();
        assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0), "{:?}", ended.stderr);
    }
    let stats = server.stop();
    assert_eq!((&stats["closed"]["bye"], &stats["closed"]["done"]), (&1.into(), &1.into()));
}

/// A server must not control the terminal.
#[test]
fn talk_escapes_control_characters() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = talk(listener.local_addr().unwrap());
    client.type_line("hello!");
    let mut server = Client { stream: listener.accept().unwrap().0 };
    assert_eq!(server.receive(6), b"hello!");
    server.send(b"\x1b[2J\xff");
    assert_eq!(client.stdout.next().as_deref(), Some("\\u{1b}[2J\\xff"));
    client.type_end();
    assert_eq!(client.wait().status.code(), Some(0));
}

/// As the server does for a client's.
#[test]
fn bye_with_a_line_ending_ends_it() {
    for bye in ["bye", "bye\n", "bye\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = talk(listener.local_addr().unwrap());
        client.type_line("hello!");
        let mut server = Client { stream: listener.accept().unwrap().0 };
        assert_eq!(server.receive(6), b"hello!");
        server.send(bye.as_bytes());
        assert_eq!(server.receive_to_end(), b"", "it closes, with its input still open");
        let ended = client.wait();
        assert_eq!((ended.status.code(), &*ended.stdout), (Some(0), &["bye".to_owned()][..]));
        assert_eq!(ended.stderr, [""; 0]);
    }
}

/// The first receive takes 1,024 bytes; the last character is never completed.
#[test]
fn reply_in_pieces_is_shown_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = talk(listener.local_addr().unwrap());
    client.type_line("hello!");
    let mut server = Client { stream: listener.accept().unwrap().0 };
    assert_eq!(server.receive(6), b"hello!");
    let text = "小".repeat(500);
    server.send(text.as_bytes());
    server.send(b"\xe5\xb0");
    server.finish();
    client.type_end();
    let ended = client.wait();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.stdout.concat(), text + "\\xe5\\xb0");
}

#[test]
fn refused_connection_is_an_error_with_a_hint() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addr = free.to_string();
    assert_complains(&run(["talk", &addr]), 4, &[&addr, "ECONNREFUSED"]);
}

#[test]
fn talk_reports_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = talk(listener.local_addr().unwrap());
    client.type_line("hello!");
    Client { stream: listener.accept().unwrap().0 }.reset();
    let ended = client.wait();
    assert_eq!(ended.status.code(), Some(1), "{:?}", ended.stderr);
    assert!(ended.stderr[0].starts_with("error: "), "{:?}", ended.stderr);
    assert!(ended.stderr[0].contains("ECONNRESET"), "{:?}", ended.stderr);
}

/// As in `lockstep talk ADDR | head -1`.
#[test]
fn talk_ends_quietly_if_stdout_is_closed() {
    let server = Served::start("mio", []);
    let script = format!("exec {LOCKSTEP} talk {} | true", server.addr);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::piped());
    let mut client = Process::start(command);
    // However many lines it takes until it notices; or the pipe to it breaks.
    until("it has ended", || {
        let _ended = std::io::Write::write_all(client.stdin(), b"hello!\n");
        client.has_ended()
    });
    let ended = client.wait();
    assert_eq!(ended.stderr, [""; 0], "quietly");
    server.stop();
}

#[test]
fn talk_waits_for_the_servers_fin() {
    let server = Served::start("blocking", []);
    let mut client = talk(server.addr);
    client.type_line("hello!");
    assert_eq!(client.stdout.next().as_deref(), Some("hello!"));
    server.process.signal(Signal::TERM);
    // Before that, it would still be answered.
    kernel::until_closed(server.addr);
    client.type_line("anybody there?");
    let ended = client.wait();
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(0), 0), "{:?}", ended.stderr);
    assert_eq!(server.process.wait().status.code(), Some(0));
}
