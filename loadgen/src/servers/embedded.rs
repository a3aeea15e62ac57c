//! The embedded server: this very executable, started again as `loadgen serve`.
//!
//! A process of its own has its own descriptors, its own accounting of processor time, and an end
//! of its own that can be waited for. It is in a process group of its own, so that a Ctrl-C at
//! the terminal reaches only the generator, which then ends it in order; and the kernel ends it
//! when the generator is gone, however that went.
//!
//! This is the only file that knows the server's crate.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::event::Ready;
use crate::exit::{self, Failure};
use crate::machine::signals;

/// How long a server may take to be ready.
pub const READY_MAX: Duration = Duration::from_secs(10);

/// How long a server may take to end once its clients are gone.
const STOP_MAX: Duration = Duration::from_secs(10);

/// The options of the hidden `loadgen serve`.
#[derive(Args, Debug)]
pub struct EmbeddedArgs {
    #[command(flatten)]
    serve: lockstep_backends::cli::ServeArgs,
    /// The generator's process; the server ends with it.
    #[arg(long, value_name = "PID")]
    parent: Option<i32>,
}

/// Serves, as `lockstep serve` does, and no longer than the generator lives.
pub fn serve(args: &EmbeddedArgs) -> ExitCode {
    if args.parent.is_some_and(|parent| !signals::end_with(parent)) {
        return ExitCode::FAILURE;
    }
    lockstep_backends::cli::serve(&args.serve)
}

/// Other names of backends.
pub(crate) const ALIASES: [(&str, &str); 3] =
    [("epoll", "mio"), ("io_uring", "io-uring"), ("uring", "io-uring")];

/// Parses the name of a backend or one of its aliases, or `auto`; returns the name.
///
/// # Errors
///
/// The possible values, if the name is not known.
pub fn backend_name(text: &str) -> Result<String, String> {
    let alias = ALIASES.iter().find(|&&(alias, _)| alias == text);
    let name = alias.map_or(text, |&(_, name)| name);
    if name == "auto" || lockstep_backends::by_name(name).is_some() {
        return Ok(name.to_owned());
    }
    Err(format!("possible values: {}, auto", backend_names().join(", ")))
}

/// The backends there are, whether or not they run here.
pub fn backend_names() -> Vec<&'static str> {
    lockstep_backends::BACKENDS.iter().map(|backend| backend.name()).collect()
}

/// Whether a backend can poll before it sleeps.
pub fn spins(name: &str) -> bool {
    name != "blocking"
}

/// Why a backend cannot run here, in words.
pub fn refusal(name: &str) -> Option<String> {
    let refused = lockstep_backends::by_name(name)?.probe(1).err()?;
    Some(refused.to_string())
}

/// What a server is asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The backend's name, or `auto`.
    pub backend: String,
    /// The service's name.
    pub service: &'static str,
    /// The listen queue, for each shard.
    pub backlog: Option<u32>,
    /// How many shards.
    pub shards: Option<usize>,
    /// Processors, as a list.
    pub pin: String,
    /// Whether each connection is to be served on the processor of its client.
    pub steered: bool,
    /// How long it polls before it sleeps.
    pub spin: Duration,
    /// The port to share with other servers, or zero for one of the kernel's choice.
    pub shared_port: Option<u16>,
}

/// A server that has been started.
#[derive(Debug)]
pub struct Server {
    child: Child,
    statistics: Receiver<Option<serde_json::Value>>,
}

/// How a server ended.
#[derive(Debug)]
pub struct Ended {
    /// What it printed about itself.
    pub statistics: Option<serde_json::Value>,
    /// What was wrong about its end, in words.
    pub trouble: Option<String>,
}

