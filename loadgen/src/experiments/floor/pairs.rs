//! Connections of which both ends are ours.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A TCP connection over loopback.
pub(super) struct Pair {
    pub(super) client: Socket,
    pub(super) server: Socket,
}

impl Pair {
    /// Opens connections, non-blocking on both ends.
    pub(super) fn connect(count: u32) -> io::Result<Vec<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        (0..count).map(|_| Self::open(&listener, addr)).collect()
    }

    fn open(listener: &TcpListener, addr: SocketAddr) -> io::Result<Self> {
        let client = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        client.connect(&SockAddr::from(addr))?;
        let mine = client.local_addr()?.as_socket();
        // A stranger may connect to any port.
        let server = loop {
            let (server, peer) = listener.accept()?;
            if Some(peer) == mine {
                break Socket::from(server);
            }
        };
        for socket in [&client, &server] {
            socket.set_tcp_nodelay(true)?;
            // Closed with a reset: a thousand connections that linger in TIME_WAIT would be in the
            // way of the run that follows.
            socket.set_linger(Some(Duration::ZERO))?;
            socket.set_nonblocking(true)?;
        }
        Ok(Self { client, server })
    }
}

/// What a call did that may find nothing to do: `None` then.
pub(super) fn done(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a receive returned, where the end of the connection is an error.
pub(super) fn received(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match done(result)? {
        Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// Refuses bytes that are not those that were sent.
pub(super) fn verify(found: &[u8], expected: &[u8]) -> io::Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(io::Error::other("a reply differed from its request")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_of_one_connection() {
        for pair in Pair::connect(3).unwrap() {
            let addr = |addr: io::Result<SockAddr>| addr.unwrap().as_socket();
            assert_eq!(addr(pair.client.local_addr()), addr(pair.server.peer_addr()));
            assert_eq!(addr(pair.server.local_addr()), addr(pair.client.peer_addr()));
        }
    }

    #[test]
    fn a_wrong_byte_is_an_error() {
        assert!(verify(b"abc", b"abc").is_ok());
        assert!(verify(b"abc", b"abd").is_err());
    }
}
