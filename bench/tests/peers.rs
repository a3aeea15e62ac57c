//! The reference servers do what `lockstep serve` does, as far as a comparison needs it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use lockstep_bench::{Books, Clients};
use rustix::process::{Pid, Signal, kill_process};

/// The readiness line's name of each reference server, and its executable.
const PEERS: [(&str, &str); 1] =
    [("tokio-current-thread", env!("CARGO_BIN_EXE_peer-tokio-current-thread"))];

#[test]
fn every_peer_echoes_and_ends_on_sigterm() {
    for (name, executable) in PEERS {
        for size in [1, 64, 1024] {
            let peer = Peer::start(executable, &["--listen", "127.0.0.1:0", "--backlog", "64"]);
            assert!(peer.line.contains(&format!(" backend={name} shards=1 backlog=64 pid=")));
            assert!(peer.line.ends_with(&format!(" pid={}\n", peer.child.id())), "{}", peer.line);

            let mut clients = Clients::connect(peer.addr(), 50, size);
            for _ in 0..20 {
                clients.exchange();
            }
            let books = clients.finish();
            assert_eq!(books, Books { connections: 50, exchanges: 1000, ..books });
            peer.finish();
        }
    }
}

#[test]
fn every_peer_ends_while_connections_are_open_and_starts_again_on_the_same_port() {
    for (_, executable) in PEERS {
        let mut listen = "127.0.0.1:0".to_owned();
        for _ in 0..2 {
            let peer = Peer::start(executable, &["--listen", &listen]);
            listen = peer.addr().to_string();
            let mut clients = Clients::connect(peer.addr(), 3, 64);
            clients.exchange();
            peer.finish();
        }
    }
}

#[test]
fn every_peer_runs_where_it_is_pinned() {
    for (_, executable) in PEERS {
        let listen = ["--listen", "127.0.0.1:0"];
        let peer = Peer::start(executable, &[&listen[..], &["--pin", "0-0"]].concat());
        let status = std::fs::read_to_string(format!("/proc/{}/status", peer.child.id())).unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        peer.finish();
    }
}

#[test]
fn every_peer_refuses_what_it_cannot_do_in_one_line() {
    for (_, executable) in PEERS {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let output = run(executable, &["--listen", &addr]);
        assert_eq!(output.status.code(), Some(4));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with(&format!("error: cannot listen on {addr}: ")), "{error}");
        assert_eq!(error.lines().count(), 1);

        for wrong in ["", "1-0", "x", "0,", "5000"] {
            assert_eq!(run(executable, &["--pin", wrong]).status.code(), Some(2), "{wrong:?}");
        }
    }
}

fn run(executable: &str, arguments: &[&str]) -> Output {
    Command::new(executable).args(arguments).output().unwrap()
}

/// A reference server's process. It does not outlive the test.
struct Peer {
    child: Child,
    line: String,
}

impl Peer {
    /// Starts one, and waits until it is ready.
    fn start(executable: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(executable);
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child, line }
    }

    /// What its readiness line says.
    fn addr(&self) -> SocketAddr {
        let rest = self.line.strip_prefix("listening addr=").expect("the readiness line");
        rest.split(' ').next().unwrap().parse().unwrap()
    }

    /// Ends it, as a user would.
    fn finish(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let mut more = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut more).unwrap();
        assert_eq!(more, "");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _already_waited = self.child.wait();
    }
}
