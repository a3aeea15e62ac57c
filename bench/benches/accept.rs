//! A connection's whole life over loopback: connect, request, reply, close.
//!
//! The service is `hi`, the tutorial's one-shot server. In `accept/mio/1` one client comes after
//! the other; in `accept/mio/64`, 64 connect and send before the first of them listens, so that
//! the server finds many in its queue at once. One iteration is one client or 64, so the
//! throughput in elements is connections per second.
//!
//! With two or more processors the server is pinned to the first and the clients to the last; see
//! [`Placement`]. The server closes first, so no client's port waits in TIME_WAIT: see
//! [`OneShots`].
//!
//! Every client must hear `hi` and then the end, and in the end the server must have counted the
//! same connections, exchanges and bytes as its clients.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use lockstep_backends::Backend;
use lockstep_bench::{OneShots, Placement, Subject, backends, drop_libtest_arguments};
use lockstep_core::Hi;
use lockstep_sys::limits::raise_open_files;

/// How many clients come at a time.
const CLIENTS: [usize; 2] = [1, 64];

fn main() {
    drop_libtest_arguments();
    let placement = Placement::of_this_process();
    placement.pin_client();
    raise_open_files();
    let mut criterion = Criterion::default()
        .without_plots() // slower than the measurements; `--plotting-backend plotters` draws them
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    accept(&mut criterion, &placement);
    criterion.final_summary();
}

fn accept(criterion: &mut Criterion, placement: &Placement) {
    let mut group = criterion.benchmark_group("accept");
    group.sampling_mode(SamplingMode::Flat);
    for backend in backends() {
        for clients in CLIENTS {
            group.throughput(Throughput::Elements(clients as u64));
            let id = BenchmarkId::new(backend.name(), clients);
            let mut pair = None;
            group.bench_function(id, |bencher| {
                // Not before the bench runs: it may have been filtered out.
                let start = || start(backend, clients, placement);
                let (_, clients) = pair.get_or_insert_with(start);
                bencher.iter_custom(|batches| exchange(clients, batches));
            });
            if let Some((subject, clients)) = pair {
                subject.finish(&clients.finish());
            }
        }
    }
    group.finish();
}

fn start(
    backend: &'static dyn Backend,
    clients: usize,
    placement: &Placement,
) -> (Subject, OneShots) {
    let subject = Subject::start(backend, Hi, placement);
    let clients = OneShots::new(subject.addr(), clients);
    (subject, clients)
}

fn exchange(clients: &mut OneShots, batches: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..batches {
        clients.exchange();
    }
    start.elapsed()
}
