//! TCP sockets of any process of this network namespace, from the kernel's sock_diag(7), as ss(8)
//! reads them. It needs no privilege.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use crate::tcp::{AcceptQueue, CLOSE_WAIT, ESTABLISHED, LISTEN};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of a request: the header and `struct inet_diag_req_v2`.
const REQUEST_LENGTH: usize = HEADER + 56;
/// Bytes of one receive; the kernel fills at most 32 KiB (netlink(7)).
const BUFFER: usize = 32 << 10;

/// A TCP socket: the part of `struct inet_diag_msg` that is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpSocket {
    /// Its state, such as [`ESTABLISHED`].
    pub state: u8,
    /// Its own address.
    pub local: SocketAddr,
    /// Bytes that the process has not received; of a listener, connections in its accept queue.
    pub rqueue: u32,
    /// Bytes that the peer has not acknowledged; of a listener, the limit of its accept queue.
    pub wqueue: u32,
    /// Inode of the socket (`st_ino` of fstat(2)).
    pub inode: u32,
}

/// A netlink socket for requests to sock_diag.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl SockDiag {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// `EPROTONOSUPPORT` if the kernel was built without sock_diag.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Returns the sockets of the address family and the port of `addr` in one of `states`.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the kernel has no sock_diag for TCP.
    pub fn sockets(&mut self, addr: SocketAddr, states: &[u8]) -> io::Result<Vec<TcpSocket>> {
        let states = states.iter().fold(0, |mask, state| mask | 1 << state);
        self.request(&Request { family: family(addr), states, ends: Ends::Port(addr.port()) })
    }

    /// Returns the accept queues of all listeners that accept connections to `addr`.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the kernel has no sock_diag for TCP.
    pub fn listeners(&mut self, addr: SocketAddr) -> io::Result<Vec<AcceptQueue>> {
        let mut queues = Vec::new();
        // A listener at [::] may accept IPv4 connections, too.
        let ip = addr.ip().to_canonical();
        let families: &[u8] = match ip {
            IpAddr::V4(_) => &[libc::AF_INET as u8, libc::AF_INET6 as u8],
            IpAddr::V6(_) => &[libc::AF_INET6 as u8],
        };
        for &family in families {
            let ends = Ends::Port(addr.port());
            for socket in self.request(&Request { family, states: 1 << LISTEN, ends })? {
                let own = socket.local.ip().to_canonical();
                if own == ip || own.is_unspecified() {
                    queues.push(AcceptQueue { waiting: socket.rqueue, limit: socket.wqueue });
                }
            }
        }
        Ok(queues)
    }

    /// True if the server's end of a client's connection exists. A client may be connected while
    /// its server has only a half-open connection, or none.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the kernel does not support the request.
    pub fn has_connection(&mut self, server: SocketAddr, client: SocketAddr) -> io::Result<bool> {
        let ends = Ends::Both(server, client);
        let request = Request { family: family(server), states: u32::MAX, ends };
        match self.request(&request) {
            // Without such a connection the kernel returns the listener at its address.
            Ok(found) => {
                Ok(found.iter().any(|found| matches!(found.state, ESTABLISHED | CLOSE_WAIT)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn request(&mut self, request: &Request) -> io::Result<Vec<TcpSocket>> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &request.encode(), SendFlags::empty(), &kernel)?;
        let mut found = Vec::new();
        loop {
            let (count, _) = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty())?;
            let done = parse(&self.buffer[..count], &mut found)?;
            if done || !request.is_dump() {
                return Ok(found);
            }
        }
    }
}

fn family(addr: SocketAddr) -> u8 {
    if addr.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// The addresses of the requested sockets.
enum Ends {
    /// All sockets with this port of their own.
    Port(u16),
    /// One socket: its own address and its peer's.
    Both(SocketAddr, SocketAddr),
}

/// `struct inet_diag_req_v2` (linux/inet_diag.h).
struct Request {
    family: u8,
    states: u32,
    ends: Ends,
}

impl Request {
    fn is_dump(&self) -> bool {
        matches!(self.ends, Ends::Port(_))
    }

    fn encode(&self) -> Vec<u8> {
        let flags = if self.is_dump() { REQUEST | DUMP } else { REQUEST };
        let mut bytes = Vec::with_capacity(REQUEST_LENGTH);
        bytes.extend((REQUEST_LENGTH as u32).to_ne_bytes());
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]); // sequence number and port: one request at a time
        bytes.extend([self.family, libc::IPPROTO_TCP as u8, 0, 0]);
        bytes.extend(self.states.to_ne_bytes());
        match self.ends {
            Ends::Port(port) => {
                bytes.extend(port.to_be_bytes());
                bytes.resize(bytes.len() + 34, 0);
            }
            Ends::Both(own, peer) => {
                bytes.extend(own.port().to_be_bytes());
                bytes.extend(peer.port().to_be_bytes());
                for addr in [own, peer] {
                    let start = bytes.len();
                    match addr.ip() {
                        IpAddr::V4(ip) => bytes.extend(ip.octets()),
                        IpAddr::V6(ip) => bytes.extend(ip.octets()),
                    }
                    bytes.resize(start + 16, 0);
                }
            }
        }
        // An address of one link is that of one interface; otherwise any.
        let interface = match self.ends {
            Ends::Both(SocketAddr::V6(own), _) => own.scope_id(),
            _ => 0,
        };
        bytes.extend(interface.to_ne_bytes());
        bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE: any socket of these addresses
        bytes
    }
}

