//! Time slices: while one run is under load, the servers of the others get no request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use loadgen::clients::connection::Service;
use loadgen::clients::engine::Engine;
use loadgen::clients::pattern::Pattern;
use loadgen::clients::plan::{Plan, Share};
use loadgen::clients::slices::{SliceHandle, slices};
use loadgen::clients::socket::Target;
use loadgen::machine::placement::Placement;
use loadgen::run::measure::{Measured, Run, measure};
use loadgen::run::warmup::Warmup;
use lockstep_sys::cpus::allowed;

const RUNS: usize = 3;
const SLICE: Duration = Duration::from_millis(5);
const WINDOW: Duration = Duration::from_millis(60);

/// The server and the instant of each request.
type Requests = Arc<Mutex<Vec<(usize, Instant)>>>;

/// An echo server that notes its requests.
fn serve(number: usize, requests: &Requests) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let requests = Arc::clone(requests);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let requests = Arc::clone(&requests);
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while stream.read_exact(&mut buffer).is_ok() {
                    requests.lock().unwrap().push((number, Instant::now()));
                    stream.write_all(&buffer).unwrap();
                }
            });
        }
    });
    addr
}

fn load(addr: SocketAddr, handle: SliceHandle) -> Measured {
    handle.wait_for_predecessors();
    let run = Run {
        plan: Plan {
            engine: Engine::Epoll,
            target: Target::new(addr),
            service: Service::Echo,
            pattern: Pattern::new(64, 1),
            timeout: Duration::from_secs(50),
            connect_rate: None,
            threads: 2,
            share: Share::WHOLE,
            open: None,
            spin: Duration::ZERO,
            interval_ns: 1_000_000_000,
            slices: Some(handle),
        },
        seed: 1,
        conns: 4,
        requests: None,
        warmup: Warmup::Fixed(SLICE),
        duration: Some(WINDOW),
        placement: Placement { client: allowed().unwrap(), server: None },
        server: None,
        page: None,
        progress: None,
    };
    let (sender, events) = channel();
    measure(&run, None, &sender, &events, &mut ()).unwrap()
}

#[test]
fn slices_load_one_server_at_a_time() {
    let requests = Requests::default();
    let runs: Vec<_> = slices(RUNS, SLICE)
        .into_iter()
        .enumerate()
        .map(|(number, handle)| {
            let addr = serve(number, &requests);
            thread::spawn(move || load(addr, handle))
        })
        .collect();
    for run in runs {
        let measured = run.join().unwrap();
        assert_eq!(measured.totals.failures.total(), 0);
        assert!(
            measured.window >= WINDOW && measured.intervals.total.exchanges > 0,
            "{measured:?}"
        );
    }
    let requests = requests.lock().unwrap();
    let (first, last) = (requests[0].1, requests[requests.len() - 1].1);
    // A slice may last longer, and the end of the window cuts the last one of a run short.
    let slices = (last - first).as_micros() / SLICE.as_micros() + RUNS as u128;
    let changes = requests.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
    assert!(changes > RUNS, "{changes} changes");
    assert!(changes as u128 <= slices + RUNS as u128, "{changes} changes in {slices} slices");
}
