//! Client sockets: non-blocking, without Nagle's algorithm, connecting.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use lockstep_sys::address::is_local;
use lockstep_sys::tcp::leave_port_to_connect;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::machine::ports;

/// Source addresses of connections to a loopback address: all of 127.0.0.0/8 is local on Linux.
const LOOPBACK_SOURCES: u8 = 250;

/// Destination of connections, and their source addresses.
#[derive(Debug)]
pub struct Target {
    /// Address of the server.
    pub addr: SocketAddr,
    sockaddr: SockAddr,
    domain: Domain,
    /// Source addresses; empty if there is no route to the target.
    sources: Vec<SocketAddr>,
    /// Number of consecutive connections from one source address.
    block: u32,
    /// Index of the source address of the first connection.
    first: u32,
    /// Number of source addresses found without a free port.
    used_up: AtomicU32,
}

/// Number of source addresses that `conns` connections to a loopback address need.
pub fn sources(conns: u32) -> u32 {
    conns.div_ceil(block())
}

/// Connections from one loopback address. The kernel tries the ports of one parity first; once
/// these are taken, each search passes all of them, which takes a fraction of a millisecond
/// (`inet_csk_find_open_port`, net/ipv4/inet_connection_sock.c).
fn block() -> u32 {
    (ports::per_source() / 3).max(1)
}

impl Target {
    /// Returns the target at `addr`. Of connections to a loopback address, each third of the ports
    /// has a source address of its own, beginning with a random one, since ports of earlier
    /// connections may be in TIME_WAIT. For other targets the kernel chooses by the route.
    pub fn new(addr: SocketAddr) -> Self {
        let route = source_of_route(addr);
        let spread = |host| SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
        let loopback = |source: &SocketAddr| source.is_ipv4() && source.ip().is_loopback();
        let sources = match route {
            Some(source) if loopback(&source) && is_local(spread(LOOPBACK_SOURCES)) => {
                (1..=LOOPBACK_SOURCES).map(spread).collect()
            }
            route => Vec::from_iter(route),
        };
        let first = fastrand::u32(..u32::from(LOOPBACK_SOURCES));
        Self { block: block(), first, ..Self::with(addr, sources) }
    }

    fn with(addr: SocketAddr, sources: Vec<SocketAddr>) -> Self {
        let (sockaddr, domain) = (addr.into(), Domain::for_address(addr));
        Self { addr, sockaddr, domain, sources, block: 1, first: 0, used_up: AtomicU32::new(0) }
    }

    /// Returns the target at `addr`, with connections from these addresses in turn, if there are
    /// any.
    ///
    /// # Errors
    ///
    /// A text for the user if this machine lacks one of the addresses, or one is of another family
    /// than the target.
    pub fn from_sources(addr: SocketAddr, sources: &[IpAddr]) -> Result<Self, String> {
        if sources.is_empty() {
            return Ok(Self::new(addr));
        }
        let own = |&ip: &IpAddr| match is_local(SocketAddr::new(ip, 0)) {
            _ if ip.is_ipv4() != addr.is_ipv4() => {
                Err(format!("--source {ip}: the server's address {addr} is of another family"))
            }
            false => Err(format!("--source {ip}: this machine does not have that address")),
            true => Ok(SocketAddr::new(ip, 0)),
        };
        Ok(Self::with(addr, sources.iter().map(own).collect::<Result<_, _>>()?))
    }

    /// Begins with the source address of this index, since other processes use those before.
    #[must_use]
    pub fn from_source(self, first: u32) -> Self {
        Self { first, ..self }
    }

    /// Number of source addresses.
    pub fn source_count(&self) -> usize {
        self.sources.len()
    }

    /// Returns the source addresses of the first `conns` connections, in the order of use.
    pub fn sources_of(&self, conns: u32) -> Vec<String> {
        let used = conns.div_ceil(self.block) + self.used_up.load(Relaxed);
        let used = (used as usize).min(self.sources.len());
        (0..used).map(|index| self.source(index as u32).ip().to_string()).collect()
    }

    fn source(&self, index: u32) -> SocketAddr {
        self.sources[(self.first.wrapping_add(index)) as usize % self.sources.len()]
    }

    /// Opens the socket of the connection of this number in the run, with a port. The kernel may
    /// search long for a free one, so this is no part of the connect's duration.
    ///
    /// # Errors
    ///
    /// Those of socket(2), setsockopt(2) and bind(2).
    pub fn open(&self, number: u32) -> io::Result<Socket> {
        let socket = Socket::new(self.domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        let number = number / self.block;
        for _ in &self.sources {
            let source = self.source(number.wrapping_add(self.used_up.load(Relaxed)));
            match socket.bind(&source.into()) {
                Err(error) if ports::ran_out(&error) => self.used_up.fetch_add(1, Relaxed),
                result => return result.map(|()| socket),
            };
        }
        // connect(2) may still find a port that is in use towards another target or in TIME_WAIT.
        if !self.sources.is_empty() {
            leave_port_to_connect(&socket)?;
            socket.bind(&self.source(number).into())?;
        }
        Ok(socket)
    }

    /// Begins to connect a socket.
    ///
    /// # Errors
    ///
    /// Those of connect(2), except EINPROGRESS; `EADDRNOTAVAIL` if no port is free.
    pub fn connect(&self, socket: &Socket) -> io::Result<()> {
        match socket.connect(&self.sockaddr) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// Returns the address from which the kernel would connect to `addr`, with port 0; `None` without a
/// route. Connecting a UDP socket sends nothing.
pub(crate) fn source_of_route(addr: SocketAddr) -> Option<SocketAddr> {
    let any: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(addr).ok()?;
    let mut source = socket.local_addr().ok()?;
    source.set_port(0);
    Some(source)
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

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_of_loopback_connections_have_a_source_address_each() {
        let target = Target::new(at("127.0.0.1:1")).from_source(248);
        let block = block();
        assert_eq!(target.sources_of(block), ["127.0.0.249"]);
        assert_eq!(target.sources_of(block + 1), ["127.0.0.249", "127.0.0.250"]);
        assert_eq!(target.sources_of(3 * block), ["127.0.0.249", "127.0.0.250", "127.0.0.1"]);
        assert_eq!(target.sources_of(u32::MAX).len(), 250);
        assert_eq!((sources(block), sources(block + 1)), (1, 2));
        if let Some(source) = source_of_route(at("[::1]:1")) {
            assert_eq!(source.ip(), Ipv6Addr::LOCALHOST);
            assert_eq!(Target::new(at("[::1]:1")).sources_of(u32::MAX), ["::1"]);
        }
    }

    #[test]
    fn given_source_addresses_take_turns() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let ips = [Ipv4Addr::new(127, 1, 2, 3).into(), Ipv4Addr::new(127, 0, 0, 9).into()];
        let target = Target::from_sources(addr, &ips).unwrap();
        for number in 0..4 {
            let socket = target.open(number).unwrap();
            target.connect(&socket).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), ips[number as usize % 2]);
        }
        assert_eq!(target.sources_of(1), ["127.1.2.3"]);
        for (ip, words) in [("::1", "another family"), ("192.0.2.77", "does not have")] {
            let error = Target::from_sources(addr, &[ip.parse().unwrap()]).unwrap_err();
            assert!(error.contains(ip) && error.contains(words), "{error}");
        }
    }
}
