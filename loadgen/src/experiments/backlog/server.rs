//! The side that listens: a listener of this process, or somebody else's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clients::socket::{receive, send};
use lockstep_sys::sock_diag::SockDiag;
use lockstep_sys::tcp_info::AcceptQueue;

/// What epoll tells of the listener; an accepted connection is told from a client by `ACCEPTED`.
pub(super) const LISTENER: u64 = u64::MAX;
/// Added to the number of an accepted connection.
pub(super) const ACCEPTED: u64 = 1 << 32;

/// Who is connected to.
#[derive(Debug)]
pub(super) enum Server {
    /// A listener of this process.
    Own(Own),
    /// Somebody else's.
    Target(SocketAddr),
}

/// A listener that accepts nothing until it is told to, and then echoes.
#[derive(Debug)]
pub(super) struct Own {
    listener: Socket,
    connections: Vec<Socket>,
}

impl Own {
    /// Listens at a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// Of socket(2), bind(2) and listen(2).
    pub(super) fn listen(n: u32) -> io::Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(Self { listener, connections: Vec::new() })
    }

    /// From here on connections are accepted.
    ///
    /// # Errors
    ///
    /// Of epoll_ctl(2).
    pub(super) fn release(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        epoll::add(epoll, &self.listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        self.accept(epoll)
    }

    /// Accepts all there are.
    ///
    /// # Errors
    ///
    /// Of accept(2) and epoll_ctl(2).
    pub(super) fn accept(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        loop {
            let connection = match self.listener.accept() {
                Ok((connection, _)) => connection,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // It was reset while it waited.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            connection.set_nonblocking(true)?;
            let key = ACCEPTED + self.connections.len() as u64;
            epoll::add(
                epoll,
                &connection,
                EventData::new_u64(key),
                EventFlags::IN | EventFlags::ET,
            )?;
            self.connections.push(connection);
        }
    }

    /// Echoes what a connection has received. The requests are so short that a reply is never cut.
    pub(super) fn echo(&self, connection: u64) {
        let Some(connection) = self.connections.get((connection - ACCEPTED) as usize) else {
            return;
        };
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = receive(connection, &mut buffer) {
            // A client that is gone is seen on its own side.
            let _ = send(connection, &buffer[..count]);
        }
    }

    /// Connections accepted.
    pub(super) fn accepted(&self) -> u64 {
        self.connections.len() as u64
    }
}

impl Server {
    /// Where to connect to.
    ///
    /// # Errors
    ///
    /// Of getsockname(2).
    pub(super) fn addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Own(own) => own.listener.local_addr()?.as_socket().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "not an internet address")
            }),
            Self::Target(addr) => Ok(*addr),
        }
    }

    /// The accept queues, one a listener.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub(super) fn queues(&self, diag: Option<&mut SockDiag>) -> io::Result<Vec<AcceptQueue>> {
        match (self, diag) {
            (Self::Own(own), _) => Ok(vec![AcceptQueue::of(&own.listener)?]),
            (Self::Target(addr), Some(diag)) => diag.listeners(*addr),
            (Self::Target(_), None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
