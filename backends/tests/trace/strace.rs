//! System calls on a server's connections as strace(1) reports them.

use std::fs;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};

use crate::common::child::LOCKSTEP;
use crate::common::until;

/// Traced calls: all that a server could do with a socket. fcntl is left out: a debug build of std
/// uses it to check that a descriptor to be closed is open.
const CALLS: &str = "trace=%network,close,ioctl,epoll_ctl,read,write,readv,writev";

/// Checks that strace is installed and may trace.
pub(crate) fn is_available() -> Result<(), String> {
    let mut strace = Command::new("strace");
    match strace.args(["-qq", "-e", CALLS, "true"]).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("strace is not allowed to look".to_owned()),
        Err(error) => Err(format!("no strace: {error}")),
    }
}

/// Command for a traced server, which is the child: strace is its grandchild (-D).
pub(crate) fn watch(files: &Files, backend: &str, args: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-D", "-ff", "-q", "-ttt", "-e", CALLS, "-e", "signal=none", "-o"]);
    command.arg(files.directory.join("thread"));
    command.args([LOCKSTEP, "serve", "--listen=127.0.0.1:0", "--backend", backend]).args(args);
    command
}

/// Output of strace, a file for each thread; deleted at the end.
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(crate) fn new(backend: &str) -> Self {
        let directory = format!("lockstep-trace-{}-{backend}", process::id());
        let directory = std::env::temp_dir().join(directory);
        fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    /// The names and results of the calls on each accepted socket, from its accept to its close.
    pub(crate) fn conversations(&self) -> Vec<Vec<(String, String)>> {
        // The tracer outlives what it traces a little.
        let ended = |text: &String| text.ends_with(" +++\n");
        until("strace has written all of it", || self.texts().iter().all(ended));
        let calls = self.calls();
        let accepts = calls.iter().enumerate().filter(|(_, call)| call.name == "accept");
        accepts.filter_map(|(index, accept)| conversation(accept, &calls[index + 1..])).collect()
    }

    fn texts(&self) -> Vec<String> {
        let files = fs::read_dir(&self.directory).unwrap();
        files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }

    /// All calls on descriptors, in the order in which they began.
    fn calls(&self) -> Vec<Call> {
        let texts = self.texts();
        let lines = texts.iter().flat_map(|text| text.lines());
        let mut calls: Vec<_> = lines.filter_map(Call::parse).collect();
        calls.sort_by(|one, other| one.at.total_cmp(&other.at));
        calls
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.directory);
    }
}

/// The accept and, if it returned a connection, the calls that followed on that socket.
fn conversation(accept: &Call, later: &[Call]) -> Option<Vec<(String, String)>> {
    let fd = accept.result.parse::<i32>().ok()?;
    // The chat service asks for the client's address; only the backend's calls are traced.
    let of_backend = |call: &&Call| call.fd == fd && call.name != "getpeername";
    let on_it = || later.iter().filter(of_backend);
    let end = on_it().position(|call| call.name == "close").expect("it was closed");
    let calls = [accept].into_iter().chain(on_it().take(end + 1));
    Some(calls.map(Call::name_and_result).collect())
}

#[derive(Debug)]
struct Call {
    at: f64,
    name: String,
    fd: i32,
    result: String,
}

impl Call {
    /// `1763900000.123456 recvfrom(8, "hello!", 1024, 0, NULL, NULL) = 6`. None for a line without
    /// a call on a descriptor.
    fn parse(line: &str) -> Option<Self> {
        let (at, call) = line.split_once(' ')?;
        let (name, rest) = call.split_once('(')?;
        let (args, result) = rest.rsplit_once(" = ")?;
        let mut args = args.trim_end().trim_end_matches(')').split(", ");
        let name = match name {
            "accept4" => "accept",
            "recvfrom" => "recv",
            "sendto" => "send",
            name => name,
        };
        let fd = if name == "epoll_ctl" { args.nth(2) } else { args.next() };
        let mut words = result.split(' ');
        let mut result = words.next()?.to_owned();
        if result == "-1" {
            result = format!("-1 {}", words.next()?);
        }
        Some(Self { at: at.parse().ok()?, name: name.to_owned(), fd: fd?.parse().ok()?, result })
    }

    fn name_and_result(&self) -> (String, String) {
        let result = if self.name == "close" { String::new() } else { self.result.clone() };
        (self.name.clone(), result)
    }
}
