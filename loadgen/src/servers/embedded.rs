//! The embedded server: this very program, started again as `loadgen serve`.
//!
//! A separate process has its own descriptors, its own accounting of CPU time, and an end that can
//! be waited for. It is in a process group of its own, so that a Ctrl-C at the terminal reaches
//! only the generator, which then ends it in order. The kernel kills it when the generator is gone,
//! even after a crash.
//!
//! This is the only file that depends on the server's crate.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::event::Ready;
pub use lockstep_backends::cli::{backend_parser, help_hint, usage_error};

use crate::exit::{self, Failure};
use crate::machine::children;
use lockstep_sys::memory;

/// Timeout for a server to end after its clients are gone.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Options of the hidden `loadgen serve`.
#[derive(Args, Debug)]
pub struct EmbeddedArgs {
    #[command(flatten)]
    serve: lockstep_backends::cli::ServeArgs,
    /// The generator's process; the server ends with it.
    #[arg(long, value_name = "PID")]
    parent: Option<i32>,
}

/// Runs `lockstep serve` until the generator is gone.
pub fn serve(args: &EmbeddedArgs) -> ExitCode {
    if args.parent.is_some_and(|parent| !children::end_with(parent)) {
        return ExitCode::FAILURE;
    }
    let serve = lockstep_backends::cli::ServeArgs { print_choice: true, ..args.serve.clone() };
    lockstep_backends::cli::serve(&serve)
}

/// Returns the name of a backend for its name or an alias; `auto` stays.
///
/// # Errors
///
/// A text for the user that lists the possible values.
pub fn backend_name(text: &str) -> Result<String, String> {
    match lockstep_backends::by_name(text) {
        Some(backend) => Ok(backend.name().to_owned()),
        None if text == "auto" => Ok(text.to_owned()),
        None => Err(format!("possible values: auto, {}", backend_names().join(", "))),
    }
}

/// Returns the names of all backends, including those that do not run on this machine.
pub fn backend_names() -> Vec<&'static str> {
    lockstep_backends::BACKENDS.iter().map(|backend| backend.name()).collect()
}

/// True if the backend can busy-poll before it sleeps. `auto` only takes one that can, unless
/// there is none.
pub fn can_busy_poll(name: &str) -> bool {
    lockstep_backends::by_name(name).is_none_or(|backend| backend.can_busy_poll())
}

/// Returns the hint of an error about a backend that cannot busy-poll.
pub fn busy_poll_hint() -> String {
    let names = backend_names().into_iter().filter(|name| can_busy_poll(name));
    format!("use it with {}", names.collect::<Vec<_>>().join(" or "))
}

/// True if the backend has a thread for each connection.
pub fn thread_per_connection(name: &str) -> bool {
    lockstep_backends::by_name(name).is_some_and(|backend| backend.thread_per_connection())
}

/// Returns the reason why a backend does not run on this machine; `None` if it does.
pub fn refusal(name: &str) -> Option<String> {
    let refused = lockstep_backends::by_name(name)?.probe(1).err()?;
    Some(refused.to_string())
}

/// Options of an embedded server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Name of the backend, or `auto`.
    pub backend: String,
    /// Name of the service.
    pub service: &'static str,
    /// Listen queue of each shard.
    pub backlog: Option<u32>,
    /// Number of shards.
    pub shards: Option<usize>,
    /// List of CPUs; `None` where threads cannot be pinned.
    pub pin: Option<String>,
    /// True if each connection is to be served on the CPU of its client.
    pub steered: bool,
    /// Time to busy-poll before sleeping.
    pub spin: Duration,
    /// Port to share with other servers; zero lets the kernel choose one.
    pub shared_port: Option<u16>,
}

impl ServerOptions {
    /// Options of `serve` but those of its addresses.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--json".to_owned(),
            "--backend".to_owned(),
            self.backend.clone(),
            "--service".to_owned(),
            self.service.to_owned(),
        ];
        let mut add = |option: &str, value: Option<String>| {
            arguments.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        };
        add("--pin", self.pin.clone());
        add("--backlog", self.backlog.map(|backlog| backlog.to_string()));
        add("--shards", self.shards.map(|shards| shards.to_string()));
        let spin = Some(self.spin).filter(|spin| !spin.is_zero());
        add("--spin", spin.map(|spin| format!("{}ns", spin.as_nanos())));
        add("--steer", self.steered.then(|| "cpu".to_owned()));
        arguments
    }
}

/// An embedded server. Dropping it kills its process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    statistics: Receiver<Option<serde_json::Value>>,
}

/// The end of a server.
#[derive(Debug)]
pub struct Ended {
    /// Statistics that the server has printed.
    pub statistics: Option<serde_json::Value>,
    /// Description of an end that was not in order.
    pub error: Option<String>,
}

