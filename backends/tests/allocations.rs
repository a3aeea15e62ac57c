//! In lockstep, mio and io-uring allocate nothing: what an exchange needs is there before it.
//!
//! The allocator of this process counts, so the process does nothing else while it is counted:
//! one server, whose shard is one thread, and clients that only read and write.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lockstep_backends::{Config, Options, Server, ServiceKind, StartError, by_name};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONNECTIONS: usize = 64;
const WARM_UP: usize = 20;
const ROUNDS: usize = 100;

/// One test, so that nothing else runs while it counts.
#[test]
fn an_exchange_allocates_nothing() {
    for name in ["mio", "io-uring"] {
        let backend = by_name(name).unwrap();
        let options = Options { shards: Some(1), ..Options::default() };
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = Config { backend, listen, service: ServiceKind::Echo, options };
        let server = match Server::start(&config) {
            Ok(server) => server,
            Err(StartError::Unsupported(refused)) if !common::is_required(name) => {
                common::skipped(&format!("no {name}: {refused}"));
                continue;
            }
            Err(error) => panic!("{name} does not start: {error}"),
        };
        let mut clients: Vec<TcpStream> =
            (0..CONNECTIONS).map(|_| TcpStream::connect(server.addr()).unwrap()).collect();

        exchange(&mut clients, WARM_UP);
        let before = ALLOCATIONS.load(Relaxed);
        exchange(&mut clients, ROUNDS);
        let allocations = ALLOCATIONS.load(Relaxed) - before;

        drop(clients);
        server.drain();
        let stats = server.join().unwrap();
        assert_eq!(stats.exchanges, ((WARM_UP + ROUNDS) * CONNECTIONS) as u64);
        assert_eq!(allocations, 0, "{name} allocated in {} exchanges", ROUNDS * CONNECTIONS);
    }
}

/// So many exchanges on every connection: all requests first, and then all replies.
fn exchange(clients: &mut [TcpStream], rounds: usize) {
    let mut reply = [0; 64];
    for round in 0..rounds {
        let request = [round as u8; 64];
        for client in clients.iter_mut() {
            client.write_all(&request).unwrap();
        }
        for client in clients.iter_mut() {
            client.read_exact(&mut reply).unwrap();
            assert_eq!(reply, request);
        }
    }
}
