//! What the kernel says of somebody else's sockets (sock_diag(7)), which needs no privilege.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` and, with `NLM_F_DUMP`, for all that match (linux/netlink.h).
const REQUEST: u16 = 0x1;
const DUMP: u16 = 0x300;
/// `NLMSG_ERROR`, `NLMSG_DONE` (linux/netlink.h).
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The states of a TCP socket (net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
/// `struct nlmsghdr`, `struct inet_diag_sockid` and `struct inet_diag_req_v2`, in bytes.
const HEADER: usize = 16;
const REQUEST_LENGTH: usize = HEADER + 56;
/// What one receive takes; the kernel fills at most 32 KiB (netlink(7)).
const BUFFER: usize = 32 << 10;

/// A listener's accept queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Queue {
    /// Connections in it (`idiag_rqueue`).
    pub(crate) depth: u32,
    /// Its limit (`idiag_wqueue`); it holds one more.
    pub(crate) limit: u32,
}

/// A socket to ask the kernel by.
#[derive(Debug)]
pub(crate) struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    /// Opens it, for the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// Where the kernel has no sock_diag.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// The accept queues of all listeners that take connections to `addr`.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub(crate) fn listeners(&mut self, addr: SocketAddr) -> io::Result<Vec<Queue>> {
        let mut queues = Vec::new();
        // A listener at [::] may take IPv4 connections as well.
        let families: &[u8] = match addr {
            SocketAddr::V4(_) => &[libc::AF_INET as u8, libc::AF_INET6 as u8],
            SocketAddr::V6(_) => &[libc::AF_INET6 as u8],
        };
        for &family in families {
            let request = Request { family, flags: DUMP, states: 1 << LISTEN, ends: None };
            for socket in self.ask(&request)? {
                if takes(socket.local, addr) {
                    queues.push(Queue { depth: socket.rqueue, limit: socket.wqueue });
                }
            }
        }
        Ok(queues)
    }

    /// Whether the server's side of a client's connection is there. A client may take itself for
    /// connected when there is only a half-open one, or none.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub(crate) fn knows(&mut self, server: SocketAddr, client: SocketAddr) -> io::Result<bool> {
        let family = if server.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let request = Request { family, flags: 0, states: u32::MAX, ends: Some((server, client)) };
        match self.ask(&request) {
            // With no such connection the answer is the listener that it would go to.
            Ok(found) => {
                Ok(found.iter().any(|found| matches!(found.state, ESTABLISHED | CLOSE_WAIT)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ask(&mut self, request: &Request) -> io::Result<Vec<Found>> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &request.encode(), SendFlags::empty(), &kernel)?;
        let mut found = Vec::new();
        loop {
            let (count, _) = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty())?;
            let over = parse(&self.buffer[..count], &mut found)?;
            if over || request.flags & DUMP == 0 {
                return Ok(found);
            }
        }
    }
}

/// `struct inet_diag_req_v2` (linux/inet_diag.h).
struct Request {
    family: u8,
    flags: u16,
    states: u32,
    /// The addresses of one socket: its own and its peer's.
    ends: Option<(SocketAddr, SocketAddr)>,
}

impl Request {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REQUEST_LENGTH);
        bytes.extend((REQUEST_LENGTH as u32).to_ne_bytes());
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend((REQUEST | self.flags).to_ne_bytes());
        bytes.extend([0; 8]); // Sequence number and port: only one question is open at a time.
        bytes.extend([self.family, libc::IPPROTO_TCP as u8, 0, 0]);
        bytes.extend(self.states.to_ne_bytes());
        match self.ends {
            None => bytes.extend([0; 36]),
            Some((own, peer)) => {
                bytes.extend(own.port().to_be_bytes());
                bytes.extend(peer.port().to_be_bytes());
                for end in [own, peer] {
                    let mut address = [0; 16];
                    match end.ip() {
                        IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
                        IpAddr::V6(ip) => address = ip.octets(),
                    }
                    bytes.extend(address);
                }
            }
        }
        bytes.extend([0; 4]); // Any interface.
        bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE: any socket of these addresses.
        bytes
    }
}

/// The part of `struct inet_diag_msg` that is used.
#[derive(Debug, PartialEq)]
struct Found {
    state: u8,
    local: SocketAddr,
    rqueue: u32,
    wqueue: u32,
}

/// Reads the messages of one receive; whether there will be no more.
fn parse(mut bytes: &[u8], found: &mut Vec<Found>) -> io::Result<bool> {
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "a strange answer of sock_diag");
    while !bytes.is_empty() {
        let length = u32_at(bytes, 0).ok_or_else(strange)? as usize;
        let kind = u16_at(bytes, 4).ok_or_else(strange)?;
        let message = bytes.get(HEADER..length).ok_or_else(strange)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = u32_at(message, 0).ok_or_else(strange)? as i32;
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            _ => found.push(parse_socket(message).ok_or_else(strange)?),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn parse_socket(message: &[u8]) -> Option<Found> {
    let family = libc::c_int::from(*message.first()?);
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let ip = match family {
        libc::AF_INET => Ipv4Addr::new(address[0], address[1], address[2], address[3]).into(),
        _ => Ipv6Addr::from(address).into(),
    };
    Some(Found {
        state: *message.get(1)?,
        local: SocketAddr::new(ip, port),
        rqueue: u32_at(message, 56)?,
        wqueue: u32_at(message, 60)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Whether a listener at `listener` takes connections to `addr`.
fn takes(listener: SocketAddr, addr: SocketAddr) -> bool {
    listener.port() == addr.port() && (listener.ip() == addr.ip() || listener.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// One listener at 127.0.0.1:8898 with 3 of 5, as Linux 6.18 told it, and the end of the dump.
    fn recorded() -> Vec<u8> {
        let mut message = vec![2, LISTEN, 0, 0, 0x22, 0xc2, 0, 0, 127, 0, 0, 1];
        message.resize(56, 0);
        message.extend(3u32.to_ne_bytes());
        message.extend(5u32.to_ne_bytes());
        message.resize(72, 0);
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
    fn an_answer_is_read() {
        let mut found = Vec::new();
        assert!(parse(&recorded(), &mut found).unwrap());
        let local = "127.0.0.1:8898".parse().unwrap();
        assert_eq!(found, [Found { state: LISTEN, local, rqueue: 3, wqueue: 5 }]);
    }

    #[test]
    fn an_answer_that_was_cut_is_an_error_and_no_panic() {
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
    fn listeners_at_every_address_count() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(takes(addr("0.0.0.0:80"), addr("127.0.0.1:80")));
        assert!(takes(addr("[::]:80"), addr("127.0.0.1:80")));
        assert!(!takes(addr("127.0.0.2:80"), addr("127.0.0.1:80")));
        assert!(!takes(addr("0.0.0.0:81"), addr("127.0.0.1:80")));
    }

    #[test]
    fn a_listener_and_its_connections_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut diag = Diag::open().unwrap();
        let [queue] = diag.listeners(addr).unwrap()[..] else { panic!("one listener") };
        assert_eq!(queue.depth, 0);
        let client = TcpStream::connect(addr).unwrap();
        assert_eq!(diag.listeners(addr).unwrap(), [Queue { depth: 1, ..queue }]);
        let own = client.local_addr().unwrap();
        assert!(diag.knows(addr, own).unwrap());
        assert!(!diag.knows(addr, SocketAddr::new(own.ip(), 1)).unwrap());
    }
}