impl Server {
    /// Starts a server on the CPUs that the calling thread may use, which must stop it before it
    /// ends (see [`children::signal_with`]). Another thread calls `ready` with the server's ready
    /// line, or with `None` if the server ends before.
    ///
    /// # Errors
    ///
    /// Those of fork(2) and execve(2), and `EAGAIN` if no thread can be started.
    pub fn start(
        options: &ServerOptions,
        ready: impl FnOnce(Option<Ready>) + Send + 'static,
    ) -> io::Result<Self> {
        let mut command = children::this_program("serve");
        let listen = format!("127.0.0.1:{}", options.shared_port.unwrap_or(0));
        command.args(["--listen", &listen]).args(options.arguments());
        if options.shared_port.is_some() {
            command.arg("--reuse-port");
        }
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, statistics) = channel();
        // From here on, every return drops the server, which kills the process.
        let server = Self { child, statistics };
        spawn("server-stdout", move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            ready(read.ok().and_then(|_| parse_ready(&line)));
            // Further output must not block the server on a full pipe.
            let _closed = io::copy(&mut stdout, &mut io::sink());
        })?;
        spawn("server-stderr", move || {
            let _receiver_is_gone = sender.send(follow(stderr));
        })?;
        Ok(server)
    }

    /// Returns the server's process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Returns the failure of a server that ended before it was ready: its exit code, and no text
    /// if the server has printed the cause itself.
    pub fn into_failure(mut self) -> Failure {
        let status = match self.statistics.recv_timeout(STOP_MAX) {
            Ok(_) => self.child.wait().ok(),
            Err(_) => None,
        };
        match status.and_then(|status| status.code()) {
            Some(code @ 1..=255) => Failure::new(code as u8, ""),
            _ => Failure::new(exit::FAILURE, "the server ended before it was ready"),
        }
    }

    /// Drains and ends the server: it replies to what it has received, and prints its statistics.
    pub fn stop(mut self) -> Ended {
        // If it is gone already, its exit status shows why.
        let _gone = kill_process(self.pid(), Signal::TERM);
        let Ok(statistics) = self.statistics.recv_timeout(STOP_MAX) else {
            let error = format!("the server did not end within {} s", STOP_MAX.as_secs());
            return Ended { statistics: None, error: Some(error) };
        };
        let error = match self.child.wait() {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("the server did not end in order: {status}")),
            Err(error) => Some(format!("cannot wait for the server: {error}")),
        };
        Ended { statistics, error }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Neither has an effect on a process that was waited for.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    memory::thread(name)?.spawn(work).map(drop)
}

/// The last choice of `auto` that was printed. Servers of one command print it once.
static AUTO: Mutex<String> = Mutex::new(String::new());

/// True for the line about the choice of `auto`, if the previous server printed the same one.
fn is_repeated(line: &str) -> bool {
    line.starts_with("backend auto: ")
        && AUTO.lock().is_ok_and(|mut last| mem::replace(&mut *last, line.to_owned()) == line)
}

/// Copies a server's standard error to ours, and returns the statistics in it at the end.
fn follow(stderr: impl Read) -> Option<serde_json::Value> {
    let mut statistics = None;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        match line.starts_with('{').then(|| serde_json::from_str(&line).ok()).flatten() {
            Some(object) => statistics = Some(object),
            None if is_repeated(&line) => {}
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }
    statistics
}

/// Parses `listening addr=127.0.0.1:8898 backend=mio shards=2 backlog=1024 pid=77`, which may go on
/// with ` metrics=127.0.0.1:9100`.
pub(super) fn parse_ready(line: &str) -> Option<Ready> {
    let line = line.trim_end().strip_prefix("listening ")?;
    let value =
        |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    Some(Ready {
        addr: value("addr")?.parse().ok()?,
        backend: value("backend")?.to_owned(),
        shards: value("shards")?.parse().ok()?,
        backlog: value("backlog")?.parse().ok()?,
        metrics: value("metrics").and_then(|addr| addr.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_line_is_parsed() {
        let line = "listening addr=127.0.0.1:41233 backend=mio shards=2 backlog=1024 pid=77\n";
        let ready = Ready {
            addr: "127.0.0.1:41233".parse().unwrap(),
            backend: "mio".to_owned(),
            shards: 2,
            backlog: 1024,
            metrics: None,
        };
        assert_eq!(parse_ready(line).as_ref(), Some(&ready));
        let metrics = Some("[::1]:9100".parse().unwrap());
        let line = format!("{} metrics=[::1]:9100\r\n", line.trim_end());
        assert_eq!(parse_ready(&line), Some(Ready { metrics, ..ready }));
        for wrong in ["", "listening\n", "listening addr=x backend=mio shards=2 backlog=1"] {
            assert_eq!(parse_ready(wrong), None);
        }
    }

    #[test]
    fn statistics_are_distinguished_from_messages() {
        let printed = "{not json\n{\"schema\":1,\"exchanges\":7}\n";
        let statistics = follow(printed.as_bytes()).unwrap();
        assert_eq!(statistics["exchanges"], 7);
        assert_eq!(follow("".as_bytes()), None);
    }

    #[test]
    fn choice_of_auto_is_printed_once() {
        for (line, repeated) in [
            ("backend auto: io-uring (a ring per shard)", false),
            ("backend auto: io-uring (a ring per shard)", true),
            ("backend auto: mio (epoll; not io-uring: no memory)", false),
            ("warning", false),
            ("warning", false),
            ("backend auto: mio (epoll; not io-uring: no memory)", true),
        ] {
            assert_eq!(is_repeated(line), repeated, "{line}");
        }
    }

    #[test]
    fn backend_names_and_aliases_are_parsed() {
        let aliases = [("io_uring", "io-uring"), ("uring", "io-uring"), ("epoll", "mio")];
        for (text, name) in aliases.into_iter().chain([("auto", "auto")]) {
            assert_eq!(backend_name(text).as_deref(), Ok(name));
        }
        assert!(backend_name("epoll2").unwrap_err().contains("blocking"));
    }
}
