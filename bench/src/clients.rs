//! Clients that stay connected: the round trip.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use lockstep_core::RECV_MAX;

use crate::Books;
use crate::payload::Payload;

/// A server that owes a reply for so long has lost the request.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Blocking clients of an echo server, all driven by the calling thread: every client sends its
/// request, then every client waits for its reply.
///
/// Blocking sockets have the least a client can cost: a send and a receive, and no event loop
/// whose own cost would be measured along.
#[derive(Debug)]
pub struct Clients {
    sockets: Vec<TcpStream>,
    payload: Payload,
    reply: Vec<u8>,
    books: Books,
}

impl Clients {
    /// Connects `count` clients, whose requests are to have `size` bytes.
    ///
    /// # Panics
    ///
    /// If one cannot connect; or if a request would be longer than one receive of the server's,
    /// which would make it several exchanges.
    pub fn connect(addr: SocketAddr, count: usize, size: usize) -> Self {
        assert!((1..=RECV_MAX).contains(&size), "a request of {size} bytes is not one exchange");
        let sockets: Vec<_> = (0..count).map(|_| connect(addr)).collect();
        let books = Books { connections: count as u64, ..Books::default() };
        Self { sockets, payload: Payload::new(size), reply: vec![0; size], books }
    }

    /// One exchange on each connection. Every byte of every reply is compared with its request.
    ///
    /// # Panics
    ///
    /// If a reply differs from its request, or does not come.
    pub fn exchange(&mut self) {
        let Self { sockets, payload, reply, books } = self;
        let numbered = || sockets.iter().zip(books.exchanges..);
        for (mut socket, number) in numbered() {
            socket.write_all(payload.request(number)).expect("sending a request");
        }
        for (mut socket, number) in numbered() {
            socket.read_exact(reply).expect("receiving a reply");
            assert!(*reply == payload.request(number), "reply {number} differs from its request");
        }
        books.exchanges += sockets.len() as u64;
    }

    /// Ends every connection in order, and says what the server must have counted.
    ///
    /// # Panics
    ///
    /// If a server says more than it was asked, or does not end the connection in its turn.
    pub fn finish(self) -> Books {
        for socket in &self.sockets {
            socket.shutdown(Shutdown::Write).expect("saying that no more comes");
        }
        let mut surplus = Vec::new();
        for socket in &self.sockets {
            hear_out(socket, 0, &mut surplus);
        }
        assert!(surplus.is_empty(), "the server says more than it was asked");
        let bytes = self.books.exchanges * self.reply.len() as u64;
        Books { bytes_requested: bytes, bytes_replied: bytes, ..self.books }
    }
}

/// A connected blocking socket that sends at once, and does not wait for ever.
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).expect("connecting");
    socket.set_nodelay(true).expect("setting TCP_NODELAY");
    socket.set_read_timeout(Some(TIMEOUT)).expect("setting SO_RCVTIMEO");
    socket
}

/// Receives until the peer ends the connection, or says a byte more than `expected`.
///
/// A receive that is interrupted is repeated. That happens although nobody sends signals: a ring
/// set up by this thread (io_uring's probe) and closed is taken down by the kernel later, which
/// interrupts the thread, and a receive with a timeout is not restarted (signal(7)).
pub(crate) fn hear_out(socket: &TcpStream, expected: usize, heard: &mut Vec<u8>) {
    let mut bounded = socket.take(expected as u64 + 1);
    bounded.read_to_end(heard).expect("receiving a reply and its end");
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// One exchange with each of two clients against a server that answers with `reply(request)`.
    fn exchange_with(reply: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Books {
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
    fn an_honest_server_passes() {
        let books = exchange_with(<[u8]>::to_vec);
        let expected = Books {
            connections: 2,
            exchanges: 2,
            bytes_requested: 128,
            bytes_replied: 128,
            troubles: 0,
        };
        assert_eq!(books, expected);
    }

    #[test]
    #[should_panic(expected = "reply 0 differs from its request")]
    fn a_flipped_bit_is_found() {
        exchange_with(|request| {
            let mut reply = request.to_vec();
            reply[63] ^= 1;
            reply
        });
    }

    #[test]
    #[should_panic(expected = "says more than it was asked")]
    fn a_surplus_byte_is_found() {
        exchange_with(|request| [request, b"!"].concat());
    }
}
