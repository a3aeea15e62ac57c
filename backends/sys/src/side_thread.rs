//! Threads beside those of a server, such as one that waits for the end of standard input.
//!
//! While a table of descriptors belongs to one thread, the kernel takes no reference to a file for
//! a system call on it (`__fget_light`, fs/file.c). A second thread that shares the table makes
//! each receive and each send of the first more expensive. So a side thread gets a table of its
//! own. That also keeps what it opens from counting in the server's limit of descriptors.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// First descriptor after the standard streams.
const FIRST: libc::c_uint = 3;

/// Gives the calling thread a table of descriptors of its own, which has the standard streams and
/// `kept`, under the same numbers. The thread handles no signal from then on: a handler may use any
/// descriptor of the process.
///
/// # Errors
///
/// `ENOSYS` before Linux 5.9, or `EPERM` in a sandbox that forbids close_range(2). Then the thread
/// shares the table of the process. Signals are blocked in any case.
///
/// # Safety
///
/// From then on, the thread and what it drops must use no other descriptor that was opened before,
/// and must be the last user of none of `kept`: a descriptor that it closes stays open in the
/// process, and the number of another one may mean a different file.
pub unsafe fn separate(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    block_signals();
    let mut kept: Vec<_> = kept.iter().map(|fd| fd.as_raw_fd() as libc::c_uint).collect();
    kept.sort_unstable();
    // The last range comes first: the table is copied without what it contains.
    let mut flags = libc::CLOSE_RANGE_UNSHARE;
    let mut last = libc::c_uint::MAX;
    for fd in kept.into_iter().rev().filter(|fd| *fd >= FIRST).chain([FIRST - 1]) {
        close_range(fd + 1, last, mem::take(&mut flags))?;
        last = fd - 1;
    }
    Ok(())
}

/// Closes the descriptors from `first` to `last`, if there are any.
fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the caller of `separate` uses none of them.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn block_signals() {
    let mut all = MaybeUninit::uninit();
    // SAFETY: the pointer is to a local variable of the expected type.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` is initialised, and the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::thread;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    #[test]
    fn thread_keeps_only_what_it_was_told_and_changes_nothing_for_others() {
        let files: Vec<File> = (0..8).map(|_| File::open("/dev/null").unwrap()).collect();
        let is_open = |file: &File| fcntl_getfd(file) == Ok(FdFlags::CLOEXEC);
        for kept in [&[0, 1][..], &[3, 6], &[7], &[], &[0, 1, 2, 3, 4, 5, 6, 7]] {
            let open = thread::scope(|scope| {
                let seen = scope.spawn(|| {
                    let fds: Vec<_> = kept.iter().map(|&index| files[index].as_fd()).collect();
                    // SAFETY: the thread only asks whether descriptors are open.
                    let result = unsafe { separate(&fds) };
                    result.map(|()| files.iter().map(is_open).collect::<Vec<bool>>())
                });
                seen.join().unwrap()
            });
            let Ok(open) = open else { return println!("SKIPPED: no close_range(2)") };
            let expected: Vec<bool> = (0..8).map(|index| kept.contains(&index)).collect();
            assert_eq!(open, expected, "{kept:?}");
        }
        assert!(files.iter().all(is_open));
    }
}
