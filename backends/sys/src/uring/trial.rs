//! A trial of io_uring's system calls in a child process: a sandbox may kill a process for making
//! one (seccomp(2), `SECCOMP_RET_KILL_PROCESS`).

use std::io::{self, ErrorKind};
use std::sync::OnceLock;

/// Checks once per process that the system calls of io_uring do not kill it.
///
/// # Errors
///
/// `Unsupported` with the signal that killed the child process.
pub(super) fn survive() -> io::Result<()> {
    static KILLED_BY: OnceLock<Option<i32>> = OnceLock::new();
    match KILLED_BY.get_or_init(kill_child) {
        None => Ok(()),
        Some(libc::SIGSYS) => Err(killed_by("SIGSYS")),
        Some(signal) => Err(killed_by(&signal.to_string())),
    }
}

fn killed_by(signal: &str) -> io::Error {
    io::Error::new(ErrorKind::Unsupported, format!("killed by signal {signal}"))
}

/// Makes the calls in a child process, and returns the signal that killed it. `None` also without
/// a child: then the calls themselves show what is missing.
fn kill_child() -> Option<i32> {
    // SAFETY: until it ends, the child makes only system calls, which are async-signal-safe.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return None;
    }
    if child == 0 {
        // SAFETY: the arguments are those of prctl(2). A killed child leaves no core dump.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
        let calls = [
            // The parameters are a null pointer, and there is no descriptor -1.
            (libc::SYS_io_uring_setup, 1_i64, 0),
            (libc::SYS_io_uring_register, -1, u64::from(u32::MAX)),
            (libc::SYS_io_uring_enter, -1, 0),
        ];
        for (call, first, second) in calls {
            // SAFETY: the call fails without an effect.
            unsafe { libc::syscall(call, first, second, 0_u64, 0_u64, 0_u64, 0_u64) };
        }
        // SAFETY: it does not return, and runs no handler of the parent's.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the status outlives the call.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        if io::Error::last_os_error().kind() != ErrorKind::Interrupted {
            return None;
        }
    }
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}
