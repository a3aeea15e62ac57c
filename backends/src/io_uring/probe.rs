//! Whether io_uring can be had here, and if not, whose decision that is.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring as Uring, Probe, opcode};

use super::buffers::Buffers;
use super::{IoUring, ring};
use crate::Unsupported;
use crate::trace::{NoTrace, Trace};
use lockstep_sys::errno::name_of;

/// How long rings that have been closed may still count against a limit of memory. The kernel frees
/// a ring in a worker of its own (`io_ring_exit_work`, io_uring/io_uring.c).
const FREED_WITHIN: Duration = Duration::from_millis(500);

/// How often a ring is asked for again that no memory is left for.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// What a shard has from the kernel: a ring and its buffers, dropped in this order.
type Parts = (Uring, Buffers);

/// What was refused.
struct Refusal {
    error: io::Error,
    /// Not the ring, but its buffers.
    of_buffers: bool,
}

impl Refusal {
    fn meaning(&self) -> Unsupported {
        match (self.of_buffers, self.error.raw_os_error()) {
            (true, Some(libc::EINVAL)) => Unsupported {
                cause: format!("io_uring here has no buffer rings ({})", name_of(&self.error)),
                hint: "io-uring needs Linux 6.1 or later; use --backend mio".to_owned(),
            },
            _ => refused(&self.error, &disabled_sysctl()),
        }
    }
}

fn make(backend: &IoUring, trace: impl Trace) -> Result<Parts, Refusal> {
    let refusal = |of_buffers| move |error| Refusal { error, of_buffers };
    let ring = ring::set_up(trace).map_err(refusal(false))?;
    let buffers = Buffers::register(&ring, backend.buffers).map_err(refusal(true))?;
    Ok((ring, buffers))
}

/// Makes what so many shards need, all at once. If there is no memory for it, that may be due to
/// rings that have just been closed, and is tried again for a while.
fn make_all(backend: &IoUring, shards: usize, trace: impl Trace) -> Result<Vec<Parts>, Refusal> {
    let deadline = Instant::now() + FREED_WITHIN;
    loop {
        let parts: Result<_, Refusal> = (0..shards).map(|_| make(backend, trace)).collect();
        match parts {
            Err(Refusal { error, .. })
                if error.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline =>
            {
                thread::sleep(TRY_AGAIN);
            }
            parts => return parts,
        }
    }
}

/// Makes what a shard needs.
pub(super) fn set_up(backend: &IoUring, trace: impl Trace) -> Result<Parts, Unsupported> {
    let parts = make_all(backend, 1, trace).map_err(|refusal| refusal.meaning())?;
    Ok(parts.into_iter().next().expect("one was made"))
}

/// Makes what so many shards need, since together they may exceed a limit that one does not
/// (RLIMIT_MEMLOCK, for a user without CAP_IPC_LOCK), and asks for the operations.
pub(super) fn probe(backend: &IoUring, shards: usize) -> Result<String, Unsupported> {
    let parts = make_all(backend, shards.max(1), NoTrace).map_err(|refusal| refusal.meaning())?;
    let (ring, _buffers) = &parts[0];
    match missing_operations(ring).as_deref() {
        Ok([]) => Ok(format!("a ring per shard, {}", ring::FLAG)),
        Ok(missing) => Err(Unsupported {
            cause: format!("io_uring here lacks {}", missing.join(", ")),
            hint: "use --backend mio".to_owned(),
        }),
        Err(error) => Err(refused(error, &disabled_sysctl())),
    }
}

fn missing_operations(ring: &Uring) -> io::Result<Vec<&'static str>> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        ("ACCEPT", opcode::AcceptMulti::CODE),
        ("RECV", opcode::Recv::CODE),
        ("SEND", opcode::Send::CODE),
        ("CLOSE", opcode::Close::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ];
    let missing = needed.into_iter().filter(|(_, code)| !probe.is_supported(*code));
    Ok(missing.map(|(name, _)| name).collect())
}

/// `kernel.io_uring_disabled`: 1 refuses the unprivileged, 2 everybody (io_uring_setup(2), since
/// Linux 6.6); empty where there is no such setting.
fn disabled_sysctl() -> String {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default().trim().to_owned()
}

/// What a refused io_uring_setup(2), or io_uring_register(2), means.
fn refused(error: &io::Error, disabled: &str) -> Unsupported {
    let name = name_of(error);
    let (cause, hint) = match error.raw_os_error() {
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
    fn every_refusal_names_its_cause() {
        let cause = |errno, sysctl| refused(&io::Error::from_raw_os_error(errno), sysctl).cause;
        assert!(cause(libc::ENOSYS, "").contains("no io_uring (ENOSYS)"));
        assert!(cause(libc::EPERM, "2").contains("kernel.io_uring_disabled=2 (EPERM)"));
        assert!(cause(libc::EPERM, "0").contains("seccomp filter (EPERM)"));
        assert!(cause(libc::ENOMEM, "").contains("locked"));
        assert!(cause(libc::EINVAL, "").contains("too old"));
        assert!(cause(libc::EIO, "").contains("cannot be set up"));
    }

    #[test]
    fn a_buffer_ring_is_refused_for_the_kernels_age_or_another_cause() {
        let cause = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            Refusal { error, of_buffers: true }.meaning().cause
        };
        assert!(cause(libc::EINVAL).contains("no buffer rings (EINVAL)"));
        assert!(cause(libc::ENOMEM).contains("locked"));
    }
}
