//! The server under test, and what it must have counted when it is done.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};

use lockstep_backends::{BACKENDS, Backend, Config, Options, Server, ServiceFactory, Stats};
use lockstep_core::Service;

use crate::Placement;

/// The backends that run here. The others are named on standard error.
///
/// # Panics
///
/// If one of the others is required: listed in `LOCKSTEP_REQUIRE`, names separated by commas.
pub fn backends() -> Vec<&'static dyn Backend> {
    let required = env::var("LOCKSTEP_REQUIRE").unwrap_or_default();
    let runs = |backend: &dyn Backend| match backend.probe(1) {
        Ok(_how) => true,
        Err(refused) => {
            let name = backend.name();
            assert!(!lists(&required, name), "{name} is required, but {refused}");
            eprintln!("SKIPPED {name}: {refused}");
            false
        }
    };
    BACKENDS.iter().copied().filter(|backend| runs(*backend)).collect()
}

fn lists(names: &str, name: &str) -> bool {
    names.split(',').any(|listed| listed.trim() == name)
}

/// A server of one shard, in this process.
#[derive(Debug)]
pub struct Subject {
    backend: &'static str,
    server: Server,
}

impl Subject {
    /// Starts it on a port of the kernel's choice.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(
        backend: &'static dyn Backend,
        service: impl Service + Clone + Send + Sync + 'static,
        placement: &Placement,
    ) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options =
            Options { shards: Some(1), pin: placement.server_cpus(), ..Options::default() };
        let service = ServiceFactory::new(move |_socket| service.clone());
        let config = Config { backend, listen, service, options };
        match Server::start(&config) {
            Ok(server) => Self { backend: backend.name(), server },
            Err(error) => panic!("{} did not start: {error}", backend.name()),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Stops it and compares its books with its clients'.
    ///
    /// # Panics
    ///
    /// If they differ, or if the server failed.
    pub fn finish(self, clients: &Books) {
        self.server.drain();
        match self.server.join() {
            Ok(stats) => assert_eq!(
                Books::of(&stats),
                *clients,
                "{}: the server's books (left) are not its clients' (right)",
                self.backend
            ),
            Err(error) => panic!("{} failed: {error}", self.backend),
        }
    }
}

/// What both sides of a bench count, each for itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Books {
    /// Connections.
    pub connections: u64,
    /// Requests answered in full.
    pub exchanges: u64,
    /// Bytes of requests.
    pub bytes_requested: u64,
    /// Bytes of replies.
    pub bytes_replied: u64,
    /// Connections that ended in another way than planned.
    pub troubles: u64,
}

impl Books {
    /// The server's. Its connections are planned to end with the peer's end of input, or with the
    /// service's last reply.
    fn of(stats: &Stats) -> Self {
        use lockstep_core::Cause;
        let planned = stats.closed.count(Cause::Eof) + stats.closed.count(Cause::Done);
        Self {
            connections: stats.accepted,
            exchanges: stats.exchanges,
            bytes_requested: stats.bytes_received,
            bytes_replied: stats.bytes_sent,
            troubles: stats.closed.total() - planned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clients;

    #[test]
    fn a_required_backend_is_known_by_its_whole_name() {
        assert!(lists("mio, io-uring", "io-uring"));
        assert!(!lists("io-uring-2", "io-uring") && !lists("", "mio"));
    }

    #[test]
    fn books_that_agree_are_accepted() {
        let (subject, mut clients) = blocking();
        clients.exchange();
        subject.finish(&clients.finish());
    }

    #[test]
    #[should_panic(expected = "not its clients'")]
    fn an_exchange_that_the_clients_did_not_count_is_found() {
        let (subject, mut clients) = blocking();
        clients.exchange();
        let books = clients.finish();
        subject.finish(&Books { exchanges: books.exchanges - 1, ..books });
    }

    fn blocking() -> (Subject, Clients) {
        let placement = Placement::of_this_process();
        let backend = lockstep_backends::by_name("blocking").unwrap();
        let subject = Subject::start(backend, lockstep_core::Echo, &placement);
        let clients = Clients::connect(subject.addr(), 3, 100);
        (subject, clients)
    }
}
