//! Client sockets: non-blocking, without Nagle's delay, connecting.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that leave from one source address. The default range of ephemeral ports has
/// 28,232 (ip(7), `ip_local_port_range`), and connect(2) takes those of one parity first
/// (`__inet_hash_connect`, net/ipv4/inet_hashtables.c): with all of them taken, each further search
/// looks at every one before it comes to the others, which takes milliseconds.
const CONNECTIONS_PER_SOURCE: u32 = 10_000;

/// Where connections go, and from where.
#[derive(Debug)]
pub struct Target {
    /// The address in words.
    pub addr: SocketAddr,
    sockaddr: SockAddr,
    domain: Domain,
    /// The first of the source addresses.
    first: u32,
}

/// How many source addresses so many connections leave from.
pub fn sources(conns: u32) -> u32 {
    conns.div_ceil(CONNECTIONS_PER_SOURCE)
}

impl Target {
    /// Prepares connecting to `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, sockaddr: addr.into(), domain: Domain::for_address(addr), first: 0 }
    }

    /// Leaves out so many source addresses, for processes that do not know of each other.
    #[must_use]
    pub fn from_source(self, first: u32) -> Self {
        Self { first, ..self }
    }

    /// Begins to connect; `number` is the connection's in the run.
    ///
    /// # Errors
    ///
    /// Of socket(2), and of connect(2) except that it takes time.
    pub fn connect(&self, number: u32) -> io::Result<Socket> {
        let socket = Socket::new(self.domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = self.source(number) {
            bind_source(&socket, source)?;
        }
        match socket.connect(&self.sockaddr) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                Err(error)
            }
            _ => Ok(socket),
        }
    }

    /// The source address of a connection. All of 127.0.0.0/8 is local on Linux; elsewhere the
    /// kernel chooses, and running out of ports is an `EADDRNOTAVAIL` that is counted.
    fn source(&self, number: u32) -> Option<Ipv4Addr> {
        let further = self.first + number / CONNECTIONS_PER_SOURCE;
        let host = u8::try_from(further + 1).ok()?;
        (further > 0 && self.addr.is_ipv4() && self.addr.ip().is_loopback())
            .then(|| Ipv4Addr::new(127, 0, 0, host))
    }
}

/// Binds to an address and leaves the port to connect(2), which then needs it to be free only
/// towards this target (ip(7), `IP_BIND_ADDRESS_NO_PORT`).
fn bind_source(socket: &Socket, source: Ipv4Addr) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the pointer and length are those of `on`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&SocketAddrV4::new(source, 0).into())
}

/// Receives once into `buffer`; zero is the end.
///
/// # Errors
///
/// Of recv(2), except to be interrupted.
#[inline]
pub fn receive(mut socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends once.
///
/// # Errors
///
/// Of send(2), except to be interrupted.
#[inline]
pub fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.send_with_flags(bytes, libc::MSG_NOSIGNAL) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn source(target: &str, number: u32) -> Option<Ipv4Addr> {
        Target::new(target.parse().unwrap()).source(number)
    }

    #[test]
    fn many_connections_leave_from_several_addresses() {
        assert_eq!(source("127.0.0.1:1", 9_999), None);
        assert_eq!(source("127.0.0.1:1", 10_000), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source("127.0.0.1:1", 25_000), Some(Ipv4Addr::new(127, 0, 0, 3)));
        assert_eq!(source("127.0.0.1:1", u32::MAX), None);
        assert_eq!((sources(10_000), sources(10_001)), (1, 2));
        let other = Target::new("127.0.0.1:1".parse().unwrap()).from_source(2);
        assert_eq!(other.source(9_999), Some(Ipv4Addr::new(127, 0, 0, 3)));
        assert_eq!(source("192.0.2.1:1", 45_000), None);
        assert_eq!(source("[::1]:1", 45_000), None);
    }

    #[test]
    fn a_further_source_address_is_what_the_server_sees() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::new(listener.local_addr().unwrap());
        let _socket = target.connect(CONNECTIONS_PER_SOURCE).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 0, 0, 2));
    }
}
