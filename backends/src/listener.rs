//! The listening sockets: one per shard, all on one address.
//!
//! std and mio hard-code a backlog of 128, so the sockets are made with socket2.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// How long a port may stay taken by a server that has just been killed. The kernel ends a ring
/// in a worker of its own, after the process has ended (`io_ring_exit_work`, io_uring/io_uring.c),
/// and until then the accept that is armed there keeps the listener: some ten milliseconds.
const TAKEN_FOR: Duration = Duration::from_millis(500);

/// How often a taken port is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Makes `count` listeners on `addr`, each with its own queue of `backlog`.
///
/// More than one share the port by SO_REUSEPORT (socket(7)): the kernel spreads new connections
/// over them. All set SO_REUSEADDR, so that a server can be started again while connections of
/// the one before are in TIME_WAIT. TCP_NODELAY is set here once: accepted sockets inherit it.
///
/// # Errors
///
/// Whatever socket(2), bind(2) or listen(2) says; that the port is taken only if it stays so for
/// half a second.
pub(crate) fn listen(addr: SocketAddr, count: usize, backlog: u32) -> io::Result<Vec<TcpListener>> {
    let deadline = Instant::now() + TAKEN_FOR;
    loop {
        match try_to_listen(addr, count, backlog) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(TRY_AGAIN);
            }
            result => return result,
        }
    }
}

fn try_to_listen(addr: SocketAddr, count: usize, backlog: u32) -> io::Result<Vec<TcpListener>> {
    if count > 1 && addr.port() != 0 {
        bind(addr, false)?; // a port that another server shares out is taken nevertheless
    }
    let mut addr = addr;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = listen_one(addr, count > 1, backlog)?;
        addr = listener.local_addr()?; // port 0 has become a real port, for all of them
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen_one(addr: SocketAddr, shared: bool, backlog: u32) -> io::Result<TcpListener> {
    let socket = bind(addr, shared)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

fn bind(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}
