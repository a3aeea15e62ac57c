//! The progress line on a terminal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::{Running, Server, echo, loadgen, wait_until};

/// A terminal with this many columns: the side of its user, and that of a command.
fn terminal(columns: u16) -> (File, File) {
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = std::ffi::OsString::from_vec(ptsname(&controller, Vec::new()).unwrap().into_bytes());
    let mut options = OpenOptions::new();
    let terminal = options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    (File::from(controller), terminal)
}

/// Standard error of a command, which is a terminal with this many columns.
fn stderr_on_terminal(mut command: Command, columns: u16, term: &str) -> String {
    let (mut user, terminal) = terminal(columns);
    command.env("TERM", term).env_remove("CI").stdout(Stdio::null()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    drop(command); // It holds the terminal open.
    let mut shown = Vec::new();
    // Reading fails once no process has the terminal open.
    let _ = user.read_to_end(&mut shown);
    child.wait().unwrap();
    String::from_utf8(shown).unwrap()
}

fn short_run() -> Command {
    let server = Server::start(echo);
    loadgen(&["--target", &server.target(), "--conns", "2", "--warmup", "0", "-d", "700ms"])
}

#[test]
fn progress_line_fits_the_terminal_and_is_erased() {
    let compare = || {
        let args = ["compare", "blocking", "mio", "--conns", "1", "--rounds", "1", "-d", "600ms"];
        loadgen(&[&args[..], &["--slice", "0", "--json"]].concat())
    };
    for (command, columns, words) in [
        (short_run(), 20, "measured 0."),
        (short_run(), 8, "measure"),
        (short_run(), 1, ""),
        (compare(), 80, "round 1/1, at most"),
        (compare(), 40, "round 1/1: "),
    ] {
        let shown = stderr_on_terminal(command, columns, "xterm");
        let erase = "\r\x1b[2K";
        assert!(shown.contains(words), "{columns}: {shown:?}");
        assert!(shown.ends_with(erase), "{shown:?}");
        for line in shown.split(erase) {
            assert!(line.chars().count() <= columns.into(), "{line:?} of {shown:?}");
        }
    }
}

#[test]
fn dumb_terminal_has_no_progress_line() {
    assert_eq!(stderr_on_terminal(short_run(), 80, "dumb"), "");
}

/// As after Ctrl-S.
#[test]
fn stopped_terminal_does_not_delay_the_run() {
    let (_user, mut terminal) = terminal(80);
    let flags = fcntl_getfl(&terminal).unwrap();
    fcntl_setfl(&terminal, flags | OFlags::NONBLOCK).unwrap();
    while terminal.write(b"x").is_ok() {}
    fcntl_setfl(&terminal, flags).unwrap();
    let mut command = short_run();
    command.env("TERM", "xterm").env_remove("CI").arg("--json");
    command.stdout(Stdio::piped()).stderr(terminal);
    let mut running = Running(Some(command.spawn().unwrap()));
    let mut record = String::new();
    let stdout = running.0.as_mut().unwrap().stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut record).unwrap();
    assert!(record.starts_with('{'), "{record}");
    wait_until("the run ends", || running.0.as_mut().unwrap().try_wait().unwrap().is_some());
}
