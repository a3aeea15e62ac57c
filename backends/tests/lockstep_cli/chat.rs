//! The tutorial's conversation, with the operator at the server's standard input and output.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::child::{Served, is_available, statistics};
use crate::common::client::Client;

/// Runs the rule with a chat server of each backend, concurrently.
fn with_each_backend(args: &[&str], rule: fn(Served)) {
    thread::scope(|scope| {
        for backend in ["blocking", "poll", "mio", "io-uring"] {
            if is_available(backend) {
                let args = [&["--service", "chat"], args].concat();
                scope.spawn(move || rule(Served::start(backend, args)));
            }
        }
    });
}

/// The next request on the operator's screen is this one of the client's.
#[track_caller]
fn assert_shown(server: &Served, client: &Client, request: &str) {
    assert_eq!(server.next_request(), (client.addr().to_string(), request.to_owned()));
}

fn assert_answered(server: &mut Served, client: &mut Client, answer: &str) {
    server.process.type_line(answer);
    assert_eq!(client.receive(answer.len()), answer.as_bytes());
}

#[test]
fn chat_alternates_requests_and_answers() {
    with_each_backend(&[], |mut server| {
        let mut client = server.connect();
        for (said, answer) in [("hello!", "hi"), ("小文说", "明威说>>>>:"), ("3", " ")] {
            client.send(said.as_bytes());
            assert_shown(&server, &client, said);
            assert_answered(&mut server, &mut client, answer);
        }
        drop(client);
        let stats = server.stop();
        assert_eq!((&stats["exchanges"], &stats["service"]), (&3.into(), &"chat".into()));
    });
}

#[test]
fn bye_from_the_client_ends_it_without_an_answer() {
    with_each_backend(&[], |mut server| {
        for said in ["bye", "bye\n", "bye\r\n"] {
            let mut client = server.connect();
            client.send(b"hello!");
            assert_shown(&server, &client, "hello!");
            assert_answered(&mut server, &mut client, "hi");
            client.send(said.as_bytes());
            assert_shown(&server, &client, "bye");
            client.expect_end();
        }
        assert_eq!(server.stop()["closed"]["bye"], 3);
    });
}

#[test]
fn bye_from_the_operator_is_sent_and_ends_it() {
    with_each_backend(&[], |mut server| {
        let mut client = server.connect();
        client.send(b"hello!");
        server.process.type_line("bye");
        assert_eq!(client.receive_to_end(), b"bye");
        drop(client);
        assert_eq!(server.stop()["closed"]["done"], 1);
    });
}

#[test]
fn operator_sees_who_connects_asks_and_leaves() {
    with_each_backend(&[], |server| {
        let mut client = server.connect();
        client.send(b"bye");
        client.expect_end();
        let addr = client.addr();
        drop(client);
        for event in [" connected", ": bye", " left"] {
            assert_eq!(server.process.stdout.next(), Some(format!("{addr}{event}")));
        }
        server.stop();
    });
}

/// A request that only contains `bye` ends nothing.
#[test]
fn bye_must_be_the_whole_request() {
    with_each_backend(&[], |mut server| {
        let mut client = server.connect();
        for said in ["bye bye", "Bye", "goodbye", "by"] {
            client.send(said.as_bytes());
            assert_shown(&server, &client, said);
            assert_answered(&mut server, &mut client, "still here");
        }
        drop(client);
        assert_eq!(server.stop()["closed"]["bye"], 0);
    });
}

#[test]
fn chat_escapes_control_characters() {
    with_each_backend(&[], |mut server| {
        let mut client = server.connect();
        let cases: [(&[u8], &str); 6] = [
            (b"\xff\xfe hello", "\\xff\\xfe hello"),
            ("a\u{202e}b\u{200b}c\u{feff}".as_bytes(), "a\\u{202e}b\\u{200b}c\\u{feff}"),
            (b"a\xe5\xb0", "a"), // the beginning of a character
            (b"\x8fb", "小b"),
            (b"\x1b[2J\x07", "\\u{1b}[2J\\u{7}"),
            (b"one\ntwo\n", "one\\ntwo"),
        ];
        for (said, shown) in cases {
            client.send(said);
            assert_shown(&server, &client, shown);
            assert_answered(&mut server, &mut client, "seen");
        }
        drop(client);
        server.stop();
    });
}

/// By the server's receive of at most 1,024 bytes.
#[test]
fn character_cut_in_two_is_shown_whole() {
    with_each_backend(&[], |mut server| {
        let text = "小".repeat(350);
        let mut client = server.connect();
        client.send(text.as_bytes());
        let mut shown = String::new();
        while shown != text {
            shown += &server.next_request().1;
            assert!(text.starts_with(&shown), "{shown}");
            assert_answered(&mut server, &mut client, "seen");
        }
        client.send(b"\xe5\xb0");
        assert_shown(&server, &client, "");
        assert_answered(&mut server, &mut client, "seen");
        let addr = client.addr();
        drop(client);
        assert_eq!(server.process.stdout.next(), Some(format!("{addr}: \\xe5\\xb0")));
        server.stop();
    });
}

