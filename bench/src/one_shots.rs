//! Clients that come and go: the tutorial's one-shot server.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crate::Books;
use crate::clients::{connect, hear_out};
use crate::payload::Payload;

/// What the service `hi` answers, whatever it is asked.
const REPLY: &[u8] = b"hi";

/// How many bytes a request has.
const REQUEST_SIZE: usize = 64;

/// Clients of a server that says `hi` and hangs up, driven by the calling thread: each exchange
/// has a connection of its own.
///
/// The server closes first, so that TIME_WAIT is on its side, where the port is its own: the
/// clients' ports are free again at once, and a bench may open more connections than there are
/// ephemeral ports.
#[derive(Debug)]
pub struct OneShots {
    addr: SocketAddr,
    count: usize,
    sockets: Vec<TcpStream>,
    payload: Payload,
    heard: Vec<u8>,
    books: Books,
}

impl OneShots {
    /// Clients of the server at `addr`; `count` of them come at a time.
    pub fn new(addr: SocketAddr, count: usize) -> Self {
        let payload = Payload::new(REQUEST_SIZE);
        let sockets = Vec::with_capacity(count);
        Self { addr, count, sockets, payload, heard: Vec::new(), books: Books::default() }
    }

    /// So many clients connect and send their request; then each waits for its reply and for the
    /// server's end of the connection, and closes its own.
    ///
    /// # Panics
    ///
    /// If a client cannot connect, or hears anything else than `hi` and the end.
    pub fn exchange(&mut self) {
        for _ in 0..self.count {
            let mut socket = connect(self.addr);
            let request = self.payload.request(self.books.exchanges);
            socket.write_all(request).expect("sending a request");
            self.sockets.push(socket);
            self.books.connections += 1;
            self.books.exchanges += 1;
        }
        for socket in self.sockets.drain(..) {
            self.heard.clear();
            hear_out(&socket, REPLY.len(), &mut self.heard);
            assert_eq!(self.heard, REPLY, "not what the service says");
        }
    }

    /// What the server must have counted.
    pub fn finish(self) -> Books {
        Books {
            bytes_requested: self.books.exchanges * REQUEST_SIZE as u64,
            bytes_replied: self.books.exchanges * REPLY.len() as u64,
            ..self.books
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn exchange_with(reply: &'static [u8]) -> Books {
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
    fn an_honest_server_passes() {
        let books = exchange_with(b"hi");
        let expected = Books {
            connections: 1,
            exchanges: 1,
            bytes_requested: 64,
            bytes_replied: 2,
            troubles: 0,
        };
        assert_eq!(books, expected);
    }

    #[test]
    #[should_panic(expected = "not what the service says")]
    fn another_reply_is_found() {
        exchange_with(b"ho");
    }

    #[test]
    #[should_panic(expected = "not what the service says")]
    fn a_surplus_byte_is_found() {
        exchange_with(b"hi!");
    }

    #[test]
    #[should_panic(expected = "not what the service says")]
    fn a_missing_byte_is_found() {
        exchange_with(b"h");
    }
}
