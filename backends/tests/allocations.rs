//! An exchange allocates nothing, on the backends that serve many connections in one thread.
//!
//! The global allocator counts the allocations of the shard's thread; the clients run in other
//! threads. Every round gives the server all its requests together, so that no table still has to
//! grow after the warm-up.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lockstep_core::RECV_MAX;

use common::child::is_available;
use common::rounds::{self, Rounds};

const CONNECTIONS: usize = 64;
const WARM_UP: u64 = 20;
const ROUNDS: u64 = 160;

/// Allocations allowed.
const ALLOCATIONS: u64 = 0;

/// Counts the allocations of the threads that set `COUNTED`.
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

/// One test, so that no other one is counted.
#[test]
fn exchange_allocates_nothing() {
    for backend in ["mio", "io-uring"] {
        if is_available(backend) {
            let allocated = allocations_of(backend);
            assert_eq!(allocated, ALLOCATIONS, "{backend}, in {ROUNDS} rounds of {CONNECTIONS}");
        }
    }
}

fn allocations_of(backend: &str) -> u64 {
    let mut allocated = 0;
    rounds::serve(
        backend,
        CONNECTIONS,
        || COUNTED.set(true),
        |rounds| {
            exchange(rounds, WARM_UP);
            let before = COUNT.load(Relaxed);
            assert_ne!(before, 0, "nothing at all is counted");
            exchange(rounds, ROUNDS);
            allocated = COUNT.load(Relaxed) - before;
        },
    );
    allocated
}

/// Requests of all lengths, the longest among them.
fn exchange(rounds: &mut Rounds, count: u64) {
    for round in 0..count as usize {
        rounds.exchange(RECV_MAX - round * 37 % RECV_MAX);
    }
}
