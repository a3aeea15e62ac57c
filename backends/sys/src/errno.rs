//! Names and texts of the error numbers that socket work meets.

use std::io;

/// Returns the error's text with the name of its number: `connection refused (ECONNREFUSED)`.
pub fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{} ({})", text(error), name(code)),
        None => text(error),
    }
}

/// Returns the error's text without the `(os error N)` that std appends.
pub fn text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// Returns the name of the error's number, such as `ECONNRESET`; without a number, the error's
/// kind.
pub fn name_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => name(code),
        None => format!("{:?}", error.kind()),
    }
}

/// True if accept(2) failed for lack of something that closing a connection or waiting returns:
/// descriptors, memory or threads.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)
    )
}

/// Returns the name of an error number, such as `ECONNRESET`, else `errno N`.
pub fn name(code: i32) -> String {
    macro_rules! names {
        ($($name:ident)*) => {
            match code {
                $(libc::$name => stringify!($name).to_owned(),)*
                _ => format!("errno {code}"),
            }
        };
    }
    names! {
        EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EBADF EBADFD EBUSY ECANCELED
        ECONNABORTED ECONNREFUSED ECONNRESET EDQUOT EEXIST EFAULT EFBIG EHOSTUNREACH EINTR EINVAL
        EIO EISCONN EISDIR ELOOP EMFILE ENAMETOOLONG ENETDOWN ENETRESET ENETUNREACH ENFILE ENOBUFS
        ENODEV ENOENT ENOMEM ENOPROTOOPT ENOSPC ENOSYS ENOTCONN ENOTDIR ENOTSOCK EOPNOTSUPP EPERM
        EPIPE EPROTO EROFS ESRCH ETIME ETIMEDOUT ETXTBSY EXDEV
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_text_and_a_name() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(describe(&refused), "connection refused (ECONNREFUSED)");
        assert_eq!(text(&refused), "connection refused");
        assert_eq!(name_of(&refused), "ECONNREFUSED");
        assert_eq!(name(4000), "errno 4000");
        assert_eq!(name_of(&io::Error::from(io::ErrorKind::WriteZero)), "WriteZero");
    }
}
