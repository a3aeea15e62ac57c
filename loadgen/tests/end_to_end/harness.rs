//! Scripted servers, and the `loadgen` command with its output.

use std::fmt::Display;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use loadgen::clients::engine::Engine;
use lockstep_sys::cpus::allowed;
use serde_json::Value;

use crate::machine_load;

/// A server that runs a script for every connection, each in its own thread. It lasts as long as
/// the test process.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// Number of accepted connections.
    pub(crate) accepted: Arc<AtomicU64>,
}

impl Server {
    /// Starts a server. The script gets the connection and its number, from zero.
    pub(crate) fn start(script: impl Fn(TcpStream, u64) + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0", script).expect("127.0.0.1 can be bound")
    }

    pub(crate) fn listen(
        addr: &str,
        script: impl Fn(TcpStream, u64) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let accepted = Arc::new(AtomicU64::new(0));
        let (script, counter) = (Arc::new(script), accepted.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = counter.fetch_add(1, Relaxed);
                let script = script.clone();
                stream.set_nodelay(true).expect("a new connection takes options");
                thread::spawn(move || script(stream, number));
            }
        });
        Ok(Self { addr, accepted })
    }

    pub(crate) fn target(&self) -> String {
        self.addr.to_string()
    }
}

/// Returns every byte until the peer closes.
pub(crate) fn echo(stream: TcpStream, _number: u64) {
    echo_with(stream, |_| true);
}

/// Returns every byte as `change` leaves it, until the peer closes or `change` returns false.
pub(crate) fn echo_with(mut stream: TcpStream, mut change: impl FnMut(&mut [u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if !change(&mut buffer[..count]) || stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// The command, run without the floor measurement, which takes 0.3 s. Tests of the floor use
/// `loadgen_with_floor`.
pub(crate) fn loadgen(args: &[&str]) -> Command {
    let mut command = loadgen_with_floor(args);
    let measures = args.first().is_some_and(|first| first.starts_with("--") || *first == "sweep");
    if measures && !["--help", "--version", "--no-floor"].iter().any(|word| args.contains(word)) {
        command.arg("--no-floor");
    }
    command
}

/// The command with exactly these arguments.
pub(crate) fn loadgen_with_floor(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub(crate) fn run(args: &[&str]) -> Finished {
    Finished::of(loadgen(args).output().expect("the command starts"))
}

/// Runs the command to its end with `--engine`.
pub(crate) fn run_with(engine: &str, args: &[&str]) -> Finished {
    run(&[args, &["--engine", engine]].concat())
}

/// Reports that this machine lacks `feature`, on the process's standard error, which libtest does
/// not capture. Fails the test if `LOCKSTEP_REQUIRE`, a list of names, contains `feature`.
#[track_caller]
pub(crate) fn skip(feature: &str, cause: impl Display) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    writeln!(io::stderr(), "SKIPPED {test}: {feature}: {cause}").expect("stderr can be written");
    let required = std::env::var("LOCKSTEP_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == feature), "{feature} is required here");
}

/// True if the machine has the engine.
#[track_caller]
pub(crate) fn has_engine(engine: &str) -> bool {
    let found = Engine::value_variants().iter().copied().find(|found| found.name() == engine);
    let cause = found.expect("an engine's name").probe().err();
    if let Some(cause) = &cause {
        skip(engine, cause);
    }
    cause.is_none()
}

/// The CPUs that this process may use, if there are at least two.
#[track_caller]
pub(crate) fn two_cpus() -> Option<Vec<usize>> {
    let cpus = allowed().expect("the affinity mask can be read");
    if cpus.len() < 2 {
        skip("two-cpus", "this process may use one CPU");
        return None;
    }
    Some(cpus)
}

/// Defines one test for each engine from functions that take its name.
macro_rules! with_each_engine {
    ($($test:ident)*) => {
        mod epoll {
            $(#[test]
            fn $test() {
                super::$test("epoll");
            })*
        }
        mod io_uring {
            $(#[test]
            fn $test() {
                if crate::harness::has_engine("io-uring") {
                    super::$test("io-uring");
                }
            })*
        }
    };
}
pub(crate) use with_each_engine;

/// Exit code and output of a command that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        let finished = Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
        finished
    }

    /// Parses the one object that `--json` prints.
    #[track_caller]
    pub(crate) fn record(&self) -> Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "not one line: {self:#?}");
        serde_json::from_str(&self.stdout).expect("the line is JSON")
    }

    /// Asserts that the result is valid, or invalid only because of the machine's load.
    #[track_caller]
    pub(crate) fn assert_measured(&self) {
        machine_load::check(self.code, &self.stdout)
            .unwrap_or_else(|cause| panic!("{cause}: {self:#?}"));
    }

    /// Kinds of errors with their counts: `receive/ECONNRESET`, `eof`.
    #[track_caller]
    pub(crate) fn errors(&self) -> Vec<(String, u64)> {
        let record = self.record();
        let errors = record["errors"].as_array().expect("a list");
        let counts = errors.iter().map(|error| {
            let kind = error["kind"].as_str().unwrap();
            let kind = match error["errno"].as_str() {
                Some(errno) => format!("{kind}/{errno}"),
                None => kind.to_owned(),
            };
            (kind, error["count"].as_u64().unwrap())
        });
        let counts: Vec<_> = counts.collect();
        let sum: u64 = counts.iter().map(|(_, count)| count).sum();
        assert_eq!(record["errors_total"], sum);
        counts
    }

    /// Asserts one line of error, and this hint or none.
    #[track_caller]
    pub(crate) fn assert_complains_with(&self, code: i32, words: &str, hint: Option<&str>) {
        self.assert_complains(code, words);
        let line = self.stderr.lines().nth(1).and_then(|line| line.strip_prefix("hint: "));
        assert_eq!(line, hint, "{self:#?}");
    }

    /// Asserts one line of error and at most one hint.
    #[track_caller]
    pub(crate) fn assert_complains(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.stdout.is_empty(), "{self:#?}");
        let mut lines = self.stderr.lines();
        let error = lines.next().unwrap_or_default();
        assert!(error.starts_with("error: ") && error.contains(words), "{self:#?}");
        assert!(lines.next().is_none_or(|line| line.starts_with("hint: ")), "{self:#?}");
        assert_eq!(lines.next(), None, "{self:#?}");
    }
}

