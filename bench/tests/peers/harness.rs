//! The reference servers as processes.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Timeout of every wait.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A reference server's program in one of its configurations.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Name in the ready line.
    pub(crate) name: &'static str,
    executable: &'static str,
    arguments: &'static [&'static str],
    /// True if it has a thread for each CPU, and so `--workers`.
    pub(crate) has_workers: bool,
    /// True if each of these threads has a listening socket.
    pub(crate) is_sharded: bool,
    pub(crate) needs_io_uring: bool,
}

/// All reference servers.
pub(crate) const PEERS: [Peer; 6] = [
    Peer {
        name: "compio",
        executable: env!("CARGO_BIN_EXE_peer-compio"),
        arguments: &[],
        has_workers: true,
        is_sharded: true,
        needs_io_uring: true,
    },
    Peer {
        name: "monoio",
        executable: env!("CARGO_BIN_EXE_peer-monoio"),
        arguments: &[],
        has_workers: true,
        is_sharded: true,
        needs_io_uring: true,
    },
    Peer {
        name: "monoio-epoll",
        executable: env!("CARGO_BIN_EXE_peer-monoio"),
        arguments: &["--driver", "epoll"],
        has_workers: true,
        is_sharded: true,
        needs_io_uring: false,
    },
    Peer {
        name: "std-threads",
        executable: env!("CARGO_BIN_EXE_peer-std-threads"),
        arguments: &[],
        has_workers: false,
        is_sharded: false,
        needs_io_uring: false,
    },
    Peer {
        name: "tokio-current-thread",
        executable: env!("CARGO_BIN_EXE_peer-tokio-current-thread"),
        arguments: &[],
        has_workers: false,
        is_sharded: false,
        needs_io_uring: false,
    },
    Peer {
        name: "tokio-multi-thread",
        executable: env!("CARGO_BIN_EXE_peer-tokio-multi-thread"),
        arguments: &[],
        has_workers: true,
        is_sharded: false,
        needs_io_uring: false,
    },
];

impl Peer {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.executable);
        command.args(self.arguments).args(arguments);
        command
    }

    /// Runs it to its end, with the given limit of open files.
    pub(crate) fn run(&self, arguments: &[&str], descriptors: Option<u32>) -> Output {
        let Some(limit) = descriptors else { return self.command(arguments).output().unwrap() };
        let limited = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &limited, self.executable]).args(self.arguments).args(arguments);
        command.output().unwrap()
    }

    /// Starts it on a free port, and waits until it is ready.
    pub(crate) fn start(&self) -> Running {
        self.start_with(&["--listen", "127.0.0.1:0"])
    }

    /// Starts it, and waits until it is ready.
    pub(crate) fn start_with(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Running { name: self.name, child, line }
    }
}

/// A running reference server. Dropping it kills its process.
#[derive(Debug)]
pub(crate) struct Running {
    name: &'static str,
    child: Child,
    /// The ready line.
    pub(crate) line: String,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the address in the ready line.
    pub(crate) fn addr(&self) -> SocketAddr {
        let rest = self.line.strip_prefix("listening addr=");
        let rest = rest.unwrap_or_else(|| panic!("{}: {:?}", self.name, self.line));
        rest.split(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.addr()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.set_write_timeout(Some(TIMEOUT)).unwrap();
        socket
    }

    /// Ends it with SIGTERM, and checks its exit code.
    pub(crate) fn finish(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < TIMEOUT, "{} does not end on SIGTERM", self.name);
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0), "{}", self.name);
        let mut more = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut more).unwrap();
        assert_eq!(more, "");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _already_waited = self.child.wait();
    }
}
