//! Clients of the round-trip bench, which stay connected.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use lockstep_core::RECV_MAX;

use crate::payload::Payload;
use crate::{Counts, Load};

/// Timeout of a receive.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Blocking clients of an echo server, all run by the calling thread: every client sends its
/// request, then every client waits for its reply.
///
/// A client on a blocking socket costs the minimum: a send and a receive, without an event loop.
#[derive(Debug)]
pub struct Clients {
    sockets: Vec<TcpStream>,
    payload: Payload,
    reply: Vec<u8>,
    counts: Counts,
}

impl Clients {
    /// Connects `count` clients with requests of `size` bytes.
    ///
    /// # Panics
    ///
    /// If a client cannot connect, or if a request is longer than one receive of the server, and so
    /// would be several exchanges.
    pub fn connect(addr: SocketAddr, count: usize, size: usize) -> Self {
        assert!((1..=RECV_MAX).contains(&size), "a request of {size} bytes is not one exchange");
        let sockets: Vec<_> = (0..count).map(|_| connect(addr)).collect();
        let counts = Counts { connections: count as u64, ..Counts::default() };
        Self { sockets, payload: Payload::new(size), reply: vec![0; size], counts }
    }
}

impl Load for Clients {
    fn exchange(&mut self) {
        let Self { sockets, payload, reply, counts } = self;
        let numbered = || sockets.iter().zip(counts.exchanges..);
        for (mut socket, number) in numbered() {
            socket.write_all(payload.request(number)).expect("sending a request");
        }
        for (mut socket, number) in numbered() {
            socket.read_exact(reply).expect("receiving a reply");
            assert!(*reply == payload.request(number), "reply {number} differs from its request");
        }
        counts.exchanges += sockets.len() as u64;
    }

    fn finish(self) -> Counts {
        for socket in &self.sockets {
            socket.shutdown(Shutdown::Write).expect("half-closing a connection");
        }
        let mut surplus = Vec::new();
        for socket in &self.sockets {
            receive_to_end(socket, 0, &mut surplus);
        }
        assert!(surplus.is_empty(), "the server sends more than its replies");
        let bytes = self.counts.exchanges * self.reply.len() as u64;
        Counts { bytes_requested: bytes, bytes_replied: bytes, ..self.counts }
    }
}

/// Connects a blocking socket with TCP_NODELAY and a receive timeout.
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).expect("connecting");
    socket.set_nodelay(true).expect("setting TCP_NODELAY");
    socket.set_read_timeout(Some(TIMEOUT)).expect("setting SO_RCVTIMEO");
    socket
}

/// Receives until the peer closes the connection, or sends a byte more than `expected`.
///
/// An interrupted receive is repeated. It is interrupted even without a signal: the kernel tears
/// down a ring of this thread (of io_uring's probe) after it was closed, which interrupts the
/// thread, and does not restart a receive with a timeout (signal(7)).
pub(crate) fn receive_to_end(socket: &TcpStream, expected: usize, received: &mut Vec<u8>) {
    let mut bounded = socket.take(expected as u64 + 1);
    bounded.read_to_end(received).expect("receiving a reply and its end");
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Makes one exchange with each of two clients of a server that sends `reply(request)`.
    fn exchange_with(reply: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Counts {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut sockets = [(); 2].map(|()| listener.accept().unwrap().0);
            let mut request = [0; 64];
            for socket in &mut sockets {
                socket.read_exact(&mut request).unwrap();
                socket.write_all(&reply(&request)).unwrap();
            }
            for socket in &mut sockets {
                assert_eq!(socket.read(&mut request).unwrap(), 0);
            }
        });
        let mut clients = Clients::connect(addr, 2, 64);
        clients.exchange();
        clients.finish()
    }

    #[test]
    fn correct_replies_are_counted() {
        let counts = exchange_with(<[u8]>::to_vec);
        let expected = Counts {
            connections: 2,
            exchanges: 2,
            bytes_requested: 128,
            bytes_replied: 128,
            errors: 0,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    #[should_panic(expected = "reply 0 differs from its request")]
    fn flipped_bit_panics() {
        exchange_with(|request| {
            let mut reply = request.to_vec();
            reply[63] ^= 1;
            reply
        });
    }

    #[test]
    #[should_panic(expected = "sends more than its replies")]
    fn surplus_byte_panics() {
        exchange_with(|request| [request, b"!"].concat());
    }
}
