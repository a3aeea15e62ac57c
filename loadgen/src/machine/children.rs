//! Processes of this very program that it starts itself, from both sides: servers, supervisors,
//! trials and workers.

use std::os::unix::process::CommandExt;
use std::process::{self, Command};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::set_name;

/// Returns a command that starts this program as the hidden command `name`, which takes `--parent`.
///
/// The kernel keeps the file of a running program under this path (proc_pid_exe(5)), so that an
/// update or a build in the middle of a command has no effect on it.
pub fn this_program(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("loadgen").args([name, "--parent", &process::id().to_string()]);
    command
}

/// Has the kernel kill this process when the process `parent`, which has started it, is gone;
/// false if `parent` is gone already. See [`signal_with`].
pub fn end_with(parent: i32) -> bool {
    signal_with(parent, Signal::KILL)
}

/// Has the kernel send this process a signal when the process `parent`, which has started it, is
/// gone; false if `parent` is gone already.
///
/// The kernel sends the signal when the *thread* that has started this process ends
/// (PR_SET_PDEATHSIG(2const)). So a thread that starts a server must stop it before it ends, as
/// all callers of [`Server::start`](crate::servers::embedded::Server::start) do.
pub fn signal_with(parent: i32, signal: Signal) -> bool {
    // The kernel has named the process `exe`, after the path. Neither call fails.
    let _named = set_name(c"loadgen");
    let _refused = set_parent_process_death_signal(Some(signal));
    getppid() == Pid::from_raw(parent)
}
