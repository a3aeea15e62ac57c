//! The supervisor of a server that was started from a command line: `loadgen exec`.
//!
//! The processes that a command forks may be in other process groups and sessions, and may outlive
//! the process that has forked them, as daemons do. But all of them are descendants of this
//! process, which is their subreaper (PR_SET_CHILD_SUBREAPER(2const)). So it can find and end all
//! of them, and ends itself when none is left.

use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{self, Failure};
use crate::machine::children;
use crate::machine::processes::descendants;
use lockstep_sys::errno::describe;
use lockstep_sys::limits::set_open_files;
use lockstep_sys::memory;

/// Timeout for a server to end on SIGTERM. Its connections are closed by then.
pub const STOP_MAX: Duration = Duration::from_secs(2);

/// Poll interval for processes that a server forks while it is being ended.
const AGAIN: Duration = Duration::from_millis(10);

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
