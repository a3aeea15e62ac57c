//! The tutorial's conversation, with the operator at the server's standard input and output.

use rustix::process::Signal;

use crate::common::child::{Served, is_available, statistics};
use crate::common::client::Client;

/// Runs the rule with a chat server of each backend.
fn with_each_backend(rule: fn(Served)) {
    for backend in ["blocking", "mio", "io-uring"] {
        if is_available(backend) {
            rule(Served::start(backend, ["--service", "chat"]));
        }
    }
}

/// The next request on the operator's screen is this one of the client's.
#[track_caller]
fn assert_shown(server: &Served, client: &Client, request: &str) {
    assert_eq!(server.next_request(), (client.addr().to_string(), request.to_owned()));
}

fn assert_answered(server: &mut Served, client: &mut Client, answer: &str) {
    server.process.type_line(answer);
    assert_eq!(client.hear(answer.len()), answer.as_bytes());
}

#[test]
fn a_conversation_goes_back_and_forth() {
    with_each_backend(|mut server| {
        let mut client = server.connect();
        for (said, answer) in [("hello!", "hi"), ("小文说", "明威说>>>>:"), ("3", " ")] {
            client.say(said.as_bytes());
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
    with_each_backend(|mut server| {
        for said in ["bye", "bye\n", "bye\r\n"] {
            let mut client = server.connect();
            client.say(b"hello!");
            assert_shown(&server, &client, "hello!");
            assert_answered(&mut server, &mut client, "hi");
            client.say(said.as_bytes());
            assert_shown(&server, &client, "bye");
            client.hear_the_end();
        }
        assert_eq!(server.stop()["closed"]["bye"], 3);
    });
}

#[test]
fn bye_from_the_operator_is_sent_and_ends_it() {
    with_each_backend(|mut server| {
        let mut client = server.connect();
        client.say(b"hello!");
        server.process.type_line("bye");
        assert_eq!(client.hear_the_rest(), b"bye");
        drop(client);
        assert_eq!(server.stop()["closed"]["done"], 1);
    });
}

#[test]
fn operator_sees_who_connects_asks_and_leaves() {
    with_each_backend(|server| {
        let mut client = server.connect();
        client.say(b"bye");
        client.hear_the_end();
        let addr = client.addr();
        drop(client);
        for event in [" connected", ": bye", " left"] {
            assert_eq!(server.process.stdout.next(), Some(format!("{addr}{event}")));
        }
        server.stop();
    });
}

/// It is a whole request that says bye, not a word in one.
#[test]
fn a_part_of_a_request_is_no_bye() {
    with_each_backend(|mut server| {
        let mut client = server.connect();
        for said in ["bye bye", "Bye", "goodbye", "by"] {
            client.say(said.as_bytes());
            assert_shown(&server, &client, said);
            assert_answered(&mut server, &mut client, "still here");
        }
        drop(client);
        assert_eq!(server.stop()["closed"]["bye"], 0);
    });
}

#[test]
fn what_would_break_the_line_or_drive_the_terminal_is_shown_escaped() {
    with_each_backend(|mut server| {
        let mut client = server.connect();
        let cases: [(&[u8], &str); 4] = [
            (b"\xff\xfe hello", "\\xff\\xfe hello"),
            (b"\xe5\xb0", "\\xe5\\xb0"), // the beginning of a character
            (b"\x1b[2J\x07", "\\u{1b}[2J\\u{7}"),
            (b"one\ntwo\n", "one\\ntwo"),
        ];
        for (said, shown) in cases {
            client.say(said);
            assert_shown(&server, &client, shown);
            assert_answered(&mut server, &mut client, "seen");
        }
        drop(client);
        server.stop();
    });
}

#[test]
fn an_empty_line_is_no_answer() {
    with_each_backend(|mut server| {
        let mut client = server.connect();
        client.say(b"hello!");
        server.process.type_line("");
        server.process.type_line("");
        assert_answered(&mut server, &mut client, "at last");
        drop(client);
        server.stop();
    });
}

/// A reply has 1024 bytes at the most, and is not cut in the middle of a character.
#[test]
fn an_answer_that_is_too_long_is_cut_and_the_operator_told() {
    with_each_backend(|mut server| {
        let mut client = server.connect();
        client.say(b"tell me more");
        server.process.type_line(&"明".repeat(400));
        assert_eq!(client.hear(1023), "明".repeat(341).as_bytes());
        assert!(server.process.stderr.next().unwrap().contains("1024"));
        client.say(b"and more");
        assert_answered(&mut server, &mut client, "no");
        drop(client);
        server.stop();
    });
}

#[test]
fn who_asks_while_another_is_answered_is_answered_next() {
    with_each_backend(|mut server| {
        let (mut first, mut second) = (server.connect(), server.connect());
        first.say(b"first");
        assert_shown(&server, &first, "first");
        second.say(b"second");
        assert_answered(&mut server, &mut first, "to the first");
        assert_shown(&server, &second, "second");
        assert_answered(&mut server, &mut second, "to the second");
        drop((first, second));
        server.stop();
    });
}

#[test]
fn the_end_of_the_operators_input_ends_it_in_order() {
    with_each_backend(|mut server| {
        let (mut idle, mut asking) = (server.connect(), server.connect());
        idle.say(b"hello!");
        assert_answered(&mut server, &mut idle, "hi");
        asking.say(b"anybody there?");
        server.process.type_end();
        asking.hear_the_end();
        idle.hear_the_end();
        drop((idle, asking));
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{:?}", ended.stderr);
        statistics(&ended);
    });
}

/// What was typed before the end is still said.
#[test]
fn the_last_line_needs_no_line_ending() {
    with_each_backend(|mut server| {
        use std::io::Write;
        let mut client = server.connect();
        client.say(b"hello!");
        server.process.stdin().write_all(b"last words").unwrap();
        server.process.type_end();
        assert_eq!(client.hear(10), b"last words");
        drop(client);
        server.process.signal(Signal::TERM);
        assert_eq!(server.process.wait().status.code(), Some(0));
    });
}

#[test]
fn a_signal_does_not_wait_for_the_operator() {
    with_each_backend(|server| {
        let (mut asking, mut idle) = (server.connect(), server.connect());
        asking.say(b"anybody there?");
        assert_shown(&server, &asking, "anybody there?");
        server.process.signal(Signal::INT);
        asking.hear_the_end();
        idle.hear_the_end();
        drop((asking, idle));
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{:?}", ended.stderr);
        assert_eq!(statistics(&ended)["accepted"], 2);
    });
}

/// Neither of who waits for the answer nor of who waits for the turn.
#[test]
fn a_thoughtful_operator_makes_nobody_idle() {
    for backend in ["blocking", "mio", "io-uring"] {
        if !is_available(backend) {
            continue;
        }
        let mut server = Served::start(backend, ["--service", "chat", "--idle-timeout", "200ms"]);
        let (mut first, mut second) = (server.connect(), server.connect());
        first.say(b"first");
        assert_shown(&server, &first, "first");
        second.say(b"second");
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_answered(&mut server, &mut first, "to the first");
        assert_shown(&server, &second, "second");
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_answered(&mut server, &mut second, "to the second");
        drop((first, second));
        server.stop();
    }
}

/// Who has said so before the operator's answer is found after it, when its time has long been over.
#[test]
fn who_says_bye_while_the_operator_thinks_is_not_idle() {
    for backend in ["blocking", "mio", "io-uring"] {
        if !is_available(backend) {
            continue;
        }
        let mut server = Served::start(backend, ["--service", "chat", "--idle-timeout", "500ms"]);
        let (mut leaving, mut asking) = (server.connect(), server.connect());
        asking.say(b"hello!");
        assert_shown(&server, &asking, "hello!");
        leaving.say(b"bye");
        std::thread::sleep(std::time::Duration::from_millis(800));
        assert_answered(&mut server, &mut asking, "hi");
        assert_shown(&server, &leaving, "bye");
        leaving.hear_the_end();
        drop((leaving, asking));
        let stats = server.stop();
        assert_eq!((&stats["closed"]["bye"], &stats["closed"]["idle"]), (&1.into(), &0.into()));
    }
}

/// A client that leaves while the operator thinks costs nothing but the answer.
#[test]
fn who_does_not_wait_for_the_answer_is_no_trouble() {
    with_each_backend(|mut server| {
        let mut hasty = server.connect();
        hasty.say(b"never mind");
        assert_shown(&server, &hasty, "never mind");
        hasty.reset();
        server.process.type_line("too late");
        let mut next = server.connect();
        next.say(b"my turn");
        assert_shown(&server, &next, "my turn");
        assert_answered(&mut server, &mut next, "yes");
        drop(next);
        server.stop();
    });
}
