//! One operator and several clients.

use crate::common::child::{Served, statistics};
use crate::common::client::Client;
use crate::common::kernel::listen_queues;

on_every_backend! {
    clients_take_turns
    end_of_operator_input_resets_no_client
    missing_operator_drains_at_the_first_request
}

/// A server whose drain timeout is longer than any test.
fn chat(backend: &str) -> Served {
    Served::start(backend, ["--service", "chat", "--drain-timeout", "1h"])
}

/// The next request on the operator's screen is this one of the client's.
#[track_caller]
fn assert_shown(server: &Served, client: &Client, request: &str) {
    assert_eq!(server.next_request(), (client.addr().to_string(), request.to_owned()));
}

#[track_caller]
fn assert_hears(client: &mut Client, answer: &str) {
    assert_eq!(String::from_utf8(client.receive(answer.len())).as_deref(), Ok(answer));
}

fn clients_take_turns(backend: &str) {
    let mut server = chat(backend);
    let (mut one, mut two) = (server.connect(), server.connect());
    one.send(b"one asks");
    assert_shown(&server, &one, "one asks");
    for _ in 0..3 {
        // While the operator thinks about the one, the other has to wait, and vice versa.
        two.send(b"two asks");
        server.process.type_line("for one");
        assert_hears(&mut one, "for one");
        assert_shown(&server, &two, "two asks");
        assert!(!two.is_readable(), "an answer before the operator gave one");
        one.send(b"one asks");
        server.process.type_line("for two");
        assert_hears(&mut two, "for two");
        assert_shown(&server, &one, "one asks");
        assert!(!one.is_readable(), "an answer before the operator gave one");
    }
    server.process.type_line("bye");
    assert_eq!(one.receive_to_end(), b"bye");
    two.send(b"bye");
    assert_shown(&server, &two, "bye");
    two.expect_end();
    drop((one, two));
    server.stop();
}

/// Neither the client being answered, nor the next, nor a silent one is reset.
fn end_of_operator_input_resets_no_client(backend: &str) {
    let mut server = chat(backend);
    let mut clients = [(); 3].map(|()| server.connect());
    clients[0].send(b"one asks");
    assert_shown(&server, &clients[0], "one asks");
    clients[1].send(b"two asks");
    server.process.type_end();
    for client in &mut clients {
        client.expect_end();
    }
    drop(clients);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let stats = statistics(&ended);
    assert_eq!((&stats["accepted"], &stats["drain_cut"]), (&3.into(), &0.into()));
}

fn missing_operator_drains_at_the_first_request(backend: &str) {
    let mut server = chat(backend);
    server.process.type_end();
    let mut client = server.connect();
    client.send(b"is anybody there?");
    client.expect_end();
    assert_shown(&server, &client, "is anybody there?");
    drop(client);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(statistics(&ended)["bytes_sent"], 0);
}

/// The tutorial's server.
#[test]
fn single_thread_chats_with_one_client_after_the_other() {
    let mut server = Served::start("blocking", ["--service", "chat", "--threads", "1"]);
    let mut one = server.connect();
    one.send(b"one asks");
    assert_shown(&server, &one, "one asks");
    let mut two = server.connect();
    two.send(b"two asks");
    for _ in 0..3 {
        server.process.type_line("for one");
        assert_hears(&mut one, "for one");
        one.send(b"one asks");
        assert_shown(&server, &one, "one asks");
    }
    assert_eq!(listen_queues(server.addr), [1], "the other waits in the listen queue");
    server.process.type_line("bye");
    assert_eq!(one.receive_to_end(), b"bye");
    drop(one);
    assert_shown(&server, &two, "two asks");
    server.process.type_line("for two");
    assert_hears(&mut two, "for two");
    drop(two);
    server.stop();
}
