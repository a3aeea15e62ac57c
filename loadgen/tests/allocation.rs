//! An exchange allocates nothing in the generator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use loadgen::clients::connection::Service;
use loadgen::clients::engine::Engine;
use loadgen::clients::pattern::Pattern;
use loadgen::clients::plan::{Plan, Share};
use loadgen::clients::schedule::{Arrivals, OpenLoop};
use loadgen::clients::socket::Target;
use loadgen::machine::placement::Placement;
use loadgen::run::measure::{Run, measure};
use loadgen::run::warmup::Warmup;
use lockstep_sys::cpus::allowed;

/// Counts allocations.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller upholds the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Number of allocations in a run of `requests` exchanges. The server allocates nothing for an
/// exchange.
fn allocations(engine: Engine, requests: u64, open: Option<OpenLoop>) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let run = Run {
        plan: Plan {
            engine,
            target: Target::new(addr),
            service: Service::Echo,
            pattern: Pattern::new(64, 1),
            timeout: Duration::from_secs(50),
            connect_rate: None,
            threads: 1,
            share: Share::WHOLE,
            open,
            spin: Duration::ZERO,
            interval_ns: 100_000_000,
            slices: None,
        },
        seed: 1,
        conns: 8,
        requests: Some(requests),
        warmup: Warmup::Fixed(Duration::ZERO),
        duration: None,
        placement: Placement { client: allowed().unwrap(), server: None },
        server: None,
        page: None,
        progress: None,
    };
    let (sender, events) = channel();
    let before = ALLOCATIONS.load(Relaxed);
    let measured = measure(&run, None, &sender, &events, &mut ()).expect("the run succeeds");
    let allocations = ALLOCATIONS.load(Relaxed) - before;
    assert_eq!(measured.intervals.total.exchanges, requests);
    allocations
}

#[test]
fn exchange_allocates_nothing() {
    // One after the other, since allocations are counted for the whole process.
    let arrivals = [None, Some(Arrivals::Constant), Some(Arrivals::Poisson)];
    let cases = Engine::value_variants()
        .iter()
        .copied()
        .flat_map(|engine| arrivals.map(|how| (engine, how)));
    for (engine, arrivals) in cases {
        let rate = |arrivals| OpenLoop { rate: 20_000.0, arrivals, spin: Duration::ZERO, seed: 1 };
        let open = arrivals.map(rate);
        allocations(engine, 100, open); // Allocations that happen once.
        let (few, many) = (allocations(engine, 1_000, open), allocations(engine, 31_000, open));
        // The main thread allocates now and then, whatever the number of exchanges.
        let counts = format!("{few} for 1,000 exchanges, {many} for 31,000");
        assert!(many < few + 300, "{engine:?}, {arrivals:?}: {counts}");
    }
}