/// An echo server that waits before each reply, and the number of requests it has read.
pub(crate) fn counting_echo(delay: Duration) -> (Server, Arc<AtomicU64>) {
    let requests = Arc::new(AtomicU64::new(0));
    let counter = requests.clone();
    let server = Server::start(move |stream, _| {
        let counter = counter.clone();
        echo_with(stream, move |_| {
            counter.fetch_add(1, Relaxed);
            thread::sleep(delay);
            true
        });
    });
    (server, requests)
}

/// An echo server that waits before each reply.
pub(crate) fn delayed_echo(delay: Duration) -> Server {
    Server::start(move |stream, _| {
        echo_with(stream, |_| {
            thread::sleep(delay);
            true
        });
    })
}

/// True if a process has ended. A zombie has.
pub(crate) fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')').is_none_or(|end| stat[end + 1..].trim_start().starts_with('Z'))
}

/// Waits for a condition, for at most a minute.
#[track_caller]
pub(crate) fn wait_until(condition: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "timed out waiting until {condition}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running command, killed if the test fails.
pub(crate) struct Running(pub(crate) Option<Child>);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(Some(child.expect("the command starts")))
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.0.as_ref().expect("the command is running"))
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("the command can be signalled");
    }

    pub(crate) fn finish(mut self) -> Finished {
        let child = self.0.take().expect("the command is running");
        Finished::of(child.wait_with_output().expect("the command can be waited for"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
