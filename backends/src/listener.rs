//! The listening sockets: one per shard, all on one address.
//!
//! std and mio hard-code a backlog of 128, so the sockets are made with socket2.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Makes `count` listeners on `addr`, each with its own queue of `backlog`.
///
/// More than one share the port by SO_REUSEPORT (socket(7)): the kernel spreads new connections
/// over them. All set SO_REUSEADDR, so that a server can be started again while connections of
/// the one before are in TIME_WAIT. TCP_NODELAY is set here once: accepted sockets inherit it.
///
/// # Errors
///
/// Whatever socket(2), bind(2) or listen(2) says.
pub(crate) fn listen(addr: SocketAddr, count: usize, backlog: u32) -> io::Result<Vec<TcpListener>> {
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