/// Parses the messages of one receive into `found`; returns true after the last message.
fn parse(mut bytes: &[u8], found: &mut Vec<TcpSocket>) -> io::Result<bool> {
    let malformed =
        || io::Error::new(io::ErrorKind::InvalidData, "malformed message from sock_diag");
    while !bytes.is_empty() {
        let length = u32_at(bytes, 0).ok_or_else(malformed)? as usize;
        let kind = u16_at(bytes, 4).ok_or_else(malformed)?;
        let message = bytes.get(HEADER..length).ok_or_else(malformed)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = u32_at(message, 0).ok_or_else(malformed)? as i32;
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            _ => found.push(parse_socket(message).ok_or_else(malformed)?),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Parses `struct inet_diag_msg`: family, state, timer, retransmits, ports and addresses (48
/// bytes), expiry of the timer, the two queues, user and inode.
fn parse_socket(message: &[u8]) -> Option<TcpSocket> {
    let family = libc::c_int::from(*message.first()?);
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let ip = match family {
        libc::AF_INET => Ipv4Addr::new(address[0], address[1], address[2], address[3]).into(),
        _ => Ipv6Addr::from(address).into(),
    };
    Some(TcpSocket {
        state: *message.get(1)?,
        local: SocketAddr::new(ip, port),
        rqueue: u32_at(message, 56)?,
        wqueue: u32_at(message, 60)?,
        inode: u32_at(message, 68)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A listener at 127.0.0.1:8898 with 3 connections and a limit of 5, as Linux 6.18 reported
    /// it, and the end of the dump.
    fn recorded() -> Vec<u8> {
        let mut message = vec![2, LISTEN, 0, 0, 0x22, 0xc2, 0, 0, 127, 0, 0, 1];
        message.resize(56, 0);
        message.extend(3u32.to_ne_bytes());
        message.extend(5u32.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(7u32.to_ne_bytes());
        let mut bytes = Vec::new();
        bytes.extend((HEADER as u32 + 72).to_ne_bytes());
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(message);
        bytes.extend((HEADER as u32 + 4).to_ne_bytes());
        bytes.extend(DONE.to_ne_bytes());
        bytes.extend([0; 14]);
        bytes
    }

    #[test]
    fn recorded_dump_is_parsed() {
        let mut found = Vec::new();
        assert!(parse(&recorded(), &mut found).unwrap());
        let local = "127.0.0.1:8898".parse().unwrap();
        assert_eq!(found, [TcpSocket { state: LISTEN, local, rqueue: 3, wqueue: 5, inode: 7 }]);
    }

    #[test]
    fn truncated_message_is_an_error() {
        let bytes = recorded();
        for length in 1..bytes.len() - 20 {
            if length != 88 {
                assert!(parse(&bytes[..length], &mut Vec::new()).is_err(), "{length}");
            }
        }
        let error = [&[20, 0, 0, 0, 2, 0][..], &[0; 10], &(-2i32).to_ne_bytes()].concat();
        let error = parse(&error, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn listeners_match_by_port_and_by_address_or_wildcard() {
        let mut diag = SockDiag::open().unwrap();
        let mut listeners = |addr: SocketAddr| diag.listeners(addr).unwrap().len();
        let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = any.local_addr().unwrap().port();
        assert_eq!(listeners(at("127.0.0.1", port)), 1);
        assert_eq!(listeners(at("::ffff:127.0.0.1", port)), 1);
        drop(any);
        let one = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = one.local_addr().unwrap().port();
        assert_eq!((listeners(at("127.0.0.2", port)), listeners(at("127.0.0.1", port))), (1, 0));
        if let Ok(any) = TcpListener::bind("[::]:0") {
            let port = any.local_addr().unwrap().port();
            assert_eq!((listeners(at("127.0.0.1", port)), listeners(at("::1", port))), (1, 1));
        }
    }

    #[test]
    fn both_ends_of_a_connection_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut diag = SockDiag::open().unwrap();
        let [queue] = diag.listeners(addr).unwrap()[..] else { panic!("one listener") };
        assert_eq!(queue.waiting, 0);
        let client = TcpStream::connect(addr).unwrap();
        assert_eq!(diag.listeners(addr).unwrap(), [AcceptQueue { waiting: 1, ..queue }]);
        let own = client.local_addr().unwrap();
        assert!(diag.has_connection(addr, own).unwrap());
        assert!(!diag.has_connection(addr, SocketAddr::new(own.ip(), 1)).unwrap());
        let states = |sockets: Vec<TcpSocket>| {
            let mut states: Vec<u8> = sockets.iter().map(|socket| socket.state).collect();
            states.sort_unstable();
            states
        };
        let sockets = diag.sockets(addr, &[LISTEN, ESTABLISHED]).unwrap();
        assert_eq!(states(sockets), [ESTABLISHED, LISTEN]);
        assert_eq!(states(diag.sockets(own, &[ESTABLISHED]).unwrap()), [ESTABLISHED]);
    }
}
