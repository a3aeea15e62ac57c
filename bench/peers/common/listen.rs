//! The listening sockets, as `lockstep serve` has them.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Failure, Options};

/// How long a port may stay taken by a server that has just ended: the kernel ends a ring, and the
/// accept in it, after the process (`io_ring_exit_work`, io_uring/io_uring.c).
const TAKEN_FOR: Duration = Duration::from_millis(500);

/// How often a taken port is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// So many sockets at one address: with more than one, the kernel gives each its share of the
/// connections (SO_REUSEPORT, socket(7)).
pub(super) fn listen(options: &Options, count: usize) -> Result<Vec<TcpListener>, Failure> {
    let deadline = Instant::now() + TAKEN_FOR;
    loop {
        match try_to_listen(options, count) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(TRY_AGAIN);
            }
            result => return result.map_err(|error| Failure::CannotListen(options.listen, error)),
        }
    }
}

fn try_to_listen(options: &Options, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut addr = options.listen;
    if count > 1 && addr.port() != 0 {
        bind(addr, false)?; // a port that another server shares out is taken nevertheless
    }
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bind(addr, count > 1)?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        let listener = TcpListener::from(socket);
        addr = listener.local_addr()?; // port 0 has become a real port, for all of them
        listeners.push(listener);
    }
    Ok(listeners)
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
