//! Descriptors that the program which started this process has left open for it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

/// Duplicates an inherited stream socket. Programs that this process starts inherit neither the
/// duplicate nor the original.
///
/// Call it before this process opens descriptors: one of them could get the number of an inherited
/// one that was closed.
///
/// # Errors
///
/// `EBADF` if the descriptor is not open, `ENOTSOCK` or `EPROTOTYPE` if it is not a stream socket.
pub fn stream_socket(number: i32) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the number is not -1. Nothing in this function closes the descriptor. If it is not
    // open, the first call reports that, and there are no others.
    let original = unsafe { BorrowedFd::borrow_raw(number) };
    if socket_type(original)? != SocketType::STREAM {
        return Err(rustix::io::Errno::PROTOTYPE.into());
    }
    fcntl_setfd(original, fcntl_getfd(original)? | FdFlags::CLOEXEC)?;
    Ok(fcntl_dupfd_cloexec(original, 3)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn stream_socket_is_duplicated_and_not_passed_on() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        fcntl_setfd(&ours, FdFlags::empty()).unwrap();
        let copy = stream_socket(ours.as_raw_fd()).unwrap();
        for descriptor in [fcntl_getfd(&ours), fcntl_getfd(&copy)] {
            assert_eq!(descriptor.unwrap(), FdFlags::CLOEXEC);
        }
        drop(ours);
        theirs.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(copy).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn anything_else_is_refused() {
        let errno = |number| stream_socket(number).unwrap_err().raw_os_error();
        assert_eq!(errno(-1), Some(libc::EBADF));
        assert_eq!(errno(i32::MIN), Some(libc::EBADF));
        assert_eq!(errno(i32::MAX), Some(libc::EBADF));
        let file = File::open("/dev/null").unwrap();
        assert_eq!(errno(file.as_raw_fd()), Some(libc::ENOTSOCK));
        let (datagram, _other) = UnixDatagram::pair().unwrap();
        assert_eq!(errno(datagram.as_raw_fd()), Some(libc::EPROTOTYPE));
    }
}
