//! A server started from a command line.
//!
//! `sh -c` runs the command, so it may contain quotes, variables and redirections. `{addr}` in it
//! becomes the address to listen at, on a free port of the loopback interface, and `{port}` the
//! port alone. The server is ready when a process of it listens there. No connection is made before
//! the load: a server that serves one client would take a trial for it, and others change by it. It
//! is ended with SIGTERM, and with
//! SIGKILL if it outlives that.
//!
//! Like the embedded server it is in a process group of its own. Its parent is a supervisor
//! (`supervisor.rs`), which finds and ends all its processes, whatever it forks, even after a crash
//! of the generator.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{ChildStderr, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::exit::{self, Failure};
use crate::machine::processes::{Listener, Processes, listener_of};
use crate::servers::supervisor::Supervised;
use lockstep_sys::errno::describe;
use lockstep_sys::memory;

/// Poll interval while waiting for a server to accept or to end.
const POLL: Duration = Duration::from_millis(10);

/// Time after which a listener that no process of the server is known to hold counts as ready: that
/// of a container may belong to a proxy, and a process of another user is not readable.
const PROXY_AFTER: Duration = Duration::from_millis(500);

/// Bytes kept of the end of a server's standard error, to report why it has failed.
const STDERR_MAX: usize = 4096;

/// Hint for a server that ends or does not listen.
const LISTEN: &str = "it has to go on running, and listen at {addr}, or at {port} of 127.0.0.1";

/// A server to start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject {
    /// Name of the server.
    pub name: String,
    /// Command with `{addr}` or `{port}`.
    pub command: String,
}

impl Subject {
    /// Returns the command for an address.
    fn at(&self, addr: SocketAddr) -> String {
        let port = addr.port().to_string();
        self.command.replace("{addr}", &addr.to_string()).replace("{port}", &port)
    }
}

/// A started server. Dropping it ends all its processes.
#[derive(Debug)]
pub struct Server {
    name: String,
    supervised: Supervised,
    addr: SocketAddr,
    stderr: Arc<Mutex<Vec<u8>>>,
}

impl Server {
    /// Starts a server on the CPUs that the calling thread may use, which must drop it before it
    /// ends (see [`signal_with`](crate::machine::children::signal_with)).
    ///
    /// # Errors
    ///
    /// A failure with the cause if there is no free port, or the process cannot be started.
    pub fn start(subject: &Subject) -> Result<Self, Failure> {
        Self::spawn(subject).map_err(|error| {
            let error = format!("cannot start {}: {}", subject.name, describe(&error));
            Failure::new(exit::FAILURE, error)
        })
    }

    fn spawn(subject: &Subject) -> io::Result<Self> {
        // The kernel assigns a port that was just closed to no other socket for a while.
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut supervised = Supervised::start(&subject.at(addr), Stdio::null(), Stdio::null())?;
        let pipe = supervised.child.stderr.take().expect("it is piped");
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (name, kept) = (subject.name.clone(), stderr.clone());
        // From here on, every return drops the server, which ends the process.
        let server = Self { name, supervised, addr, stderr };
        memory::thread("server-stderr")?.spawn(move || keep_end(pipe, &kept))?;
        Ok(server)
    }

    /// Returns the address that it was started with.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns all processes that it consists of.
    pub fn processes(&self) -> Processes {
        Processes::Under(self.supervised.pid())
    }

    /// Waits until it listens.
    ///
    /// # Errors
    ///
    /// A failure with the cause if it ends before, exceeds the timeout, or a signal arrives.
    pub fn await_ready(&self, timeout: Duration, events: &Receiver<Event>) -> Result<(), Failure> {
        let deadline = Instant::now() + timeout;
        let mut other_since = None;
        loop {
            if let Some(ending) = self.ended() {
                let error = format!("cannot start {}: {ending}", self.name);
                return Err(Failure::new(exit::FAILURE, error).hint(LISTEN));
            }
            match listener_of(self.supervised.pid(), self.addr) {
                Some(Listener::Own) => return Ok(()),
                Some(Listener::Other) => {
                    let since = *other_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PROXY_AFTER {
                        return Ok(());
                    }
                }
                None => other_since = None,
            }
            if Instant::now() > deadline {
                let (name, addr) = (&self.name, self.addr);
                let timeout = humantime::format_duration(timeout);
                let error =
                    format!("{name} does not listen at {addr} after --ready-timeout {timeout}");
                return Err(Failure::new(exit::ADDRESS, error).hint(LISTEN));
            }
            match events.recv_timeout(POLL) {
                Ok(Event::Signal(signal)) => return Err(Failure::signal(signal)),
                Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Ends it; returns how it had ended if it failed before. A server that serves one client ends
    /// with it, and has not failed; if it ended too early, connections have.
    pub fn stop(self) -> Option<String> {
        if self.supervised.exited()?.exit_status() == Some(0) {
            return None;
        }
        let ending = self.ended()?;
        Some(format!("the server ended by itself: {ending}"))
    }

    /// Returns how it has ended, with its last line on standard error; `None` if it runs.
    fn ended(&self) -> Option<String> {
        let status = self.supervised.status()?;
        // Its last output may still be in the pipe.
        thread::sleep(POLL);
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let stderr = String::from_utf8_lossy(&stderr);
        Some(match stderr.lines().map(str::trim).rfind(|line| !line.is_empty()) {
            Some(line) => format!("{line} ({status})"),
            None => status,
        })
    }
}

/// Reads to the end, so that the server never blocks on a full pipe, and keeps the last bytes.
fn keep_end(mut pipe: ChildStderr, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 8 * STDERR_MAX];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(STDERR_MAX);
        kept.drain(..surplus);
    }
}
