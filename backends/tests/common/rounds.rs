//! Rounds in which a shard finds all its requests in the sockets, whatever else the machine does: a
//! service that waits for the test at the first request lets the others queue up.

use std::net::TcpListener;
use std::sync::Barrier;
use std::thread;

use lockstep_backends::{ConnectionLimit, Options, ServiceFactory, Shard, Stats, Stop, by_name};
use lockstep_core::{RECV_MAX, Reply, Service};

use super::client::Client;
use super::{PATIENCE, noise};

/// The request at which the service waits.
const WAIT: &[u8] = b"wait";

/// Echoes; at [`WAIT`], reports to the test that it is waiting, and waits for it.
struct Waiting(&'static Barrier);

impl Service for Waiting {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        if buffer[..count] == *WAIT {
            self.0.wait();
            self.0.wait();
        }
        Reply::Send(count as u16)
    }
}

/// The clients of a shard.
pub(crate) struct Rounds {
    barrier: &'static Barrier,
    first: Client,
    others: Vec<Client>,
    count: u64,
}

impl Rounds {
    /// One exchange on every connection; all but the first one's have `length` bytes.
    pub(crate) fn exchange(&mut self, length: usize) {
        self.count += 1;
        self.first.send(WAIT);
        self.barrier.wait();
        let request = noise(self.count, length);
        for client in &mut self.others {
            client.send(&request);
        }
        self.barrier.wait();
        assert_eq!(self.first.receive(WAIT.len()), WAIT);
        for client in &mut self.others {
            assert!(client.receive(request.len()) == request, "the reply differs");
        }
    }
}

/// Serves `connections` connections with one shard, on a thread that runs `prepare` first, during
/// `test`.
pub(crate) fn serve(
    backend: &str,
    connections: usize,
    prepare: fn(),
    test: impl FnOnce(&mut Rounds),
) -> Stats {
    // The barrier outlives whatever the services of the shard are.
    let barrier: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
    let backend = by_name(backend).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (options, stop) = (Options::default(), Stop::new(PATIENCE).unwrap());
    let limit = ConnectionLimit::new(usize::MAX);
    let service = &ServiceFactory::new(move |_socket| Waiting(barrier));
    thread::scope(|scope| {
        let (options, stop, limit) = (&options, &stop, &limit);
        let shard = scope.spawn(move || {
            prepare();
            let (tracer, published, ready) = (None, None, &|| Ok(()));
            let shard = Shard { listener, options, stop, limit, tracer, published, ready, service };
            backend.serve(shard)
        });
        let first = Client::connect(addr);
        let others = (1..connections).map(|_| Client::connect(addr)).collect();
        let mut rounds = Rounds { barrier, first, others, count: 0 };
        test(&mut rounds);
        stop.drain();
        let count = rounds.count;
        drop(rounds);
        let stats = shard.join().unwrap().unwrap();
        assert_eq!(stats.exchanges, count * connections as u64);
        stats
    })
}
