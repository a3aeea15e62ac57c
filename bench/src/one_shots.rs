//! Clients of the accept bench, which connect for one exchange.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crate::clients::{connect, receive_to_end};
use crate::payload::Payload;
use crate::{Counts, Load};

/// The reply of the service `hi` to every request.
const REPLY: &[u8] = b"hi";

/// Bytes of a request.
const REQUEST_SIZE: usize = 64;

/// Clients of a server that replies `hi` and closes, run by the calling thread: each exchange has a
/// connection of its own.
///
/// The server closes first, so TIME_WAIT is on its side. The clients' ports are free immediately,
/// and a bench may open more connections than there are ephemeral ports.
#[derive(Debug)]
pub struct OneShots {
    addr: SocketAddr,
    count: usize,
    sockets: Vec<TcpStream>,
    payload: Payload,
    received: Vec<u8>,
    counts: Counts,
}

impl OneShots {
    /// Prepares clients of the server at `addr`; `count` of them connect at a time.
    pub fn new(addr: SocketAddr, count: usize) -> Self {
        let payload = Payload::new(REQUEST_SIZE);
        let sockets = Vec::with_capacity(count);
        Self { addr, count, sockets, payload, received: Vec::new(), counts: Counts::default() }
    }
}

impl Load for OneShots {
    /// Connects all clients, and sends their requests. Then receives each reply up to the server's
    /// close, and closes the connection.
    fn exchange(&mut self) {
        for _ in 0..self.count {
            let mut socket = connect(self.addr);
            let request = self.payload.request(self.counts.exchanges);
            socket.write_all(request).expect("sending a request");
            self.sockets.push(socket);
            self.counts.connections += 1;
            self.counts.exchanges += 1;
        }
        for socket in self.sockets.drain(..) {
            self.received.clear();
            receive_to_end(&socket, REPLY.len(), &mut self.received);
            assert_eq!(self.received, REPLY, "not the reply of the service");
        }
    }

    fn finish(self) -> Counts {
        Counts {
            bytes_requested: self.counts.exchanges * REQUEST_SIZE as u64,
            bytes_replied: self.counts.exchanges * REPLY.len() as u64,
            ..self.counts
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn exchange_with(reply: &'static [u8]) -> Counts {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.read_exact(&mut [0; REQUEST_SIZE]).unwrap();
            socket.write_all(reply).unwrap();
        });
        let mut clients = OneShots::new(addr, 1);
        clients.exchange();
        clients.finish()
    }

    #[test]
    fn correct_reply_is_counted() {
        let counts = exchange_with(b"hi");
        let expected = Counts {
            connections: 1,
            exchanges: 1,
            bytes_requested: 64,
            bytes_replied: 2,
            errors: 0,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    #[should_panic(expected = "not the reply of the service")]
    fn different_reply_panics() {
        exchange_with(b"ho");
    }

    #[test]
    #[should_panic(expected = "not the reply of the service")]
    fn surplus_byte_panics() {
        exchange_with(b"hi!");
    }

    #[test]
    #[should_panic(expected = "not the reply of the service")]
    fn missing_byte_panics() {
        exchange_with(b"h");
    }
}
