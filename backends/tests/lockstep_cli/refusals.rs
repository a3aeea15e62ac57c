//! A kernel that refuses io_uring, by a seccomp filter, as in many containers.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::common::child::{Process, Served, lockstep};
use crate::common::skip;

/// Makes io_uring_setup(2) fail with `errno` in the command's process.
fn refuse_io_uring(command: &mut Command, errno: i32) {
    // seccomp(2): load the number of the system call; if it is that one, fail, else allow.
    let code = |code: u32| code as u16;
    let load = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let compare = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let give_back = code(libc::BPF_RET | libc::BPF_K);
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let program = [
        statement(load, 0),
        libc::sock_filter { code: compare, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
        statement(give_back, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(give_back, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let filter = program.as_ptr().cast_mut();
        let filter = libc::sock_fprog { len: program.len() as u16, filter };
        // SAFETY: the arguments are those of prctl(2).
        let prepared = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: as above; the kernel copies the program.
        let installed =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
        if (prepared, installed) == (0, 0) { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it only makes two system calls.
    unsafe { command.pre_exec(install) };
}

/// The command with io_uring refused; none, after a note, without seccomp.
fn refused(args: &str, errno: i32) -> Option<Command> {
    let mut trial = Command::new("true");
    refuse_io_uring(&mut trial, errno);
    if let Err(error) = trial.status() {
        skip("seccomp", error);
        return None;
    }
    let mut command = lockstep(args.split(' '));
    refuse_io_uring(&mut command, errno);
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

const REFUSALS: [(i32, &str, &str); 4] = [
    (libc::ENOSYS, "ENOSYS", "no io_uring"),
    (libc::EPERM, "EPERM", "io_uring is"),
    (libc::ENOMEM, "ENOMEM", "memory"),
    (libc::EMFILE, "EMFILE", "descriptor"),
];

#[test]
fn refused_io_uring_names_its_cause() {
    for (errno, name, cause) in REFUSALS {
        let args = "serve --backend io-uring --listen 127.0.0.1:0";
        let Some(command) = refused(args, errno) else { return };
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
    for (errno, name, _) in REFUSALS {
        let args = "serve --backend auto --json --listen 127.0.0.1:0";
        let Some(command) = refused(args, errno) else { return };
        let server = Served::start_command(command);
        let said = server.process.stderr.next().unwrap();
        assert!(said.starts_with("backend auto: mio ("), "{said}");
        assert!(said.contains("not io-uring") && said.contains(name), "{said}");
        server.connect().exchange(b"x");
        assert_eq!(server.stop()["backend"], "mio");
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
    let Some(command) = refused("backends", libc::EPERM) else { return };
    let ended = Process::start(command).wait();
    assert_eq!(ended.status.code(), Some(0));
    let row = ended.stdout.iter().find(|line| line.contains("io-uring")).unwrap();
    assert!(row.split_ascii_whitespace().any(|word| word == "no"), "{row}");
    assert!(ended.stdout.join("\n").contains("EPERM"), "{:?}", ended.stdout);
}
