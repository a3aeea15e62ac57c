//! Standard streams that are closed, full or never read do not stop a server.

use std::fs::OpenOptions;
use std::io::pipe;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::child::LOCKSTEP;
use crate::common::client::Client;
use crate::common::until;

/// An address of this test's own, since the server cannot print its port: all of 127.0.0.0/8 is
/// loopback.
fn own_addr(number: u8) -> SocketAddr {
    let pid = std::process::id();
    SocketAddr::from(([127, 1 + (pid >> 8) as u8 % 250, pid as u8, number], 8898))
}

/// A pipe without a reader.
fn broken_pipe() -> Stdio {
    let (_reader, writer) = pipe().unwrap();
    writer.into()
}

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn serve(addr: SocketAddr, stdout: Stdio, stderr: Stdio) -> Command {
    let mut command = Command::new(LOCKSTEP);
    command.args(["serve", "--listen", &addr.to_string()]);
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command
}

/// Checks that it serves and stops.
#[track_caller]
fn assert_serves(addr: SocketAddr, mut command: Command) {
    let mut child = command.spawn().unwrap();
    until("it listens", || {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended at once");
        std::net::TcpStream::connect(addr).is_ok()
    });
    Client::connect(addr).exchange(b"x");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(end_of(child).code(), Some(0));
}

fn end_of(mut child: Child) -> ExitStatus {
    let mut status = None;
    until("it has ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[test]
fn closed_stdout_does_not_stop_the_server() {
    assert_serves(own_addr(1), serve(own_addr(1), broken_pipe(), Stdio::null()));
}

#[test]
fn closed_stderr_does_not_stop_the_server() {
    assert_serves(own_addr(2), serve(own_addr(2), Stdio::null(), broken_pipe()));
}

#[test]
fn full_stdout_does_not_stop_the_server() {
    assert_serves(own_addr(3), serve(own_addr(3), full(), full()));
}

#[test]
fn missing_standard_streams_do_not_stop_the_server() {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh", LOCKSTEP, "serve", "--listen"]);
    command.arg(own_addr(4).to_string());
    assert_serves(own_addr(4), command);
}

/// Only the exit code reports the error.
#[test]
fn closed_stdout_ends_a_command_quietly() {
    let cases: [(&[&str], i32); 7] = [
        (&["backends"], 0),
        (&["--help"], 0),
        (&["--version"], 0),
        (&["serve", "--nonsense"], 2),
        (&["serve", "--listen", "nonsense"], 2),
        (&["serve", "--listen", "192.0.2.1:8898"], 4),
        (&["talk", "127.0.0.1:1"], 4),
    ];
    for (args, code) in cases {
        let mut command = Command::new(LOCKSTEP);
        command.args(args).stdin(Stdio::null()).stdout(broken_pipe()).stderr(broken_pipe());
        assert_eq!(end_of(command.spawn().unwrap()).code(), Some(code), "{args:?}");
    }
}
