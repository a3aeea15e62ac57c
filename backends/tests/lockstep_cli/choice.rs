//! Which backend runs: the table, `auto`, and an io_uring that is refused.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use lockstep_backends::BACKENDS;
use rustix::process::Signal;

use crate::common::child::{Ended, Process, Served, lockstep};
use crate::common::skipped;
use crate::harness::assert_complains;

/// Why the kernel refuses: the errno, and its name as it is to be printed.
const REFUSALS: [(i32, &str); 2] = [(libc::EPERM, "(EPERM)"), (libc::ENOSYS, "(ENOSYS)")];

const AUTO: [&str; 5] = ["serve", "--backend", "auto", "--listen", "127.0.0.1:0"];

#[test]
fn the_table_has_every_backend() {
    let ended = Process::start(lockstep(["backends"])).wait();
    for backend in BACKENDS {
        let here = if backend.probe().is_ok() { "yes" } else { "no" };
        assert_eq!(table_row(&ended, backend.name())[1], here, "{ended:?}");
    }
}

#[test]
fn the_table_says_why_a_backend_is_missing() {
    for (errno, name) in REFUSALS {
        let Some(command) = without_io_uring(errno, &["backends"]) else { return };
        let ended = Process::start(command).wait();
        assert_eq!(table_row(&ended, "io-uring")[1], "no", "{ended:?}");
        assert!(ended.stdout.iter().any(|line| line.contains(name)), "{ended:?}");
        assert_eq!(table_row(&ended, "mio")[1], "yes", "{ended:?}");
    }
}

/// The words of the backend's row; the whole table must fit a terminal.
fn table_row<'a>(ended: &'a Ended, backend: &str) -> Vec<&'a str> {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
    assert!(ended.stdout.iter().all(|line| line.chars().count() <= 80), "{ended:?}");
    let mut rows = ended.stdout.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&backend)).unwrap_or_else(|| panic!("{ended:?}"))
}

#[test]
fn auto_says_what_it_chose_and_why() {
    let server = Served::start_command(lockstep(AUTO));
    let best = BACKENDS.iter().find_map(|it| Some((it.name(), it.probe().ok()?)));
    let (name, how) = best.expect("the blocking backend runs everywhere");
    let said = server.process.stderr.next().expect("what it chose");
    assert!(said.starts_with(&format!("backend auto: {name} ({how}")), "{said}");
    server.connect().exchange(b"hello!");
    server.process.signal(Signal::TERM);
    let ended = server.process.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr[0].starts_with(&format!("{name} served echo")), "{ended:?}");
}

#[test]
fn a_named_backend_is_not_replaced_by_another() {
    for (errno, name) in REFUSALS {
        let args = ["serve", "--backend", "io-uring", "--listen", "127.0.0.1:0"];
        let Some(command) = without_io_uring(errno, &args) else { return };
        let ended = Process::start(command).wait();
        assert_complains(&ended, 3, &["backend io-uring is not available", name]);
    }
}

#[test]
fn auto_does_without_io_uring_and_says_why() {
    for (errno, name) in REFUSALS {
        let Some(command) = without_io_uring(errno, &AUTO) else { return };
        let server = Served::start_command(command);
        let said = server.process.stderr.next().expect("what it chose");
        assert!(said.starts_with("backend auto: mio ("), "{said}");
        assert!(said.contains("not io-uring: ") && said.contains(name), "{said}");
        server.connect().exchange(b"hello!");
        server.process.signal(Signal::TERM);
        let ended = server.process.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(ended.stderr[0].starts_with("mio served echo"), "{ended:?}");
    }
}

/// `lockstep` where io_uring_setup(2) fails, by the very means that containers use: a seccomp
/// filter. None, said aloud, where there are no such filters.
fn without_io_uring(errno: i32, args: &[&str]) -> Option<Command> {
    let filtered = |mut command: Command| {
        // SAFETY: between fork and exec it only makes system calls, and allocates nothing.
        unsafe { command.pre_exec(move || refuse_io_uring(errno)) };
        command
    };
    if let Err(error) = filtered(lockstep(["--version"])).output() {
        skipped(&format!("no seccomp filters: {error}"));
        return None;
    }
    Some(filtered(lockstep(args)))
}

/// Lets io_uring_setup(2) fail from now on in this process and whatever it executes.
fn refuse_io_uring(errno: i32) -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let instruction = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // The system call's number is the first field of struct seccomp_data (seccomp(2)).
    let mut filter = [
        instruction(LOAD, 0, 0, 0),
        instruction(JUMP_IF_EQUAL, libc::SYS_io_uring_setup as u32, 0, 1),
        instruction(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: the program, and the filter it points to, live until the call returns.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
