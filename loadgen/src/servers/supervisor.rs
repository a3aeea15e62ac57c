//! The supervisor of a server that was started from a command line: `loadgen exec`, and the handle
//! of the process that has started it.
//!
//! The processes that a command forks may be in other process groups and sessions, and may outlive
//! the process that has forked them, as daemons do. But all of them are descendants of this
//! process, which is their subreaper (PR_SET_CHILD_SUBREAPER(2const)). So it can find and end all
//! of them, and ends itself when none is left.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, WaitStatus, getpid,
    kill_process, set_child_subreaper, wait, waitid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{self, Failure};
use crate::machine::children;
use crate::machine::processes::descendants;
use lockstep_sys::errno::describe;
use lockstep_sys::limits::{open_files_before, set_open_files};
use lockstep_sys::memory;

/// Timeout for a server to end on SIGTERM. Its connections are closed by then.
pub const STOP_MAX: Duration = Duration::from_secs(2);

/// Poll interval for processes that a server forks while it is being ended.
const AGAIN: Duration = Duration::from_millis(10);

/// A command under a supervisor. Dropping it ends all its processes.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// The supervisor.
    pub(crate) child: Child,
}

impl Supervised {
    /// Starts a command for `sh -c` in a process group of its own. The calling thread must drop it
    /// before it ends (see [`signal_with`](children::signal_with)). Standard error is piped.
    ///
    /// # Errors
    ///
    /// Those of fork(2) and execve(2).
    pub(crate) fn start(command: &str, stdin: Stdio, stdout: Stdio) -> io::Result<Self> {
        let mut supervisor = children::this_program("exec");
        if let Some(soft) = open_files_before() {
            supervisor.args(["--open-files", &soft.to_string()]);
        }
        supervisor.args(["--", command]).process_group(0).stdin(stdin).stdout(stdout);
        Ok(Self { child: supervisor.stderr(Stdio::piped()).spawn()? })
    }

    /// Process whose descendants are those of the command.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Returns its status; `None` if it runs. Leaves the supervisor a zombie: as long as it is one,
    /// its number is not reused, so [`drop`] cannot signal another process.
    pub(crate) fn exited(&self) -> Option<WaitIdStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.pid()), options).ok()?
    }

    /// Waits for its end, and returns its status; `None` if it still runs after `longest`.
    pub(crate) fn wait(&self, longest: Duration) -> Option<WaitIdStatus> {
        let deadline = Instant::now() + longest;
        loop {
            let exited = self.exited();
            if exited.is_some() || Instant::now() > deadline {
                return exited;
            }
            thread::sleep(AGAIN);
        }
    }

    /// Returns how it has ended; `None` if it runs.
    pub(crate) fn status(&self) -> Option<String> {
        let status = self.exited()?;
        Some(match (status.exit_status(), status.terminating_signal()) {
            // The supervisor's code for a signal, like a shell's.
            (Some(code @ 129..=192), _) => format!("signal {}", code - 128),
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "gone".to_owned(),
        })
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _gone = kill_process(self.pid(), Signal::TERM);
        // The supervisor outlives this only if the kernel cannot end a process of the command.
        let _status = self.wait(2 * STOP_MAX);
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// Options of the hidden `loadgen exec`.
#[derive(Args, Debug)]
pub struct ExecArgs {
    /// The generator's process; the command ends with it.
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// Soft limit of open files of the command.
    #[arg(long, value_name = "N")]
    open_files: Option<u64>,
    /// The command for `sh -c`.
    command: String,
}

/// Starts the command, and runs as long as any process of it. SIGTERM, which the kernel also sends
/// when the generator is gone, ends them all: with SIGTERM, and after [`STOP_MAX`] with SIGKILL.
/// The exit code is the command's own, or 128 plus the signal that has ended it.
pub fn exec(args: &ExecArgs) -> ExitCode {
    let failed = |what: &str, error: &std::io::Error| {
        Failure::new(127, format!("{what}: {}", describe(error))).print();
        ExitCode::from(127)
    };
    // Nothing is started yet, so the default action of SIGTERM is right.
    if !children::signal_with(args.parent, Signal::TERM) {
        return ExitCode::FAILURE;
    }
    let signals = set_child_subreaper(Some(getpid()))
        .map_err(Into::into)
        .and_then(|()| Signals::new([SIGTERM, SIGINT, SIGHUP]));
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => return failed("cannot supervise", &error),
    };
    args.open_files.into_iter().for_each(set_open_files);
    let shell = match Command::new("sh").args(["-c", &args.command]).spawn() {
        Ok(child) => Pid::from_child(&child),
        Err(error) => return failed("sh", &error),
    };
    let end = move || {
        if signals.forever().next().is_some() {
            end_all();
        }
    };
    if let Err(error) = memory::thread("signals").and_then(|thread| thread.spawn(end)) {
        signal_all(Signal::KILL);
        return failed("cannot start a thread", &error);
    }
    wait_for_all(shell)
}

/// Waits until no process is left, and returns the exit code of the first.
fn wait_for_all(first: Pid) -> ExitCode {
    let mut code = exit::FAILURE;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == first => code = code_of(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return ExitCode::from(code), // ECHILD
        }
    }
}

fn code_of(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => exit::of_signal(signal),
        (None, None) => exit::FAILURE,
    }
}

/// Ends all descendants. The main thread ends this process when none is left.
fn end_all() -> ! {
    signal_all(Signal::TERM);
    let deadline = Instant::now() + STOP_MAX;
    loop {
        thread::sleep(AGAIN);
        if Instant::now() > deadline {
            signal_all(Signal::KILL);
        }
    }
}

fn signal_all(signal: Signal) {
    for pid in descendants(getpid()) {
        let _gone = kill_process(pid, signal);
    }
}
