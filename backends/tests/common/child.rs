//! The `lockstep` program as a child process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use lockstep_backends::by_name;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::client::Client;
use super::{PATIENCE, POLL_INTERVAL, skip};

/// The program under test.
pub(crate) const LOCKSTEP: &str = env!("CARGO_BIN_EXE_lockstep");

pub(crate) fn lockstep(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(LOCKSTEP);
    command.args(args);
    command
}

/// Checks that the backend can run here. If not, prints a note, or fails if it is required.
pub(crate) fn is_available(name: &str) -> bool {
    let refused = match by_name(name).unwrap().probe(1) {
        Ok(_how) => return true,
        Err(refused) => refused,
    };
    skip(name, refused);
    false
}

/// A child process with its streams in pipes. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

/// End of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Lines that were not read before.
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().unwrap()
    }

    /// Writes a line to its standard input.
    pub(crate) fn type_line(&mut self, line: &str) {
        self.stdin().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Ends its standard input.
    pub(crate) fn type_end(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{} has not ended", self.id());
            thread::sleep(POLL_INTERVAL);
        };
        Ended { status, stdout: self.stdout.rest(), stderr: self.stderr.rest() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The lines of a stream, as they come.
#[derive(Debug)]
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let _nobody_asks = sender.send(String::from_utf8(line).unwrap());
            }
        });
        Self(receiver)
    }

    /// The next line; none at the end.
    pub(crate) fn next(&self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line came"),
        }
    }

    /// All lines up to the end.
    pub(crate) fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// `lockstep serve --json`, or `--trace`, after its readiness line.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
}

impl Served {
    /// Serves on a port chosen by the kernel.
    pub(crate) fn start<'a>(backend: &'a str, args: impl IntoIterator<Item = &'a str>) -> Self {
        let args: Vec<_> = args.into_iter().collect();
        let mut command = lockstep(["serve", "--backend", backend]);
        if !args.contains(&"--trace") {
            command.arg("--json");
        }
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(args);
        Self::start_command(command)
    }

    /// As [`start`](Self::start), with at most `descriptors` descriptors.
    pub(crate) fn start_limited(descriptors: u32, backend: &str, args: &[&str]) -> Self {
        let mut command = Command::new("sh");
        let limit = format!("ulimit -n {descriptors}; exec \"$@\"");
        command.args(["-c", &limit, "sh", LOCKSTEP, "serve", "--listen", "127.0.0.1:0"]);
        command.args(["--json", "--backend", backend]).args(args);
        Self::start_command(command)
    }

    pub(crate) fn start_command(command: Command) -> Self {
        let process = Process::start(command);
        let Some(line) = process.stdout.next() else {
            panic!("the server is not ready: {:?}", process.stderr.rest())
        };
        let addr = line.split(' ').find_map(|field| field.strip_prefix("addr="));
        let addr = addr.unwrap_or_else(|| panic!("{line:?} names no address"));
        Self { addr: addr.parse().unwrap(), process }
    }

    /// The next request that a chat server shows its operator: the client's address and the text.
    pub(crate) fn next_request(&self) -> (String, String) {
        loop {
            let line = self.process.stdout.next().expect("a request");
            if let Some((client, text)) = line.split_once(": ") {
                return (client.to_owned(), text.to_owned());
            } // else a client has connected or left
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Stops it with SIGTERM; returns the statistics, which must balance.
    pub(crate) fn stop(self) -> Value {
        self.process.signal(Signal::TERM);
        let ended = self.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{:?}", ended.stderr);
        statistics(&ended)
    }
}

/// The statistics that a server printed when it ended.
pub(crate) fn statistics(ended: &Ended) -> Value {
    let line = ended.stderr.last().expect("statistics on standard error");
    let stats: Value = serde_json::from_str(line).unwrap_or_else(|error| {
        panic!("{error}: {:?}", ended.stderr);
    });
    let closed = stats["closed"].as_object().expect("causes");
    let total: u64 = closed.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(stats["accepted"], total, "as many accepted as closed: {line}");
    stats
}
