//! Socket options that neither socket2 nor rustix has: `TCP_INFO` (tcp(7)), which is the state of a
//! connection or the accept queue of a listener, and `IP_BIND_ADDRESS_NO_PORT` (ip(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

// States of a TCP socket (net/tcp_states.h).
/// The handshake is complete, and neither side has closed.
pub const ESTABLISHED: u8 = 1;
/// A listener has answered the SYN.
pub const SYN_RECV: u8 = 3;
/// The peer has closed its side.
pub const CLOSE_WAIT: u8 = 8;
/// A listener.
pub const LISTEN: u8 = 10;

/// State and retransmissions of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpInfo {
    /// True from the end of the handshake until either side closes.
    pub established: bool,
    /// Segments retransmitted since the socket was created, SYNs included.
    pub total_retrans: u32,
}

impl TcpInfo {
    /// Reads the state of `socket`.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the socket is not a TCP socket.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let info = read(socket)?;
        Ok(Self {
            established: info.tcpi_state == ESTABLISHED,
            total_retrans: info.tcpi_total_retrans,
        })
    }
}

/// The accept queue of a listener: connections established and not yet accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AcceptQueue {
    /// Connections in the queue.
    pub waiting: u32,
    /// Its limit: the backlog, capped at `net.core.somaxconn`. The queue holds one more.
    pub limit: u32,
}

impl AcceptQueue {
    /// Reads the queue of `listener`: the two fields that the kernel fills in for a listener
    /// (`tcp_get_info`, net/ipv4/tcp.c).
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the socket is not a TCP socket.
    pub fn of(listener: impl AsFd) -> io::Result<Self> {
        let info = read(listener)?;
        Ok(Self { waiting: info.tcpi_unacked, limit: info.tcpi_sacked })
    }
}

/// Lets bind(2) to an address leave the choice of the port to connect(2), which needs it to be free
/// only towards one target (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
///
/// # Errors
///
/// `ENOPROTOOPT` if the socket is not an IPv4 socket.
pub fn leave_port_to_connect(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the pointer and the length are those of `on`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn read(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and `info` has room for `length` bytes, the most that the
    // kernel writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every field is an integer, and zero where an older kernel has not written it.
    Ok(unsafe { info.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    #[test]
    fn bound_socket_gets_its_port_at_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        leave_port_to_connect(&socket).unwrap();
        rustix::net::bind(&socket, &"127.0.0.2:0".parse::<SocketAddr>().unwrap()).unwrap();
        let socket = TcpStream::from(socket);
        assert_eq!(socket.local_addr().unwrap().port(), 0);
        rustix::net::connect(&socket, &listener.local_addr().unwrap()).unwrap();
        assert_ne!(socket.local_addr().unwrap().port(), 0);
    }

    #[test]
    fn listener_reports_its_accept_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // std's backlog is 128
        let addr = listener.local_addr().unwrap();
        assert_eq!(AcceptQueue::of(&listener).unwrap(), AcceptQueue { waiting: 0, limit: 128 });
        let clients = [(); 3].map(|()| TcpStream::connect(addr).unwrap());
        assert_eq!(AcceptQueue::of(&listener).unwrap().waiting, 3);
        let _accepted = listener.accept().unwrap();
        assert_eq!(AcceptQueue::of(&listener).unwrap().waiting, 2);
        let info = TcpInfo::of(&clients[0]).unwrap();
        assert_eq!(info, TcpInfo { established: true, total_retrans: 0 });
        assert!(!TcpInfo::of(&listener).unwrap().established);
    }
}
