//! An exchange allocates nothing, on the backends that serve many connections in one thread.
//!
//! The global allocator counts what the shard's thread allocates; the clients run in other
//! threads. Every round gives the server all its requests at once: a service that waits for the
//! test at the first of them lets the rest pile up. So nothing is left that could still have to
//! grow after the warm-up.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::TcpListener;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use lockstep_backends::{Admission, Options, Shard, Stop, by_name};
use lockstep_core::{RECV_MAX, Reply, Service};

use common::child::is_available;
use common::client::Client;
use common::{PATIENCE, noise};

const CONNECTIONS: usize = 64;
const WARM_UP: u64 = 20;
const ROUNDS: u64 = 160;

/// The request at which the service waits.
const WAIT: &[u8] = b"wait";

/// What an exchange may allocate.
const ALLOCATIONS: u64 = 0;

/// Counts the allocations of the threads that ask for it.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: it is the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(u64::from(COUNTED.get()), Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as for the caller.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(u64::from(COUNTED.get()), Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Echoes, and waits for the test where it is asked to: once to say that it is there, once to be
/// let go on.
struct Waiting<'a>(&'a Barrier);

impl Service for Waiting<'_> {
    fn reply(&mut self, buffer: &mut [u8; RECV_MAX], count: usize) -> Reply {
        if buffer[..count] == *WAIT {
            self.0.wait();
            self.0.wait();
        }
        Reply::Send(count as u16)
    }
}

/// One test, so that nothing else is counted.
#[test]
fn an_exchange_allocates_nothing() {
    for backend in ["mio", "io-uring"] {
        if is_available(backend) {
            let allocated = allocations_of(backend);
            assert_eq!(allocated, ALLOCATIONS, "{backend}, in {ROUNDS} rounds of {CONNECTIONS}");
        }
    }
}

fn allocations_of(backend: &str) -> u64 {
    // The barrier outlives whatever the services of the shard are.
    let barrier: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
    let backend = by_name(backend).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (options, stop) = (Options::default(), Stop::new(PATIENCE).unwrap());
    let admission = Admission::new(usize::MAX);
    let service = || -> Box<dyn Service> { Box::new(Waiting(barrier)) };
    let service: &(dyn Fn() -> Box<dyn Service> + Sync) = &service;
    thread::scope(|scope| {
        let (options, stop, admission) = (&options, &stop, &admission);
        let shard = scope.spawn(move || {
            COUNTED.set(true);
            backend.serve(Shard { listener, options, stop, admission, narrator: None, service })
        });
        let mut first = Client::connect(addr);
        let mut others: Vec<_> = (1..CONNECTIONS).map(|_| Client::connect(addr)).collect();
        let mut rounds = |count| {
            for round in 0..count {
                exchange_all(barrier, &mut first, &mut others, round);
            }
        };
        rounds(WARM_UP);
        let before = COUNT.load(Relaxed);
        assert_ne!(before, 0, "nothing at all is counted");
        rounds(ROUNDS);
        let allocated = COUNT.load(Relaxed) - before;

        stop.drain();
        drop((first, others));
        let stats = shard.join().unwrap().unwrap();
        assert_eq!(stats.exchanges, (WARM_UP + ROUNDS) * CONNECTIONS as u64);
        allocated
    })
}

fn exchange_all(barrier: &Barrier, first: &mut Client, others: &mut [Client], round: u64) {
    first.say(WAIT);
    barrier.wait();
    let request = noise(round, 1 + round as usize * 37 % RECV_MAX);
    for client in &mut *others {
        client.say(&request);
    }
    barrier.wait();
    assert_eq!(first.hear(WAIT.len()), WAIT);
    for client in others {
        assert!(client.hear(request.len()) == request, "the reply differs");
    }
}
