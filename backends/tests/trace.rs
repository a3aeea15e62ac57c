//! `--trace`: the lines are the calls that were made, in their order, without a gap.

mod common;

#[path = "trace/lines.rs"]
mod lines;
#[path = "trace/strace.rs"]
mod strace;

use common::child::{Ended, Process, Served, is_available, lockstep};
use common::client::Client;
use rustix::process::Signal;

use lines::{Line, conversation};

/// Arguments of a traced server with one shard.
const CHAT: [&str; 4] = ["--service=chat", "--trace", "--shards=1", "--backlog=5"];

/// The tutorial's client: sends hello, receives the operator's answer, sends bye.
fn talk_to(server: &mut Served) {
    let mut client = Process::start(lockstep(["talk", &server.addr.to_string()]));
    client.type_line("hello!");
    assert_eq!(server.next_request().1, "hello!");
    server.process.type_line("hi");
    assert_eq!(client.stdout.next().as_deref(), Some("hi"));
    client.type_line("bye");
    assert_eq!(server.next_request().1, "bye");
    assert_eq!(client.wait().status.code(), Some(0));
    common::kernel::until_closed(server.addr);
}

fn end(server: Served) -> Ended {
    server.process.signal(Signal::TERM);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    ended
}

/// Trace of a conversation with the tutorial's client, without the calls that returned EAGAIN,
/// whose number varies.
fn trace_of_chat(backend: &str) -> Option<(Vec<Line>, Vec<String>)> {
    if !is_available(backend) {
        return None;
    }
    let mut server = Served::start(backend, CHAT);
    talk_to(&mut server);
    let lines = Line::all(&end(server));
    let conversation = conversation(&lines, 1).filter(|line| !line.call.contains("EAGAIN"));
    let conversation = conversation.map(|line| line.call.clone()).collect();
    Some((lines, conversation))
}

/// The descriptor that the first accept returned.
fn accepted(conversation: &[String]) -> &str {
    conversation[0].split_once("-> ").unwrap().1.split(' ').next().unwrap()
}

#[test]
fn trace_of_blocking_is_the_tutorials_conversation() {
    let Some((lines, conversation)) = trace_of_chat("blocking") else { return };
    let (fd, listener) = (accepted(&conversation), lines::listener(&lines));
    assert_eq!(
        conversation,
        [
            format!("accept({listener}) -> {fd}"),
            format!("recv({fd}, 1024) -> 6 \"hello!\""),
            format!("send({fd}, \"hi\", 2) -> 2"),
            format!("recv({fd}, 1024) -> 3 \"bye\""),
            format!("shutdown({fd}, SHUT_WR) -> 0"),
            format!("setsockopt({fd}, SO_RCVTIMEO, 1s) -> 0"),
            format!("recv({fd}, 1024) -> 0 \"\""),
            format!("close({fd})"),
        ]
    );
}

#[test]
fn trace_of_mio_shows_epoll() {
    let Some((lines, conversation)) = trace_of_chat("mio") else { return };
    let (fd, listener) = (accepted(&conversation), lines::listener(&lines));
    let epoll =
        lines.iter().find_map(|line| line.call.strip_prefix("epoll_create1(EPOLL_CLOEXEC) -> "));
    let epoll = epoll.expect("an epoll instance");
    assert_eq!(
        conversation,
        [
            format!("accept({listener}) -> {fd}"),
            format!("epoll_ctl({epoll}, EPOLL_CTL_ADD, {fd}) -> 0"),
            format!("recv({fd}, 2048) -> 6 \"hello!\""),
            format!("send({fd}, \"hi\", 2) -> 2"),
            format!("recv({fd}, 2048) -> 3 \"bye\""),
            format!("shutdown({fd}, SHUT_WR) -> 0"),
            format!("recv({fd}, 2048) -> 0 \"\""),
            format!("close({fd})"),
        ]
    );
    let wait = format!("epoll_wait({epoll}, no timeout) -> 1 event");
    assert!(lines.iter().any(|line| line.call == wait), "{lines:?}");
}

