//! A kernel that refuses io_uring, or kills a process that calls it: by a seccomp filter, as in
//! many containers.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::common::child::{Process, Served, lockstep};
use crate::common::seccomp::filter;
use crate::common::skip;

/// The command with io_uring refused; none, after a note, without seccomp.
fn refused(args: &str, verdict: u32) -> Option<Command> {
    let mut trial = Command::new("true");
    filter(&mut trial, libc::SYS_io_uring_setup, verdict);
    if let Err(error) = trial.status() {
        skip("seccomp", error);
        return None;
    }
    let mut command = lockstep(args.split(' '));
    filter(&mut command, libc::SYS_io_uring_setup, verdict);
    Some(command)
}

/// Limits the locked memory of the command's process, and drops root's privilege to exceed it
/// (capabilities(7)).
fn limit_locked_memory(command: &mut Command, bytes: u64) {
    /// linux/capability.h
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    let limit = move || {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: the limit outlives the call, which only reads it.
        let limited = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
        // SAFETY: the arguments are those of prctl(2).
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) };
        if limited == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it only makes two system calls.
    unsafe { command.pre_exec(limit) };
}

const REFUSALS: [(u32, &str, &str); 5] = [
    (error(libc::ENOSYS), "ENOSYS", "no io_uring"),
    (error(libc::EPERM), "EPERM", "io_uring is"),
    (error(libc::ENOMEM), "ENOMEM", "memory"),
    (error(libc::EMFILE), "EMFILE", "descriptor"),
    (libc::SECCOMP_RET_KILL_PROCESS, "killed by signal SIGSYS", "seccomp filter"),
];

const fn error(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

#[test]
fn refused_io_uring_names_its_cause() {
    for (verdict, name, cause) in REFUSALS {
        let args = "serve --backend io-uring --listen 127.0.0.1:0";
        let Some(command) = refused(args, verdict) else { return };
        let ended = Process::start(command).wait();
        assert_eq!(ended.status.code(), Some(3), "{:?}", ended.stderr);
        assert_eq!(ended.stdout, [""; 0], "it never was ready");
        let [error, hint] = &ended.stderr[..] else { panic!("{:?}", ended.stderr) };
        assert!(error.starts_with("error: backend io-uring is not available: "), "{error}");
        assert!(error.contains(name) && error.contains(cause), "{error}");
        assert!(hint.starts_with("hint: "), "{hint}");
    }
}

#[test]
fn auto_takes_the_next_backend_and_prints_why() {
    for (verdict, name, _) in REFUSALS {
        let args = "serve --backend auto --json --listen 127.0.0.1:0";
        let Some(command) = refused(args, verdict) else { return };
        let server = Served::start_command(command);
        server.connect().exchange(b"x");
        let stats = server.stop();
        let auto = stats["auto"].as_str().unwrap();
        assert!(auto.starts_with("mio (") && stats["backend"] == "mio", "{stats}");
        assert!(auto.contains("not io-uring") && auto.contains(name), "{stats}");
    }
}

/// As for an unprivileged user, whose closed rings still count against the limit until the kernel
/// has freed them. With any limit, a backend runs with any number of shards.
#[test]
fn auto_runs_with_any_limit_of_locked_memory() {
    for (limit, shards) in [(0, 1), (1 << 20, 1), (1 << 20, 2), (4 << 20, 4), (8 << 20, 16)] {
        let args = format!("serve --backend auto --json --listen 127.0.0.1:0 --shards {shards}");
        let mut command = lockstep(args.split(' '));
        limit_locked_memory(&mut command, limit);
        let server = Served::start_command(command);
        server.connect().exchange(b"x");
        let statistics = server.stop();
        assert_eq!(statistics["shards"], shards, "{limit}");
        assert_eq!(statistics["exchanges"], 1, "{limit}");
    }
}

#[test]
fn backends_prints_why_io_uring_is_refused() {
    for (verdict, name, _) in REFUSALS {
        let Some(command) = refused("backends", verdict) else { return };
        let ended = Process::start(command).wait();
        assert_eq!(ended.status.code(), Some(0));
        let row = ended.stdout.iter().find(|line| line.contains("io-uring")).unwrap();
        assert!(row.split_ascii_whitespace().any(|word| word == "no"), "{row}");
        assert!(ended.stdout.join("\n").contains(name), "{:?}", ended.stdout);
        assert!(ended.stdout.iter().any(|line| line.contains("mio") && line.contains("yes")));
    }
}

#[test]
fn other_backends_run_where_io_uring_kills() {
    for backend in ["mio", "blocking"] {
        let args = format!("serve --backend {backend} --json --listen 127.0.0.1:0");
        let Some(command) = refused(&args, libc::SECCOMP_RET_KILL_PROCESS) else { return };
        let server = Served::start_command(command);
        server.connect().exchange(b"x");
        assert_eq!(server.stop()["exchanges"], 1, "{backend}");
    }
}
