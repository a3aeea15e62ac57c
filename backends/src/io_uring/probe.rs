//! Making a shard's ring, and explaining why there is none.

use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lockstep_core::RECV_MAX;
use lockstep_sys::errno::name_of;
use lockstep_sys::uring::{Observer, Ring, Sizes};

use super::IoUring;
use crate::Unsupported;

/// Slots of the submission queue.
const SUBMISSIONS: u32 = 4096;

/// Number of receive buffers at first. Their number doubles when a receive finds none.
const BUFFERS: u16 = 64;

/// Time for which a ring that has been closed may still count against a limit of memory. The kernel
/// frees it in a worker (`io_ring_exit_work`, io_uring/io_uring.c).
const FREED_WITHIN: Duration = Duration::from_millis(500);

/// Pause before another attempt to make rings for which memory was short.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Makes the rings of so many shards. If memory is short, rings that have just been closed may be
/// the cause; then it tries again for a while.
fn make<O: Observer + Copy>(
    backend: &IoUring,
    shards: usize,
    observer: O,
) -> io::Result<Vec<Ring<O>>> {
    let sizes = Sizes {
        submissions: SUBMISSIONS,
        batch: usize::MAX,
        buffers: BUFFERS.min(backend.buffers),
        buffers_max: backend.buffers,
        buffer_length: RECV_MAX,
    };
    let deadline = Instant::now() + FREED_WITHIN;
    loop {
        let ring = |_| Ring::new(sizes, Arc::default(), observer);
        match (0..shards).map(ring).collect::<io::Result<Vec<_>>>() {
            Err(error)
                if error.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline =>
            {
                thread::sleep(RETRY_AFTER);
            }
            rings => return rings,
        }
    }
}

/// Makes a shard's ring.
///
/// # Errors
///
/// The cause, and a way to avoid it.
pub(super) fn set_up<O: Observer + Copy>(
    backend: &IoUring,
    observer: O,
) -> Result<Ring<O>, Unsupported> {
    match make(backend, 1, observer) {
        Ok(rings) => Ok(rings.into_iter().next().expect("one was made")),
        Err(error) => Err(refused(&error, &disabled_sysctl())),
    }
}

/// Makes the rings of all shards and drops them. Together they may exceed a limit that a single one
/// does not: RLIMIT_MEMLOCK, for a user without CAP_IPC_LOCK.
///
/// # Errors
///
/// As of [`set_up`].
pub(super) fn probe(backend: &IoUring, shards: usize) -> Result<String, Unsupported> {
    match make(backend, shards.max(1), ()) {
        Ok(_rings) => Ok("a ring per shard, DEFER_TASKRUN".to_owned()),
        Err(error) => Err(refused(&error, &disabled_sysctl())),
    }
}

/// Value of `kernel.io_uring_disabled`: 1 excludes unprivileged processes, 2 all processes
/// (io_uring_setup(2), since Linux 6.6). Empty on older kernels.
fn disabled_sysctl() -> String {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default().trim().to_owned()
}

/// Explains an error of io_uring_setup(2) or io_uring_register(2).
fn refused(error: &io::Error, disabled: &str) -> Unsupported {
    let name = name_of(error);
    let (cause, hint) = match error.raw_os_error() {
        None => (
            format!("io_uring is blocked by a sandbox's seccomp filter ({error})"),
            "use --backend mio, or a seccomp profile that allows io_uring_*".to_owned(),
        ),
        Some(libc::ENOSYS) => (
            format!("this kernel or sandbox has no io_uring ({name})"),
            "use --backend mio, or run outside the sandbox".to_owned(),
        ),
        Some(libc::EPERM | libc::EACCES) if matches!(disabled, "1" | "2") => (
            format!("io_uring is switched off: kernel.io_uring_disabled={disabled} ({name})"),
            "use --backend mio, or let root run: sysctl kernel.io_uring_disabled=0".to_owned(),
        ),
        Some(libc::EPERM | libc::EACCES) => (
            format!("io_uring is blocked, most likely by a container's seccomp filter ({name})"),
            "use --backend mio, or a seccomp profile that allows io_uring_*".to_owned(),
        ),
        Some(libc::ENOMEM) => (
            format!("no memory that may be locked is left for io_uring ({name})"),
            "raise the limit of locked memory (ulimit -l), run fewer shards, or use --backend mio"
                .to_owned(),
        ),
        Some(libc::EMFILE | libc::ENFILE) => (
            format!("no descriptor is left for io_uring ({name})"),
            "raise the limit of open descriptors (ulimit -n), or run fewer shards".to_owned(),
        ),
        Some(libc::EINVAL) => (
            format!("this kernel's io_uring is too old ({name})"),
            "io-uring needs Linux 6.1 or later; use --backend mio".to_owned(),
        ),
        _ => (format!("io_uring cannot be set up: {error}"), "use --backend mio".to_owned()),
    };
    Unsupported { cause, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_their_cause() {
        let cause = |errno, sysctl| refused(&io::Error::from_raw_os_error(errno), sysctl).cause;
        assert!(cause(libc::ENOSYS, "").contains("no io_uring (ENOSYS)"));
        assert!(cause(libc::EPERM, "2").contains("kernel.io_uring_disabled=2 (EPERM)"));
        assert!(cause(libc::EPERM, "0").contains("seccomp filter (EPERM)"));
        assert!(cause(libc::ENOMEM, "").contains("locked"));
        assert!(cause(libc::EINVAL, "").contains("too old"));
        assert!(cause(libc::EIO, "").contains("cannot be set up"));
        let killed = refused(&io::Error::other("killed by signal SIGSYS"), "").cause;
        assert!(killed.ends_with("(killed by signal SIGSYS)"), "{killed}");
    }
}
