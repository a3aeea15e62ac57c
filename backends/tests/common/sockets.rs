//! The kernel's table of TCP sockets, asked for those of one port.
//!
//! It is asked by sock_diag(7), as ss(8) does. /proc/net/tcp says the same, but it is written out
//! whole for each reading, with all the connections in TIME_WAIT that the tests of the last minute
//! have left; it is read where there is no sock_diag.

use std::fs;
use std::io;
use std::net::SocketAddr;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

/// A socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) state: u8,
    /// Bytes that the peer has not acknowledged.
    pub(crate) unsent: u32,
    /// Bytes that the process has not received; a listener's connections not accepted.
    pub(crate) unread: u32,
}

// The states of include/net/tcp_states.h that are asked for.
pub(crate) const ESTABLISHED: u8 = 1;
pub(crate) const SYN_RECV: u8 = 3;
pub(crate) const CLOSE_WAIT: u8 = 8;
pub(crate) const LISTEN: u8 = 10;
const STATES: [u8; 4] = [ESTABLISHED, SYN_RECV, CLOSE_WAIT, LISTEN];

/// The sockets whose own port is that of `addr`, in the states above.
pub(crate) fn of_port(addr: SocketAddr) -> Vec<Row> {
    by_sock_diag(addr).unwrap_or_else(|_| by_proc(addr))
}

/// A dump of `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h, linux/inet_diag.h).
pub(crate) fn by_sock_diag(addr: SocketAddr) -> io::Result<Vec<Row>> {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::SOCK_DIAG))?;
    send(&socket, &request(addr), SendFlags::empty())?;
    let mut rows = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut messages = &buffer[..length];
        // struct nlmsghdr: length, type, flags, sequence, port.
        while let Some((length, kind)) = u32_at(messages, 0).zip(u16_at(messages, 4)) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(rows),
                libc::NLMSG_ERROR => return Err(io::ErrorKind::Unsupported.into()),
                _ => rows.extend(row(&messages[16..length as usize])),
            }
            messages = &messages[(length as usize).next_multiple_of(4).min(messages.len())..];
        }
    }
}

fn request(addr: SocketAddr) -> Vec<u8> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let states = STATES.iter().fold(0_u32, |mask, state| mask | 1 << state);
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states, and the socket: its
    // ports, addresses, interface and cookie.
    let mut body = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(addr.port().to_be_bytes());
    body.extend([0; 46]);
    let mut request = Vec::new();
    request.extend((16 + body.len() as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    request
}

/// struct inet_diag_msg: family, state, timer, retransmits, the socket (48 bytes), when the timer
/// expires, and the two queues.
fn row(message: &[u8]) -> Option<Row> {
    Some(Row {
        state: *message.get(1)?,
        unread: u32_at(message, 56)?,
        unsent: u32_at(message, 60)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().unwrap()))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().unwrap()))
}

/// /proc/net/tcp (proc_pid_net(5)): number, own and the peer's address, state, queues.
pub(crate) fn by_proc(addr: SocketAddr) -> Vec<Row> {
    let file = if addr.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let table = fs::read_to_string(file).unwrap();
    let port = format!(":{:04X}", addr.port());
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let own = fields.next().filter(|own| own.ends_with(&port))?;
        let (_peer, state) = (fields.next()?, fields.next()?);
        let (unsent, unread) = fields.next()?.split_once(':')?;
        let number = |hex| u32::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("{own}: {hex}"));
        let state = number(state) as u8;
        let row = Row { state, unsent: number(unsent), unread: number(unread) };
        STATES.contains(&state).then_some(row)
    };
    table.lines().skip(1).filter_map(row).collect()
}
