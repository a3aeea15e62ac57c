//! A server in this process, and the checks at the end of every test.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use lockstep_backends::{Backend, Config, Options, Server, ServiceFactory, StartError, Stats};
use lockstep_core::Service;

use crate::common::client::Client;
use crate::common::metrics::Metrics;
use crate::common::{PATIENCE, skip};

/// A backend under test, with its tuning.
pub(crate) struct Subject {
    pub(crate) backend: &'static dyn Backend,
    /// Number of threads of the blocking backend, if fixed.
    pub(crate) threads: Option<usize>,
    /// Two shards, each on a CPU of its own if there are two, with connections steered to them.
    pub(crate) steered: bool,
    /// Longest busy-poll.
    pub(crate) spin: Duration,
}

impl Subject {
    pub(crate) const fn of(backend: &'static dyn Backend) -> Self {
        Self { backend, threads: None, steered: false, spin: Duration::ZERO }
    }
}

/// A service without state.
pub(crate) trait TestService: Service + Copy + Send + Sync + 'static {}

impl<S: Service + Copy + Send + Sync + 'static> TestService for S {}

/// A running server. Dropping it drains it.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    server: Option<Server>,
}

/// Options of most tests: one shard, so that all connections meet, unless connections are steered;
/// and time enough to drain on a busy machine.
pub(crate) fn options(subject: &Subject) -> Options {
    options_of(subject, if subject.steered { 2 } else { 1 })
}

/// The same with `shards` shards.
pub(crate) fn options_of(subject: &Subject, shards: usize) -> Options {
    let cpus = if subject.steered { lockstep_sys::cpus::allowed().unwrap() } else { Vec::new() };
    Options {
        shards: Some(shards),
        pin: cpus.into_iter().take(shards).collect(),
        steer: subject.steered,
        threads: subject.threads,
        spin: subject.spin,
        drain_timeout: PATIENCE,
        ..Options::default()
    }
}

/// Starts a server on a loopback port. None, after a note, if the backend cannot run here.
pub(crate) fn start(subject: &Subject, service: impl TestService) -> Option<Running> {
    start_with(subject, service, options(subject))
}

pub(crate) fn start_with(
    subject: &Subject,
    service: impl TestService,
    options: Options,
) -> Option<Running> {
    start_at("127.0.0.1:0".parse().unwrap(), subject, service, options)
}

pub(crate) fn start_at(
    listen: SocketAddr,
    subject: &Subject,
    service: impl TestService,
    options: Options,
) -> Option<Running> {
    lockstep_sys::limits::raise_open_files();
    let backend = subject.backend;
    let service = ServiceFactory::new(move |_socket| service);
    match Server::start(&Config { backend, listen, service, options }) {
        Ok(server) => Some(Running { addr: server.addr(), server: Some(server) }),
        Err(StartError::Unsupported(refused)) => {
            skip(backend.name(), refused);
            None
        }
        Err(error) => panic!("{} does not start: {error}", backend.name()),
    }
}

impl Running {
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    pub(crate) fn connect_many(&self, count: usize) -> Vec<Client> {
        (0..count).map(|_| self.connect()).collect()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics(self.server.as_ref().unwrap().metrics_addr().expect("it has metrics"))
    }

    /// Ends the accept pause.
    pub(crate) fn release(&self) {
        self.server.as_ref().unwrap().accept_pause().end();
    }

    /// Begins to drain; does not wait.
    pub(crate) fn drain(&self) {
        self.server.as_ref().unwrap().drain();
    }

    /// Waits for the end, and checks the counts.
    pub(crate) fn join(mut self) -> Stats {
        let server = self.server.take().unwrap();
        let (sender, receiver) = channel();
        thread::spawn(move || sender.send(server.join()).is_ok());
        // Longer than the drain timeout of `options`.
        let stats = receiver.recv_timeout(PATIENCE + Duration::from_secs(10));
        let stats = stats.expect("the server has not ended").expect("a shard failed");
        assert_eq!(stats.accepted, stats.closed.total(), "as many accepted as closed: {stats:?}");
        assert!(stats.connections_peak <= stats.accepted, "{stats:?}");
        stats
    }

    /// Drains the server; no connection may be cut.
    pub(crate) fn stop(self) -> Stats {
        self.drain();
        let stats = self.join();
        assert_eq!(stats.drain_cut, 0, "{stats:?}");
        stats
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.drain();
        }
    }
}
