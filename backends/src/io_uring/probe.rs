//! Whether io_uring can be had here, and if not, whose decision that is.

use std::fs;
use std::io;

use io_uring::{IoUring as Uring, Probe, opcode};

use super::buffers::Buffers;
use super::{IoUring, Method, ring};
use crate::Unsupported;
use crate::errno::name_of;
use crate::trace::{Silent, Trace};

/// Makes a ring and its buffers, and says what kind of ring it is.
pub(super) fn set_up(
    backend: &IoUring,
    trace: impl Trace,
) -> Result<(Uring, &'static str, Buffers), Unsupported> {
    let (ring, flags) = ring::set_up(backend.rungs(), trace)
        .map_err(|error| refused(&error, &disabled_sysctl()))?;
    let buffers = Buffers::register(&ring, backend.buffers)
        .map_err(|error| buffers_refused(&error, &disabled_sysctl()))?;
    Ok((ring, flags, buffers))
}

/// Makes a ring and its buffers as a shard does, and asks for the operations.
pub(super) fn probe(backend: &IoUring) -> Result<String, Unsupported> {
    let (ring, flags, buffers) = set_up(backend, Silent)?;
    let missing = missing_operations(&ring);
    drop(ring);
    drop(buffers);
    match missing.as_deref() {
        Ok([]) => Ok(match backend.method {
            Method::Multishot => format!("a ring per shard, {flags}"),
            Method::Linked { .. } => format!("{flags}; a receive for each request"),
        }),
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
            "raise the limit of locked memory (ulimit -l), or run fewer shards".to_owned(),
        ),
        Some(libc::EMFILE | libc::ENFILE) => (
            format!("no descriptor is left for io_uring ({name})"),
            "raise the limit of open descriptors (ulimit -n), or run fewer shards".to_owned(),
        ),
        Some(libc::EINVAL) => (
            format!("io_uring here is too old ({name})"),
            "it needs Linux 6.1, io-uring-linked 5.19; use --backend mio".to_owned(),
        ),
        _ => (format!("io_uring cannot be set up: {error}"), "use --backend mio".to_owned()),
    };
    Unsupported { cause, hint }
}

/// What it means that a ring was had, and a buffer ring refused.
fn buffers_refused(error: &io::Error, disabled: &str) -> Unsupported {
    match error.raw_os_error() {
        Some(libc::EINVAL) => Unsupported {
            cause: format!("io_uring here has no buffer rings ({})", name_of(error)),
            hint: "they need Linux 5.19; use --backend mio".to_owned(),
        },
        _ => refused(error, disabled),
    }
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
        let cause = |errno| buffers_refused(&io::Error::from_raw_os_error(errno), "").cause;
        assert!(cause(libc::EINVAL).contains("no buffer rings (EINVAL)"));
        assert!(cause(libc::ENOMEM).contains("locked"));
        assert!(cause(libc::EPERM).contains("seccomp filter (EPERM)"));
    }
}
