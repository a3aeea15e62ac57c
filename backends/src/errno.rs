//! Names for the error numbers that socket work meets.

use std::io;

/// The name of the error's number, such as `ECONNRESET`, else `errno N`, else its kind.
pub fn name_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => name(code).map_or_else(|| format!("errno {code}"), str::to_owned),
        None => format!("{:?}", error.kind()),
    }
}

/// Whether accept(2) failed for want of something that closing a connection or waiting gives
/// back: descriptors, memory or threads. Every other failure is the peer's (accept(2), "Error
/// handling").
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)
    )
}

fn name(code: i32) -> Option<&'static str> {
    macro_rules! names {
        ($($name:ident)*) => {
            match code {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        };
    }
    names! {
        EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EBADF EBADFD EBUSY ECANCELED
        ECONNABORTED ECONNREFUSED ECONNRESET EEXIST EFAULT EHOSTUNREACH EINTR EINVAL EIO EISCONN
        EMFILE ENETDOWN ENETUNREACH ENFILE ENOBUFS ENODEV ENOENT ENOMEM ENOPROTOOPT ENOSPC ENOSYS
        ENOTCONN ENOTSOCK EOPNOTSUPP EPERM EPIPE EPROTO ETIME ETIMEDOUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_named() {
        let named = |code| name_of(&io::Error::from_raw_os_error(code));
        assert_eq!(named(libc::ECONNRESET), "ECONNRESET");
        assert_eq!(named(4000), "errno 4000");
        assert_eq!(name_of(&io::Error::from(io::ErrorKind::WriteZero)), "WriteZero");
    }
}
