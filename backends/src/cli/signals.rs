//! What signals tell a server, without a thread that waits for them: that would be a second thread
//! where one shard is all there is to run.
//!
//! A handler runs on any thread, between any two of its instructions, be it in the middle of an
//! allocation or with a lock held. So it does only what is async-signal-safe (signal-safety(7)):
//! atomic operations, clock_gettime(2), write(2) to an eventfd and _exit(2). What is around it in
//! signal-hook keeps to that as well, and restores errno. Whatever the signal interrupts is restarted
//! (SA_RESTART), or fails with EINTR where that is not done (signal(7)): epoll_wait(2), poll(2) and
//! io_uring_enter(2), whose callers go on.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level;

use crate::{AcceptPause, Stop};

/// From here on SIGUSR1 opens the accept_pause. The first of the others lets the conversations end; the
/// second does not wait for them.
///
/// # Errors
///
/// What sigaction(2) says.
pub(super) fn obey(stop: &Arc<Stop>, accept_pause: &Arc<AcceptPause>) -> io::Result<()> {
    let accept_pause = Arc::clone(accept_pause);
    // SAFETY: the handler makes one system call, write(2).
    unsafe { low_level::register(SIGUSR1, move || accept_pause.end()) }?;
    let told = Arc::new(AtomicBool::new(false));
    let hangup = (!hangups_are_ignored()).then_some(SIGHUP);
    for signal in [SIGTERM, SIGINT].into_iter().chain(hangup) {
        let (told, stop) = (Arc::clone(&told), Arc::clone(stop));
        let end = move || {
            if told.swap(true, Ordering::Relaxed) {
                low_level::exit(128 + signal);
            }
            stop.drain();
        };
        // SAFETY: the handler operates on atomics and calls clock_gettime(2), write(2) and
        // _exit(2). It neither allocates nor frees: what it holds lives as long as the process.
        unsafe { low_level::register(signal, end) }?;
    }
    Ok(())
}

/// Whether whoever started this wants it to outlive the terminal, as nohup(1) does: then SIGHUP is
/// ignored from the start (`SigIgn` in proc_pid_status(5)).
fn hangups_are_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (SIGHUP - 1) != 0)
}
