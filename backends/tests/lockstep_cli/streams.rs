//! Standard streams that are closed, full or never read do not stop a server, nor keep it from
//! stopping.

use std::fs::OpenOptions;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::child::LOCKSTEP;
use crate::common::client::Client;
use crate::common::{kernel, until};
use crate::harness::on;

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
fn assert_serves(addr: SocketAddr, mut command: Command, code: i32) {
    let mut child = command.spawn().unwrap();
    until("it listens", || {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended at once");
        std::net::TcpStream::connect(addr).is_ok()
    });
    Client::connect(addr).exchange(b"x");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(end_of(&mut child).code(), Some(code));
}

fn end_of(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("it has ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[test]
fn closed_stdout_does_not_stop_the_server() {
    assert_serves(own_addr(1), serve(own_addr(1), broken_pipe(), Stdio::null()), 0);
}

#[test]
fn closed_stderr_does_not_stop_the_server() {
    assert_serves(own_addr(2), serve(own_addr(2), Stdio::null(), broken_pipe()), 0);
}

/// The exit code reports that output was lost.
#[test]
fn full_device_does_not_stop_the_server() {
    assert_serves(own_addr(3), serve(own_addr(3), full(), full()), 5);
}

#[test]
fn missing_standard_streams_do_not_stop_the_server() {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh", LOCKSTEP, "serve", "--listen"]);
    command.arg(own_addr(4).to_string());
    assert_serves(own_addr(4), command, 0);
}

/// True if a write to the pipe would block.
fn is_full(writer: &PipeWriter) -> bool {
    let mut fds = [PollFd::new(writer, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 0
}

/// A full pipe, whose reader does not read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    assert!(is_full(&writer));
    (reader, writer)
}

fn stop(child: &Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
}

fn on_every_backend(rule: fn(&str)) {
    std::thread::scope(|scope| {
        for backend in ["blocking", "poll", "mio", "io-uring"] {
            scope.spawn(move || on(backend, rule));
        }
    });
}

/// A server that is blocked by its trace, and one that is only blocked by its statistics.
#[test]
fn full_stderr_does_not_delay_the_end() {
    on_every_backend(|backend| {
        for trace in [true, false] {
            let (_reader, stderr) = full_pipe();
            let mut command = Command::new(LOCKSTEP);
            command.args(["serve", "--listen", "127.0.0.1:0", "--backend", backend]);
            command.args(["--drain-timeout", "300ms"]);
            command.args(trace.then_some("--trace"));
            let mut child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
            until("it can be stopped", || kernel::handles_sigterm(child.id()));
            stop(&child);
            assert_eq!(end_of(&mut child).code(), Some(5), "{backend}, trace: {trace}");
        }
    });
}

#[test]
fn statistics_wait_for_their_reader() {
    on_every_backend(|backend| {
        let (mut reader, stderr) = full_pipe();
        let mut command = Command::new(LOCKSTEP);
        command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--backend", backend]);
        command.args(["--drain-timeout", "1h"]).stdout(Stdio::null()).stderr(stderr);
        let mut child = command.spawn().unwrap();
        drop(command); // and with it its end of the pipe
        until("it can be stopped", || kernel::handles_sigterm(child.id()));
        stop(&child);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("}\n") && text.contains("x{\"schema\":1,"), "{backend}");
        assert_eq!(end_of(&mut child).code(), Some(0), "{backend}");
    });
}

#[test]
fn readiness_line_without_a_reader_does_not_delay_the_end() {
    on_every_backend(|backend| {
        let (_reader, stdout) = full_pipe();
        let mut command = Command::new(LOCKSTEP);
        command.args(["serve", "--listen", "127.0.0.1:0", "--backend", backend]);
        command.args(["--drain-timeout", "300ms"]).stderr(Stdio::null());
        let mut child = command.stdout(stdout).spawn().unwrap();
        until("it can be stopped", || kernel::handles_sigterm(child.id()));
        stop(&child);
        assert_eq!(end_of(&mut child).code(), Some(5), "{backend}");
    });
}

/// A client fills the pipe: its requests are shown, and longer than they were sent.
#[test]
fn chat_without_a_reader_does_not_delay_the_end() {
    on_every_backend(|backend| {
        let (mut reader, stdout) = pipe().unwrap();
        let mut command = Command::new(LOCKSTEP);
        command.args(["serve", "--service", "chat", "--listen", "127.0.0.1:0"]);
        command.args(["--backend", backend, "--drain-timeout", "300ms"]);
        command.stdin(Stdio::piped()).stdout(stdout.try_clone().unwrap()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut line = [0; 64];
        let count = reader.read(&mut line).unwrap();
        let line = str::from_utf8(&line[..count]).unwrap();
        let addr = line.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap();
        let mut client = Client::connect(addr.parse().unwrap());
        child.stdin.as_mut().unwrap().write_all(&b"x\n".repeat(100)).unwrap();
        until("the pipe is full", || {
            client.send(&[1; 1024]);
            until("it answers, or waits", || client.is_readable() || is_full(&stdout));
            client.is_readable() && client.receive(1) != b"x" || is_full(&stdout)
        });
        stop(&child);
        assert_eq!(end_of(&mut child).code(), Some(5), "{backend}");
    });
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
        assert_eq!(end_of(&mut command.spawn().unwrap()).code(), Some(code), "{args:?}");
    }
}
