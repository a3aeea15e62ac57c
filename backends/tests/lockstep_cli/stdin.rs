//! The end of standard input as a stop signal, on every backend (`--until-stdin-closes`).

use std::io::Write;
use std::process::Command;

use crate::common::child::{LOCKSTEP, Process, Served, statistics};
use crate::harness::{assert_complains, run};

on_every_backend! {
    end_of_standard_input_drains
}

fn end_of_standard_input_drains(backend: &str) {
    for shards in ["1", "2"] {
        let mut server = Served::start(backend, ["--shards", shards, "--until-stdin-closes"]);
        let mut clients = [(); 2].map(|()| server.connect());
        // More than a pipe holds: the input is read, and has no effect.
        server.process.stdin().write_all(&[b'x'; 200_000]).unwrap();
        for client in &mut clients {
            client.exchange(b"still there?");
        }
        server.process.type_end();
        for client in &mut clients {
            client.expect_end();
        }
        drop(clients);
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(statistics(&ended)["closed"]["drain"], 2);
    }
}

#[test]
fn standard_input_that_has_ended_is_refused() {
    for redirection in ["< /dev/null", "<&-"] {
        let mut command = Command::new("sh");
        let script = format!("exec \"$@\" {redirection}");
        command.args(["-c", &script, "sh", LOCKSTEP, "serve", "--listen=127.0.0.1:0"]);
        let ended = Process::start({
            command.arg("--until-stdin-closes");
            command
        });
        assert_complains(&ended.wait(), 2, &["--until-stdin-closes", "has ended already"]);
    }
}

#[test]
fn chat_reads_standard_input_itself() {
    let ended = run(["serve", "--service=chat", "--until-stdin-closes"]);
    assert_complains(&ended, 2, &["--until-stdin-closes cannot be used", "chat"]);
    assert!(ended.stderr[1].contains("reads its replies from standard input"), "{ended:?}");
}
