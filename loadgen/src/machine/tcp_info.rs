//! What the kernel says of a TCP socket (tcp(7), `TCP_INFO`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// `TCP_ESTABLISHED` (net/tcp_states.h).
const ESTABLISHED: u8 = 1;

/// The part of it that the experiments on listening are about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TcpInfo {
    /// Whether the handshake is over, and the end has not begun.
    pub(crate) established: bool,
    /// Segments not acknowledged; of a listener, connections in its accept queue.
    pub(crate) unacked: u32,
    /// Segments acknowledged out of order; of a listener, the limit of its accept queue.
    pub(crate) sacked: u32,
    /// Segments sent again since the socket was made, SYNs among them.
    pub(crate) total_retrans: u32,
}

/// Asks for it.
///
/// # Errors
///
/// Of getsockopt(2).
pub(crate) fn of(socket: &Socket) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes to where there
    // are that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every field is an integer, for which what the kernel wrote and zeroes are values.
    let info = unsafe { info.assume_init() };
    Ok(TcpInfo {
        established: info.tcpi_state == ESTABLISHED,
        unacked: info.tcpi_unacked,
        sacked: info.tcpi_sacked,
        total_retrans: info.tcpi_total_retrans,
    })
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn a_listener_tells_its_queue_and_its_limit() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).unwrap();
        listener.listen(5).unwrap();
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.connect(&listener.local_addr().unwrap()).unwrap();
        let info = of(&listener).unwrap();
        assert_eq!((info.unacked, info.sacked), (1, 5));
        let info = of(&client).unwrap();
        assert_eq!((info.established, info.total_retrans), (true, 0));
    }
}
