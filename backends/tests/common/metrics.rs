//! A client of the metrics of a server.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{PATIENCE, until};

/// Metrics of a server, served at this address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metrics(pub(crate) SocketAddr);

impl Metrics {
    /// Returns the head and the body of a response. Tries again if this thread was too slow, and
    /// the connection was closed before the request was sent.
    pub(crate) fn get(self, path: &str) -> (String, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.0);
        let mut response = String::new();
        until("there is a response", || {
            response = String::from_utf8(send(self.0, request.as_bytes())).unwrap();
            !response.is_empty()
        });
        let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_owned(), body.to_owned())
    }

    /// Returns the samples, by name and labels.
    pub(crate) fn samples(self) -> BTreeMap<String, f64> {
        let (head, body) = self.get("/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let samples = body.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().unwrap())
        });
        samples.collect()
    }

    /// Waits until these samples have these values. A shard publishes its counts before it waits,
    /// which may be a while after a client has its reply.
    pub(crate) fn until(self, expected: &[(&str, f64)]) {
        let what = format!("the metrics are {expected:?}");
        until(&what, || {
            let samples = self.samples();
            expected.iter().all(|(name, value)| samples[*name] == *value)
        });
    }

    /// Sum of the connections that have ended.
    pub(crate) fn closed(self) -> f64 {
        let samples = self.samples().into_iter();
        samples.filter(|(name, _)| name.starts_with("lockstep_closed_total")).map(|it| it.1).sum()
    }
}

/// Sends bytes, and returns what comes until the server closes or resets the connection.
pub(crate) fn send(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _closed_meanwhile = stream.write_all(bytes);
    receive(stream)
}

pub(crate) fn receive(mut stream: TcpStream) -> Vec<u8> {
    let mut response = Vec::new();
    if let Err(error) = stream.read_to_end(&mut response) {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "it was not closed");
    }
    response
}