#[test]
fn empty_line_is_not_an_answer() {
    with_each_backend(&[], |mut server| {
        let mut client = server.connect();
        client.send(b"hello!");
        server.process.type_line("");
        server.process.type_line("");
        assert_answered(&mut server, &mut client, "at last");
        drop(client);
        server.stop();
    });
}

/// A reply has at most 1,024 bytes, and is not cut within a character.
#[test]
fn long_answer_is_cut_with_a_note() {
    with_each_backend(&[], |mut server| {
        let mut client = server.connect();
        client.send(b"tell me more");
        assert_shown(&server, &client, "tell me more");
        server.process.type_line(&"明".repeat(400));
        assert_eq!(client.receive(1023), "明".repeat(341).as_bytes());
        assert!(server.process.stdout.next().unwrap().contains("1024"));
        client.send(b"and more");
        assert_answered(&mut server, &mut client, "no");
        drop(client);
        server.stop();
    });
}

#[test]
fn chat_answers_in_order_of_arrival() {
    with_each_backend(&[], |mut server| {
        let (mut first, mut second) = (server.connect(), server.connect());
        first.send(b"first");
        assert_shown(&server, &first, "first");
        second.send(b"second");
        assert_answered(&mut server, &mut first, "to the first");
        assert_shown(&server, &second, "second");
        assert_answered(&mut server, &mut second, "to the second");
        drop((first, second));
        server.stop();
    });
}

#[test]
fn end_of_operator_input_drains() {
    with_each_backend(&[], |mut server| {
        let (mut idle, mut asking) = (server.connect(), server.connect());
        idle.send(b"hello!");
        assert_answered(&mut server, &mut idle, "hi");
        asking.send(b"anybody there?");
        server.process.type_end();
        asking.expect_end();
        idle.expect_end();
        drop((idle, asking));
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{:?}", ended.stderr);
        statistics(&ended);
    });
}

/// A line typed before the end is still sent.
#[test]
fn last_line_needs_no_line_ending() {
    with_each_backend(&[], |mut server| {
        use std::io::Write;
        let mut client = server.connect();
        client.send(b"hello!");
        server.process.stdin().write_all(b"last words").unwrap();
        server.process.type_end();
        assert_eq!(client.receive(10), b"last words");
        drop(client);
        server.process.signal(Signal::TERM);
        assert_eq!(server.process.wait().status.code(), Some(0));
    });
}

#[test]
fn signal_does_not_wait_for_the_operator() {
    with_each_backend(&[], |server| {
        let (mut asking, mut idle) = (server.connect(), server.connect());
        asking.send(b"anybody there?");
        assert_shown(&server, &asking, "anybody there?");
        server.process.signal(Signal::INT);
        asking.expect_end();
        idle.expect_end();
        drop((asking, idle));
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{:?}", ended.stderr);
        assert_eq!(statistics(&ended)["accepted"], 2);
    });
}

/// Neither for the client that waits for its answer nor for one whose request is queued.
#[test]
fn idle_timeout_does_not_count_the_operators_time() {
    with_each_backend(&["--idle-timeout", "200ms"], |mut server| {
        let (mut first, mut second) = (server.connect(), server.connect());
        first.send(b"first");
        assert_shown(&server, &first, "first");
        second.send(b"second");
        thread::sleep(Duration::from_millis(300));
        assert_answered(&mut server, &mut first, "to the first");
        assert_shown(&server, &second, "second");
        thread::sleep(Duration::from_millis(300));
        assert_answered(&mut server, &mut second, "to the second");
        drop((first, second));
        server.stop();
    });
}

/// The `bye` is found after the operator's answer, when the idle timeout is long over.
#[test]
fn bye_sent_while_the_operator_types_is_not_idle() {
    with_each_backend(&["--idle-timeout", "500ms"], |mut server| {
        let (mut leaving, mut asking) = (server.connect(), server.connect());
        asking.send(b"hello!");
        assert_shown(&server, &asking, "hello!");
        leaving.send(b"bye");
        thread::sleep(Duration::from_millis(600));
        assert_answered(&mut server, &mut asking, "hi");
        assert_shown(&server, &leaving, "bye");
        leaving.expect_end();
        drop((leaving, asking));
        let stats = server.stop();
        assert_eq!((&stats["closed"]["bye"], &stats["closed"]["idle"]), (&1.into(), &0.into()));
    });
}

/// The operator's answer is lost; nothing else is.
#[test]
fn chat_survives_a_client_that_resets() {
    with_each_backend(&[], |mut server| {
        let mut resetting = server.connect();
        resetting.send(b"never mind");
        assert_shown(&server, &resetting, "never mind");
        resetting.reset();
        server.process.type_line("too late");
        let mut next = server.connect();
        next.send(b"my turn");
        assert_shown(&server, &next, "my turn");
        assert_answered(&mut server, &mut next, "yes");
        drop(next);
        server.stop();
    });
}
