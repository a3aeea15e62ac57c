//! Signals of a server, handled without a thread that waits for them: with one shard, that would be
//! the second thread of the process.
//!
//! A handler runs on any thread, between any two of its instructions, even within an allocation or
//! with a lock held. So it calls only async-signal-safe functions (signal-safety(7)): atomic
//! operations, clock_gettime(2), write(2) to an eventfd and _exit(2). signal-hook's own handler
//! keeps to that as well, and restores errno. An interrupted system call is restarted (SA_RESTART)
//! or fails with EINTR (signal(7)): epoll_wait(2), poll(2) and io_uring_enter(2), whose callers
//! continue.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::low_level;

use crate::{AcceptPause, Stop};

/// Signals that come closer are one: timeout(1) signals the process that it has started, and then
/// its process group.
const REPEATED: Duration = Duration::from_millis(200);

/// Installs the handlers. SIGUSR1 ends the accept pause. The first SIGTERM, SIGINT, SIGQUIT or
/// SIGHUP drains the server, a second one after [`REPEATED`] ends the process. SIGHUP stays ignored
/// if it was, as nohup(1) has it.
///
/// # Errors
///
/// Those of sigaction(2), which has none for these signals.
pub(super) fn install(stop: &Arc<Stop>, accept_pause: &Arc<AcceptPause>) -> io::Result<()> {
    let accept_pause = Arc::clone(accept_pause);
    // SAFETY: the handler makes one system call, write(2).
    unsafe { low_level::register(SIGUSR1, move || accept_pause.end()) }?;
    let (installed, first_ns) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    for signal in [SIGTERM, SIGINT, SIGQUIT].into_iter().chain(hangup) {
        let (first_ns, stop) = (Arc::clone(&first_ns), Arc::clone(stop));
        let end = move || {
            let now_ns = installed.elapsed().as_nanos() as u64 + 1;
            let first = first_ns.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed);
            match first {
                Ok(_) => stop.drain(),
                Err(first_ns) if now_ns.saturating_sub(first_ns) < REPEATED.as_nanos() as u64 => {}
                Err(_) => low_level::exit(128 + signal),
            }
        };
        // SAFETY: the handler operates on atomics and calls clock_gettime(2), write(2) and
        // _exit(2). It neither allocates nor frees: its captures live as long as the process.
        unsafe { low_level::register(signal, end) }?;
    }
    Ok(())
}

/// True if the process was started with the signal ignored.
fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action; the current one is written to `action`.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: a zeroed sigaction is valid, and so is the one that the kernel wrote.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}