impl Server {
    /// Starts a server on the processors that this thread may use; `ready` is called from another
    /// thread with what the server says when it is ready, or with nothing if it ends before.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub fn start(
        wish: &Wish,
        ready: impl FnOnce(Option<Ready>) + Send + 'static,
    ) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--json", "--listen"])
            .arg(format!("127.0.0.1:{}", wish.shared_port.unwrap_or(0)))
            .args(["--backend", &wish.backend, "--service", wish.service, "--pin", &wish.pin])
            .args(["--parent", &std::process::id().to_string()]);
        if let Some(backlog) = wish.backlog {
            command.args(["--backlog", &backlog.to_string()]);
        }
        if let Some(shards) = wish.shards {
            command.args(["--shards", &shards.to_string()]);
        }
        if !wish.spin.is_zero() {
            command.args(["--spin", &format!("{}ns", wish.spin.as_nanos())]);
        }
        if wish.shared_port.is_some() {
            command.arg("--reuse-port");
        }
        if wish.steered {
            command.args(["--steer", "cpu"]);
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
        // From here on, dropping the server ends the process.
        let server = Self { child, statistics };
        spawn("server-stdout", move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            ready(read.ok().and_then(|_| parse_ready(&line)));
            // A server that says more must not be stopped by a full pipe.
            let _ = io::copy(&mut stdout, &mut io::sink());
        })?;
        spawn("server-stderr", move || {
            let _nobody_waits = sender.send(follow(stderr));
        })?;
        Ok(server)
    }

    /// The server's process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Why a server has ended that did not become ready: with its own exit code if it has told
    /// the cause itself.
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

    /// Ends the server in order: it answers what it has received, says what it has counted, and
    /// is then gone.
    pub fn stop(mut self) -> Ended {
        // Should it be gone already, its exit status says so.
        let _ = kill_process(self.pid(), Signal::TERM);
        let Ok(statistics) = self.statistics.recv_timeout(STOP_MAX) else {
            let trouble = format!("the server did not end within {} s", STOP_MAX.as_secs());
            return Ended { statistics: None, trouble: Some(trouble) };
        };
        let trouble = match self.child.wait() {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("the server did not end in order: {status}")),
            Err(error) => Some(format!("the server's end cannot be told: {error}")),
        };
        Ended { statistics, trouble }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both do nothing for a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Passes on what a server says on standard error, and returns its statistics once it has ended.
fn follow(stderr: impl Read) -> Option<serde_json::Value> {
    let mut statistics = None;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        match line.starts_with('{').then(|| serde_json::from_str(&line).ok()).flatten() {
            Some(object) => statistics = Some(object),
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }
    statistics
}

/// Parses `listening addr=127.0.0.1:8898 backend=mio shards=2 backlog=1024 pid=77`.
fn parse_ready(line: &str) -> Option<Ready> {
    let line = line.trim_end().strip_prefix("listening ")?;
    let value =
        |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    Some(Ready {
        addr: value("addr")?.parse().ok()?,
        backend: value("backend")?.to_owned(),
        shards: value("shards")?.parse().ok()?,
        backlog: value("backlog")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readiness_line_is_understood() {
        let line = "listening addr=127.0.0.1:41233 backend=mio shards=2 backlog=1024 pid=77\n";
        let ready = Ready {
            addr: "127.0.0.1:41233".parse().unwrap(),
            backend: "mio".to_owned(),
            shards: 2,
            backlog: 1024,
        };
        assert_eq!(parse_ready(line), Some(ready));
        for wrong in ["", "listening\n", "listening addr=x backend=mio shards=2 backlog=1"] {
            assert_eq!(parse_ready(wrong), None);
        }
    }

    #[test]
    fn statistics_are_told_from_talk() {
        let said = "{not json\n{\"schema\":1,\"exchanges\":7}\n";
        let statistics = follow(said.as_bytes()).unwrap();
        assert_eq!(statistics["exchanges"], 7);
        assert_eq!(follow("".as_bytes()), None);
    }

    #[test]
    fn backends_go_by_their_names() {
        for (text, name) in [("io_uring", "io-uring"), ("uring", "io-uring"), ("auto", "auto")] {
            assert_eq!(backend_name(text).as_deref(), Ok(name));
        }
        assert!(backend_name("epoll2").unwrap_err().contains("blocking"));
    }
}
