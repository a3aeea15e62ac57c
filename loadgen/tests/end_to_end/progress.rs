//! The progress line on a terminal.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::{Server, echo, loadgen};

/// Standard error of a run, which is a terminal with this many columns.
fn stderr_on_terminal(columns: u16, term: &str) -> String {
    let server = Server::start(echo);
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = std::ffi::OsString::from_vec(ptsname(&controller, Vec::new()).unwrap().into_bytes());
    let mut options = OpenOptions::new();
    let terminal = options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    let mut command =
        loadgen(&["--target", &server.target(), "--conns", "2", "--warmup", "0", "-d", "700ms"]);
    command.env("TERM", term).env_remove("CI").stdout(Stdio::null()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    drop(command); // It holds the terminal open.
    let mut shown = Vec::new();
    // Reading fails once no process has the terminal open.
    let _ = File::from(controller).read_to_end(&mut shown);
    child.wait().unwrap();
    String::from_utf8(shown).unwrap()
}

#[test]
fn progress_line_fits_the_terminal_and_is_erased() {
    let shown = stderr_on_terminal(20, "xterm");
    let erase = "\r\x1b[2K";
    assert!(shown.contains("measured 0."), "{shown:?}");
    assert!(shown.ends_with(erase), "{shown:?}");
    for line in shown.split(erase) {
        assert!(line.chars().count() <= 20, "{line:?} of {shown:?}");
    }
}

#[test]
fn dumb_terminal_has_no_progress_line() {
    assert_eq!(stderr_on_terminal(80, "dumb"), "");
}
