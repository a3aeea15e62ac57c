//! The listening sockets: one per shard, all on one address.
//!
//! std and mio hard-code a backlog of 128, so the sockets are made with socket2.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::trace::{NONE, Trace, Traced};

/// Longest wait for a port still taken by a server that was just killed. The kernel tears down a
/// ring in a worker, after the process has ended (`io_ring_exit_work`, io_uring/io_uring.c), and
/// until then the armed accept keeps the listener open: some ten milliseconds.
const TAKEN_FOR: Duration = Duration::from_millis(500);

/// Interval at which a taken port is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Creates a listener on `addr` for each of `shards`, each with its own queue of `backlog`.
///
/// Several listeners share the port by SO_REUSEPORT (socket(7)): the kernel spreads new connections
/// over them by a hash of the addresses. If the shards have a CPU each, only those of the CPU where
/// the SYN is processed are considered, if there are any: SO_INCOMING_CPU, heeded since Linux 6.2
/// (`reuseport_select_sock_by_hash`, net/core/sock_reuseport.c). On loopback that is the CPU on
/// which the client called connect(2). With `reuse_port`, other servers of the same user can share
/// the port in the same way.
///
/// All listeners set SO_REUSEADDR, so that a server can be restarted while connections of the last
/// one are in TIME_WAIT, and TCP_NODELAY, which accepted sockets inherit.
///
/// # Errors
///
/// Those of socket(2), bind(2) and listen(2); `EADDRINUSE` only if the port stays taken for half a
/// second.
pub(crate) fn listen(
    addr: SocketAddr,
    shards: &[Option<usize>],
    reuse_port: bool,
    backlog: u32,
    trace: impl Trace,
) -> io::Result<Vec<TcpListener>> {
    let deadline = Instant::now() + TAKEN_FOR;
    loop {
        match try_to_listen(addr, shards, reuse_port, backlog, trace) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(TRY_AGAIN);
            }
            result => return result,
        }
    }
}

fn try_to_listen(
    addr: SocketAddr,
    shards: &[Option<usize>],
    reuse_port: bool,
    backlog: u32,
    trace: impl Trace,
) -> io::Result<Vec<TcpListener>> {
    let shared = shards.len() > 1 || reuse_port;
    if shared && !reuse_port && addr.port() != 0 {
        let socket = bind(addr, false, trace)?; // fails if another server shares the port
        trace.close(socket.socket);
    }
    let mut addr = addr;
    let mut listeners = Vec::with_capacity(shards.len());
    for cpu in shards {
        let socket = bind(addr, shared, trace)?;
        if let (true, &Some(cpu)) = (shared, cpu) {
            let args = format_args!("SO_INCOMING_CPU, {cpu}");
            socket.call("setsockopt", args, |socket| socket.set_cpu_affinity(cpu))?;
        }
        let listener = listen_on(socket, backlog)?;
        let fd = listener.as_raw_fd();
        let own_addr = || listener.local_addr();
        // The other listeners get the real port that port 0 has become.
        addr = trace.call_for(fd, format_args!("getsockname({fd})"), own_addr, |addr| *addr)?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen_on(socket: Traced<Socket, impl Trace>, backlog: u32) -> io::Result<TcpListener> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    socket.call("listen", backlog, |socket| socket.listen(backlog))?;
    Ok(socket.socket.into())
}

fn bind<T: Trace>(addr: SocketAddr, shared: bool, trace: T) -> io::Result<Traced<Socket, T>> {
    let socket = open(addr, trace)?;
    socket.call("setsockopt", "SO_REUSEADDR, 1", |socket| socket.set_reuse_address(true))?;
    if shared {
        socket.call("setsockopt", "SO_REUSEPORT, 1", |socket| socket.set_reuse_port(true))?;
    }
    socket.call("setsockopt", "TCP_NODELAY, 1", |socket| socket.set_tcp_nodelay(true))?;
    socket.call("bind", addr, |socket| socket.bind(&addr.into()))?;
    Ok(socket)
}

/// Opens a TCP socket of the address family of `addr`.
pub(crate) fn open<T: Trace>(addr: SocketAddr, trace: T) -> io::Result<Traced<Socket, T>> {
    let (domain, name) = match addr {
        SocketAddr::V4(_) => (Domain::IPV4, "AF_INET"),
        SocketAddr::V6(_) => (Domain::IPV6, "AF_INET6"),
    };
    let name_and_args = format_args!("socket({name}, SOCK_STREAM, IPPROTO_TCP)");
    let socket = || Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
    let socket = trace.call_for(NONE, name_and_args, socket, AsRawFd::as_raw_fd)?;
    Ok(Traced { socket, trace })
}
