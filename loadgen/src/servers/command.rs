//! Anybody's server, started from a command line.
//!
//! The command is given to `sh -c`, because that is how commands are written down: with quotes,
//! variables and redirections. `{addr}` in it becomes the address to listen at, on a free port of
//! the loopback interface, and `{port}` the port alone. The server is ready when it accepts a
//! connection, and is ended with SIGTERM, or SIGKILL if that does not do.
//!
//! Like the embedded server it is in a process group of its own, and a process of ours stays
//! above it (`supervisor.rs`), so that all its processes can be told and ended, whatever it forks
//! and however the generator went.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::event::Event;
use crate::exit::{self, Failure};
use crate::machine::processes::Processes;
use crate::servers::embedded::READY_MAX;
use crate::servers::supervisor;
use lockstep_sys::errno::describe;

/// How often it is looked whether a server accepts, or is gone.
const POLL: Duration = Duration::from_millis(10);

/// The longest that one look takes.
const PROBE_MAX: Duration = Duration::from_millis(100);

/// How much of the end of what a server says is kept, to tell why it has failed.
const SAID_MAX: usize = 4096;

/// A server that can be started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject {
    /// What it is called.
    pub name: String,
    /// The command, with `{addr}` or `{port}` in it.
    pub command: String,
}

impl Subject {
    /// The command for an address.
    fn at(&self, addr: SocketAddr) -> String {
        let port = addr.port().to_string();
        self.command.replace("{addr}", &addr.to_string()).replace("{port}", &port)
    }
}

/// A server that has been started. Dropping it ends all its processes.
#[derive(Debug)]
pub struct Server {
    name: String,
    /// Its supervisor.
    child: Child,
    addr: SocketAddr,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Server {
    /// Starts a server on the processors that this thread may use.
    ///
    /// # Errors
    ///
    /// When there is no free port, or the process cannot be started.
    pub fn start(subject: &Subject) -> Result<Self, Failure> {
        Self::spawn(subject).map_err(|error| {
            let error = format!("cannot start {}: {}", subject.name, describe(&error));
            Failure::new(exit::FAILURE, error)
        })
    }

    fn spawn(subject: &Subject) -> io::Result<Self> {
        // Nobody else is given the port for a while after it was free.
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["exec", "--parent", &std::process::id().to_string(), "--", &subject.at(addr)])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().expect("it is piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (name, listener) = (subject.name.clone(), said.clone());
        // From here on, dropping the server ends the process.
        let server = Self { name, child, addr, said };
        thread::Builder::new()
            .name("server-stderr".to_owned())
            .spawn(move || keep_end(stderr, &listener))?;
        Ok(server)
    }

    /// The address it was told to listen at.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All processes that it consists of.
    pub fn processes(&self) -> Processes {
        Processes::Under(self.supervisor())
    }

    fn supervisor(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until it accepts a connection.
    ///
    /// # Errors
    ///
    /// When it ends before, takes too long, or a signal comes.
    pub fn await_ready(&self, events: &Receiver<Event>) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            if let Some(ending) = self.ended() {
                let error = format!("cannot start {}: {ending}", self.name);
                return Err(Failure::new(exit::UNAVAILABLE, error));
            }
            if accepts(self.addr) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let (name, addr, seconds) = (&self.name, self.addr, READY_MAX.as_secs());
                let error =
                    format!("{name} does not accept connections at {addr} after {seconds} s");
                let hint = "it has to listen at {addr}, or at {port} of 127.0.0.1";
                return Err(Failure::new(exit::ADDRESS, error).hint(hint));
            }
            match events.recv_timeout(POLL) {
                Ok(Event::Signal(signal)) => return Err(Failure::signal(signal)),
                Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Ends it, and says what was wrong if it had ended before.
    pub fn stop(self) -> Option<String> {
        let ending = self.ended()?; // Else dropping it ends it.
        Some(format!("the server has ended by itself: {ending}"))
    }

    /// How it has ended, with the last line it said; `None` if it has not.
    fn ended(&self) -> Option<String> {
        let status = self.status()?;
        // What it said last may still be on its way.
        thread::sleep(POLL);
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&said);
        Some(match said.lines().map(str::trim).rfind(|line| !line.is_empty()) {
            Some(line) => format!("{line} ({status})"),
            None => status,
        })
    }

    /// How it has ended. It is left unwaited for: as long as it is, nobody else is given its
    /// number, and so what [`drop`] signals is its supervisor and no other.
    fn status(&self) -> Option<String> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.supervisor()), options).ok()??;
        Some(match (status.exit_status(), status.terminating_signal()) {
            // As shells and the supervisor have it.
            (Some(code @ 129..=192), _) => format!("signal {}", code - 128),
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "gone".to_owned(),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(self.supervisor(), Signal::TERM);
        // Only what the kernel itself does not end can outlive this.
        let deadline = Instant::now() + 2 * supervisor::STOP_MAX;
        while self.status().is_none() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, so that the server is never stopped by a full pipe, and keeps the last bytes.
fn keep_end(mut stderr: ChildStderr, said: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 8 * SAID_MAX];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&buffer[..count]);
        let surplus = said.len().saturating_sub(SAID_MAX);
        said.drain(..surplus);
    }
}

/// Whether somebody listens. A connect to a port of this machine that nobody listens at may, if
/// rarely, be given that very port and meet itself (a simultaneous open, RFC 9293, 3.5).
fn accepts(addr: SocketAddr) -> bool {
    TcpStream::connect_timeout(&addr, PROBE_MAX)
        .is_ok_and(|stream| stream.local_addr().is_ok_and(|own| own != addr))
}
