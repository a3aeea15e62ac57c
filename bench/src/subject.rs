//! The server under test, and the counts of both sides.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};

use lockstep_backends::{BACKENDS, Backend, Config, Options, Server, ServiceFactory, Stats};
use lockstep_core::Service;

use crate::Placement;

/// Returns the backends that run on this machine. The others are named on standard error.
///
/// # Panics
///
/// If one of the others is listed in `LOCKSTEP_REQUIRE`, names separated by commas.
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
    /// Starts it on a port that the kernel chooses.
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

    /// Returns its listen address.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Stops it and compares its counts with those of its clients.
    ///
    /// # Panics
    ///
    /// If they differ, or if the server failed.
    pub fn finish(self, clients: &Counts) {
        self.server.drain();
        match self.server.join() {
            Ok(stats) => assert_eq!(
                Counts::of(&stats),
                *clients,
                "{}: the server's counts (left) differ from its clients' (right)",
                self.backend
            ),
            Err(error) => panic!("{} failed: {error}", self.backend),
        }
    }
}

/// Counts that each side of a bench makes independently.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Number of connections.
    pub connections: u64,
    /// Number of complete replies.
    pub exchanges: u64,
    /// Bytes of requests.
    pub bytes_requested: u64,
    /// Bytes of replies.
    pub bytes_replied: u64,
    /// Number of connections that ended in another way than planned.
    pub errors: u64,
}

impl Counts {
    /// Returns the server's counts. Its connections are planned to end after the peer's half-close
    /// or the service's last reply.
    fn of(stats: &Stats) -> Self {
        use lockstep_core::Cause;
        let planned = stats.closed.count(Cause::Eof) + stats.closed.count(Cause::Done);
        Self {
            connections: stats.accepted,
            exchanges: stats.exchanges,
            bytes_requested: stats.bytes_received,
            bytes_replied: stats.bytes_sent,
            errors: stats.closed.total() - planned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clients, Load};

    #[test]
    fn required_backends_match_by_whole_name() {
        assert!(lists("mio, io-uring", "io-uring"));
        assert!(!lists("io-uring-2", "io-uring") && !lists("", "mio"));
    }

    #[test]
    fn equal_counts_are_accepted() {
        let (subject, mut clients) = blocking();
        clients.exchange();
        subject.finish(&clients.finish());
    }

    #[test]
    #[should_panic(expected = "differ from its clients'")]
    fn uncounted_exchange_panics() {
        let (subject, mut clients) = blocking();
        clients.exchange();
        let counts = clients.finish();
        subject.finish(&Counts { exchanges: counts.exchanges - 1, ..counts });
    }

    fn blocking() -> (Subject, Clients) {
        let placement = Placement::of_this_process();
        let backend = lockstep_backends::by_name("blocking").unwrap();
        let subject = Subject::start(backend, lockstep_core::Echo, &placement);
        let clients = Clients::connect(subject.addr(), 3, 100);
        (subject, clients)
    }
}
