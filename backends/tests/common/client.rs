//! A client that gives up after [`PATIENCE`], and reports what it expected.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::connect_prepared(addr, |_socket| ())
    }

    /// A client with small buffers on its way: soon the server cannot send to it.
    ///
    /// Its receive buffer is the smallest possible, and the server's send buffer depends on the
    /// segment size that the client announces (`tcp_sndbuf_expand`, net/ipv4/tcp_input.c).
    pub(crate) fn connect_narrow(addr: SocketAddr) -> Self {
        Self::connect_prepared(addr, |socket| {
            socket.set_recv_buffer_size(4096).unwrap();
            socket.set_tcp_mss(536).unwrap();
        })
    }

    fn connect_prepared(addr: SocketAddr, prepare: impl FnOnce(&Socket)) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        prepare(&socket);
        socket
            .connect_timeout(&addr.into(), PATIENCE)
            .unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"));
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// Own address, as the server sees it.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Receives the next `count` bytes.
    pub(crate) fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream
            .read_exact(&mut bytes)
            .unwrap_or_else(|error| panic!("no {count} bytes came: {error}"));
        bytes
    }

    /// Sends a request, and receives the same bytes.
    pub(crate) fn exchange(&mut self, request: &[u8]) {
        self.send(request);
        assert!(self.receive(request.len()) == request, "the reply differs from the request");
    }

    /// Sends a FIN.
    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Receives everything before the server's FIN; a reset is a failure.
    pub(crate) fn receive_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream
            .read_to_end(&mut bytes)
            .unwrap_or_else(|error| panic!("no orderly end after {} bytes: {error}", bytes.len()));
        bytes
    }

    /// Receives the server's FIN and nothing before it.
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.receive_to_end(), b"", "more than the end was heard");
    }

    /// Sends the bytes with a FIN in one segment.
    pub(crate) fn send_and_finish(&mut self, bytes: &[u8]) {
        let sent = SockRef::from(&self.stream).send_with_flags(bytes, libc::MSG_MORE).unwrap();
        assert_eq!(sent, bytes.len());
        self.finish();
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Sends bytes until the socket has taken none for a while; returns their number.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        const A_WHILE: Duration = Duration::from_millis(30);
        self.stream.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait_for(PollFlags::OUT, A_WHILE) {
                        break;
                    }
                }
                Err(error) => panic!("cannot send: {error}"),
            }
        }
        self.stream.set_nonblocking(false).unwrap();
        sent
    }

    /// True if bytes, a FIN or a reset can be received now.
    pub(crate) fn is_readable(&self) -> bool {
        self.wait_for(PollFlags::IN, Duration::ZERO)
    }

    /// Waits, without reading, for a reset.
    pub(crate) fn wait_for_reset(&self) {
        assert!(self.wait_for(PollFlags::empty(), PATIENCE), "the connection is not broken off");
    }

    fn wait_for(&self, flags: PollFlags, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.stream, flags)];
        let timeout = Timespec::try_from(timeout).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap() > 0
    }
}