#[test]
fn trace_of_io_uring_shows_one_multishot_receive() {
    let Some((lines, conversation)) = trace_of_chat("io-uring") else { return };
    let (fd, listener) = (accepted(&conversation), lines::listener(&lines));
    assert_eq!(
        conversation,
        [
            format!("complete ACCEPT fd={listener} -> {fd} F_MORE"),
            format!("submit RECV fd={fd} 1024"),
            format!("complete RECV fd={fd} -> 6 \"hello!\""),
            format!("submit SEND fd={fd} \"hi\" 2 CQE_SKIP_SUCCESS"),
            format!("submit RECV fd={fd} MULTISHOT"),
            format!("complete RECV fd={fd} -> 3 \"bye\" F_MORE"),
            format!("shutdown({fd}, SHUT_WR) -> 0"),
            format!("complete RECV fd={fd} -> 0"),
            format!("submit CLOSE fd={fd} CQE_SKIP_SUCCESS"),
        ]
    );
}

#[test]
fn trace_shows_listening_and_the_end() {
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        let Some((lines, _)) = trace_of_chat(backend) else { continue };
        let fd = lines::listener(&lines);
        let address = lines[3].call.split(", ").nth(1).unwrap().split(')').next().unwrap();
        let begun: Vec<_> = lines.iter().map(|line| &*line.call).take(6).collect();
        assert_eq!(address, "127.0.0.1:0");
        assert_eq!(
            begun[..5],
            [
                format!("socket(AF_INET, SOCK_STREAM, IPPROTO_TCP) -> {fd}"),
                format!("setsockopt({fd}, SO_REUSEADDR, 1) -> 0"),
                format!("setsockopt({fd}, TCP_NODELAY, 1) -> 0"),
                format!("bind({fd}, {address}) -> 0"),
                format!("listen({fd}, 5) -> 0"),
            ],
            "{backend}"
        );
        assert!(begun[5].starts_with(&format!("getsockname({fd}) -> 127.0.0.1:")), "{begun:?}");
        // A ring submits its last closes after that.
        let mut calls = lines.iter().filter(|line| !line.call.starts_with("io_uring_enter"));
        assert_eq!(calls.next_back().unwrap().call, format!("close({fd})"), "{backend}");
        assert!(lines.is_sorted_by_key(|line| line.at_us), "{backend}: {lines:?}");
    }
}

/// An error teaches most: the listen queue is empty, so accept returns EAGAIN.
#[test]
fn trace_names_errors() {
    let server = Served::start("mio", ["--trace", "--shards=1"]);
    let mut client = server.connect();
    client.exchange(b"hello!");
    client.reset();
    common::kernel::until_closed(server.addr);
    let lines = Line::all(&end(server));
    let has = |what: &str| lines.iter().any(|line| line.call.ends_with(what));
    assert!(has(" -> -1 ECONNRESET"), "{lines:?}");
    let empty = format!("accept({}) -> -1 EAGAIN", lines::listener(&lines));
    assert!(has(&empty), "{lines:?}");
}

#[test]
fn trace_numbers_connections_and_shortens_bytes() {
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        if !is_available(backend) {
            continue;
        }
        let server = Served::start(backend, ["--trace", "--shards=1"]);
        for request in [&b"first"[..], &[b'x'; 1024], "第三\n".as_bytes()] {
            let mut client = server.connect();
            client.exchange(request);
            drop(client);
            common::kernel::until_closed(server.addr);
        }
        let lines = Line::all(&end(server));
        let shortened = format!("\"{}\"...", "x".repeat(40));
        for (number, shown) in [(1, "\"first\""), (2, &*shortened), (3, "\"第三\\n\"")] {
            let shown = |line: &&Line| line.call.contains(shown);
            let both: Vec<_> = conversation(&lines, number).filter(shown).collect();
            assert_eq!(both.len(), 2, "received and sent, number {number}: {lines:?}");
        }
    }
}

