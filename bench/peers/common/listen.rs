//! Listening sockets like those of `lockstep serve`.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Failure, Options};

/// Time for which a port may stay taken after its server has ended: the kernel ends a ring, and the
/// accept in it, after the process (`io_ring_exit_work`, io_uring/io_uring.c).
const TAKEN_FOR: Duration = Duration::from_millis(500);

/// Interval between attempts at a taken port.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Opens `count` sockets at one address. The kernel distributes connections between several
/// (SO_REUSEPORT, socket(7)).
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
        bind(addr, false)?; // fails if another server shares the port
    }
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bind(addr, count > 1)?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        let listener = TcpListener::from(socket);
        addr = listener.local_addr()?; // all sockets share the port that the kernel chose
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
