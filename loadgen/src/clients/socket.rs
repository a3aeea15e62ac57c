//! Client sockets: non-blocking, without Nagle's algorithm, connecting.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use lockstep_sys::tcp::leave_port_to_connect;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections from one source address. The default range of ephemeral ports has 28,232 (ip(7),
/// `ip_local_port_range`), and connect(2) takes those of one parity first (`__inet_hash_connect`,
/// net/ipv4/inet_hashtables.c). Once these are taken, each search tries all of them before the
/// others, which takes milliseconds.
const CONNECTIONS_PER_SOURCE: u32 = 10_000;

/// Destination of connections, and their source addresses.
#[derive(Debug)]
pub struct Target {
    /// Address of the server.
    pub addr: SocketAddr,
    sockaddr: SockAddr,
    domain: Domain,
    /// Number of the first source address.
    first: u32,
}

/// Number of source addresses that `conns` connections need.
pub fn sources(conns: u32) -> u32 {
    conns.div_ceil(CONNECTIONS_PER_SOURCE)
}

impl Target {
    /// Returns the target at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, sockaddr: addr.into(), domain: Domain::for_address(addr), first: 0 }
    }

    /// Skips `first` source addresses, which other processes use.
    #[must_use]
    pub fn from_source(self, first: u32) -> Self {
        Self { first, ..self }
    }

    /// Begins to connect the connection of this number in the run.
    ///
    /// # Errors
    ///
    /// Those of socket(2), setsockopt(2), and connect(2) except EINPROGRESS.
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

    /// Source address of a connection to a loopback address: all of 127.0.0.0/8 is local on Linux.
    /// For other targets the kernel chooses, and a lack of ports is counted as EADDRNOTAVAIL.
    fn source(&self, number: u32) -> Option<Ipv4Addr> {
        let further = self.first + number / CONNECTIONS_PER_SOURCE;
        let host = u8::try_from(further + 1).ok()?;
        (further > 0 && self.addr.is_ipv4() && self.addr.ip().is_loopback())
            .then(|| Ipv4Addr::new(127, 0, 0, host))
    }
}

/// Binds to an address and leaves the port to connect(2), so that a port may be in use towards
/// other targets.
fn bind_source(socket: &Socket, source: Ipv4Addr) -> io::Result<()> {
    leave_port_to_connect(socket)?;
    socket.bind(&SocketAddrV4::new(source, 0).into())
}

/// Receives once into `buffer`; zero is the end of the stream.
///
/// # Errors
///
/// Those of recv(2), except EINTR.
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
/// Those of send(2), except EINTR.
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
    fn many_connections_use_several_source_addresses() {
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
    fn server_sees_the_second_source_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::new(listener.local_addr().unwrap());
        let _socket = target.connect(CONNECTIONS_PER_SOURCE).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 0, 0, 2));
    }
}