#[test]
fn trace_of_talk_shows_the_clients_calls() {
    let server = Served::start("mio", ["--service=hi"]);
    let mut client = Process::start(lockstep(["talk", "--trace", &server.addr.to_string()]));
    client.type_line("hello!");
    assert_eq!(client.stdout.next().as_deref(), Some("hi"));
    client.type_end();
    let ended = client.wait();
    assert_eq!(ended.status.code(), Some(0));
    let lines: Vec<_> = ended.stderr.iter().map(|line| Line::parse(line)).collect();
    assert!(lines.iter().all(|line| line.who == "client"), "{lines:?}");
    let calls: Vec<_> = lines.iter().map(|line| &*line.call).collect();
    let fd = calls[0].split_once("-> ").unwrap().1;
    assert_eq!(
        calls[..9],
        [
            format!("socket(AF_INET, SOCK_STREAM, IPPROTO_TCP) -> {fd}"),
            format!("connect({fd}, {}) -> 0", server.addr),
            format!("setsockopt({fd}, TCP_NODELAY, 1) -> 0"),
            format!("ioctl({fd}, FIONBIO, 1) -> 0"),
            format!("recv({fd}, 1024) -> -1 EAGAIN"),
            format!("ioctl({fd}, FIONBIO, 0) -> 0"),
            format!("send({fd}, \"hello!\", 6) -> 6"),
            format!("recv({fd}, 1024) -> 2 \"hi\""),
            format!("shutdown({fd}, SHUT_WR) -> 0"),
        ]
    );
    assert_eq!(calls.last(), Some(&&*format!("close({fd})")));
    end(server);
}

/// One thread, as one telephone: a second client is connected, and waits until the first has
/// closed.
#[test]
fn trace_of_a_single_thread_shows_clients_in_sequence() {
    let args = ["--threads=1", "--trace", "--backlog=5"];
    let server = Served::start("blocking", args);
    let mut first = server.connect();
    first.exchange(b"first");
    let mut second = server.connect();
    second.send(b"second");
    common::until("the second waits", || common::kernel::listen_queues(server.addr) == [1]);
    first.exchange(b"still the first");
    assert!(!second.is_readable(), "two at once, on one telephone");
    drop(first);
    assert_eq!(second.receive(6), b"second");
    drop(second);
    common::kernel::until_closed(server.addr);
    let lines = Line::all(&end(server));
    let listener = lines::listener(&lines);
    let whose: Vec<_> = lines.iter().filter(|line| line.who != "server").collect();
    let fd = accepted(&[whose[0].call.clone()]).to_owned();
    let calls: Vec<_> = whose.iter().map(|line| (&*line.who, &*line.call)).collect();
    let expected = [
        ("conn 1", format!("accept({listener}) -> {fd}")),
        ("conn 1", format!("recv({fd}, 1024) -> 5 \"first\"")),
        ("conn 1", format!("send({fd}, \"first\", 5) -> 5")),
        ("conn 1", format!("recv({fd}, 1024) -> 15 \"still the first\"")),
        ("conn 1", format!("send({fd}, \"still the first\", 15) -> 15")),
        ("conn 1", format!("recv({fd}, 1024) -> 0 \"\"")),
        ("conn 1", format!("close({fd})")),
        ("conn 2", format!("accept({listener}) -> {fd}")),
        ("conn 2", format!("recv({fd}, 1024) -> 6 \"second\"")),
        ("conn 2", format!("send({fd}, \"second\", 6) -> 6")),
        ("conn 2", format!("recv({fd}, 1024) -> 0 \"\"")),
        ("conn 2", format!("close({fd})")),
    ];
    assert_eq!(calls, expected.each_ref().map(|(who, call)| (*who, &**call)));
}

/// strace reports the same calls on the connection, with the same results, in the same order.
#[test]
fn trace_agrees_with_strace() {
    if let Err(why) = strace::is_available() {
        return common::skip("strace", why);
    }
    for backend in ["blocking", "poll", "mio"] {
        let files = strace::Files::new(backend);
        let mut server = Served::start_command(strace::watch(&files, backend, &CHAT));
        let mut quick = Client::connect(server.addr);
        quick.send(b"bye");
        quick.expect_end();
        drop(quick);
        assert_eq!(server.next_request().1, "bye");
        talk_to(&mut server);
        let lines = Line::all(&end(server));
        let seen = files.conversations();
        assert_eq!(seen.len(), 2, "{backend}: {seen:?}");
        for (seen, number) in seen.iter().zip(1..) {
            let lines: Vec<_> = conversation(&lines, number).map(Line::name_and_result).collect();
            assert!(lines.len() >= 5, "a whole conversation: {lines:?}");
            assert_eq!(&lines, seen, "{backend}, connection {number}");
        }
    }
}
