//! Lines on standard output and standard error, whose reader may have stopped reading.
//!
//! `lockstep serve` bounds its output with [`bound`]: when the server stops, no line waits for its
//! reader beyond the drain timeout. Otherwise a write waits as long as the reader does.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::termios::isatty;

use crate::Stop;
use crate::stop::{WAIT_RETRY, wait_for};

/// Longest write: if a pipe has room at all, it takes that much (`PIPE_BUF`, pipe(7)).
const CHUNK: usize = 4096;

/// A standard stream.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// Prints lines on a stream. `text` returns them, while no other thread prints there.
///
/// # Errors
///
/// Those of write(2), and `ETIMEDOUT` or `EAGAIN` if the server stops and the reader does not read.
pub(crate) fn print(stream: Stream, text: impl FnOnce() -> String) -> io::Result<()> {
    static LINES: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
    let _lines = LINES[stream as usize].lock().unwrap_or_else(PoisonError::into_inner);
    let text = text();
    match (BOUNDED.get(), stream) {
        (Some(bounded), _) => bounded.write(stream, text.as_bytes()),
        (None, Stream::Out) => {
            let mut stdout = io::stdout();
            stdout.write_all(text.as_bytes())?;
            stdout.flush()
        }
        (None, Stream::Err) => io::stderr().write_all(text.as_bytes()),
    }
}

/// Prints a line on standard error. Unlike `eprintln!`, it does not panic if the pipe is closed.
pub(crate) fn print_line(line: &str) {
    let _closed_pipe = print(Stream::Err, || format!("{line}\n"));
}

static BOUNDED: OnceLock<Bounded> = OnceLock::new();

struct Bounded {
    stop: Arc<Stop>,
    /// The streams opened once more, if they are pipes or terminals: not to block is then a
    /// property of this process's descriptors, and not of all that share the stream.
    reopened: [Option<OwnedFd>; 2],
    lost: AtomicBool,
}

/// Bounds the output of this process by the drain timeout of its server, for good.
pub(crate) fn bound(stop: &Arc<Stop>) {
    BOUNDED.get_or_init(|| Bounded {
        stop: Arc::clone(stop),
        reopened: [reopen(io::stdout().as_fd()), reopen(io::stderr().as_fd())],
        lost: AtomicBool::new(false),
    });
}

/// True if bounded output was lost, other than to a reader that has closed its end.
pub(crate) fn was_lost() -> bool {
    BOUNDED.get().is_some_and(|bounded| bounded.lost.load(Relaxed))
}

fn reopen(stream: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mode = fstat(stream).ok()?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Fifo && !isatty(stream) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).ok()
}

impl Bounded {
    fn write(&self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let original = [stdout.as_fd(), stderr.as_fd()][stream as usize];
        let stream = self.reopened[stream as usize].as_ref().map_or(original, AsFd::as_fd);
        while !bytes.is_empty() {
            let chunk = &bytes[..bytes.len().min(CHUNK)];
            let written = self.wait(stream).and_then(|()| rustix::io::write(stream, chunk));
            match written {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                // A terminal may have room, but not for what a line end becomes.
                Err(Errno::AGAIN) if self.left() != Some(Duration::ZERO) => {
                    thread::sleep(WAIT_RETRY);
                }
                Err(error) => {
                    let closed = [Errno::PIPE, Errno::BADF].contains(&error);
                    self.lost.fetch_or(!closed, Relaxed);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Time until the drain timeout; none while the server runs.
    fn left(&self) -> Option<Duration> {
        Some(self.stop.deadline()?.saturating_duration_since(Instant::now()))
    }

    /// Waits until the stream can be written to, or for the drain timeout.
    fn wait(&self, stream: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut fds =
            [PollFd::new(&stream, PollFlags::OUT), PollFd::new(&*self.stop, PollFlags::IN)];
        loop {
            let (draining, left) = (self.stop.is_draining(), self.left());
            let polled = wait_for(if draining { &mut fds[..1] } else { &mut fds }, left);
            if !polled || !fds[0].revents().is_empty() {
                return Ok(()); // without memory for poll(2), only a write can show it
            }
            if left == Some(Duration::ZERO) {
                return Err(Errno::TIMEDOUT);
            }
        }
    }
}
