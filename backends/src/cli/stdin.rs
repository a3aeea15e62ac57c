//! The end of standard input as a stop signal (`--until-stdin-closes`).
//!
//! ssh(1), `docker exec -i`, `kubectl exec -i` and `ip netns exec` pass no signal on when their
//! starter dies, but the standard input of what they started ends. The input itself is discarded.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lockstep_sys::{memory, side_thread};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::Stop;
use crate::stop::wait_for;

/// Pause after each read, so that an endless input costs little CPU.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes of a read: what a pipe holds (pipe(7)).
const READ_MAX: usize = 64 << 10;

/// True if standard input has ended or failed already. Discards what can be read of it.
pub(super) fn is_at_end() -> bool {
    next_is_end(Some(Duration::ZERO))
}

/// Drains the server when standard input ends or fails.
///
/// # Errors
///
/// `EAGAIN` or `ENOMEM` if no thread can be started.
pub(super) fn drain_at_end(stop: &Arc<Stop>) -> io::Result<()> {
    let stop = Arc::clone(stop);
    let watch = move || {
        // SAFETY: the thread uses standard input and the stop signal, which signal handlers keep as
        // long as the process lives.
        let _shared = unsafe { side_thread::separate(&[stop.as_fd()]) };
        while !next_is_end(None) {
            thread::sleep(PAUSE);
        }
        stop.drain();
    };
    memory::thread("stdin")?.spawn(watch)?;
    Ok(())
}

/// Waits for input, at most for `timeout`, and discards it; returns true at the end of it.
fn next_is_end(timeout: Option<Duration>) -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    wait_for(&mut fds, timeout);
    if fds[0].revents().is_empty() {
        return false;
    }
    match rustix::io::read(&stdin, &mut [0; READ_MAX]) {
        Ok(count) => count == 0,
        Err(error) => error != Errno::INTR && error != Errno::AGAIN,
    }
}
