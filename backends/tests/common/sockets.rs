//! The kernel's table of TCP sockets, asked for those of one port.
//!
//! It is asked by sock_diag(7), as ss(8) does. /proc/net/tcp says the same, but it is written out
//! whole for each reading, with all the connections in TIME_WAIT that the tests of the last minute
//! have left; it is read where there is no sock_diag.

use std::fs;
use std::io;
use std::net::SocketAddr;

use lockstep_sys::sock_diag::{SockDiag, TcpSocket};
pub(crate) use lockstep_sys::tcp_info::{CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_RECV};

/// A socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) state: u8,
    /// Bytes that the peer has not acknowledged.
    pub(crate) unsent: u32,
    /// Bytes that the process has not received; a listener's connections not accepted.
    pub(crate) unread: u32,
}

const STATES: [u8; 4] = [ESTABLISHED, SYN_RECV, CLOSE_WAIT, LISTEN];

/// The sockets whose own port is that of `addr`, in the states above.
pub(crate) fn of_port(addr: SocketAddr) -> Vec<Row> {
    by_sock_diag(addr).unwrap_or_else(|_| by_proc(addr))
}

/// Reads the sockets from sock_diag(7).
pub(crate) fn by_sock_diag(addr: SocketAddr) -> io::Result<Vec<Row>> {
    let sockets = SockDiag::open()?.sockets(addr, &STATES)?;
    let row = |socket: TcpSocket| Row {
        state: socket.state,
        unsent: socket.wqueue,
        unread: socket.rqueue,
    };
    Ok(sockets.into_iter().map(row).collect())
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
