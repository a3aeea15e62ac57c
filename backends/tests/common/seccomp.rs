//! Filters of system calls (seccomp(2)), for the tests of both commands.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{io, ptr};

/// Answers one system call of the command's process, and of those that it starts, with a verdict of
/// seccomp(2).
pub(crate) fn filter(command: &mut Command, call: libc::c_long, verdict: u32) {
    // Loads the number of the system call, and compares it with the one.
    let statement = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let answer = libc::BPF_RET | libc::BPF_K;
    let program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        statement(answer, 0, verdict),
        statement(answer, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let filter = ptr::from_ref(&program[0]).cast_mut();
        let filter = libc::sock_fprog { len: program.len() as u16, filter };
        // SAFETY: prctl(2) takes these arguments and no pointer.
        let prepared = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: `filter` points to the program, which the kernel copies.
        let installed =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
        if (prepared, installed) == (0, 0) { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes two system calls, which is allowed between fork and exec.
    unsafe { command.pre_exec(install) };
}
