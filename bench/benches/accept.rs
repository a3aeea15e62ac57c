//! A whole connection over loopback: connect, request, reply, close.
//!
//! The service is `hi`, which replies once and closes. In `accept/mio/1` one client connects after
//! another; in `accept/mio/64`, 64 connect and send before the first receives, so that the server
//! finds many in its queue. One iteration is one client or 64, so the throughput in elements is
//! connections per second.
//!
//! With two or more CPUs the server is pinned to the first and the clients to the last; see
//! [`Placement`]. The server closes first, so no client's port waits in TIME_WAIT: see
//! [`OneShots`].
//!
//! Every client must receive `hi` and then the end. In the end the server must have counted the
//! same connections, exchanges and bytes as its clients.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use lockstep_bench::{OneShots, Pair, Placement, Subject, backends, drop_libtest_arguments};
use lockstep_core::Hi;
use lockstep_sys::limits::raise_open_files;

/// Numbers of clients that connect at a time.
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
            let mut pair = Pair::new(|| {
                let subject = Subject::start(backend, Hi, placement);
                let clients = OneShots::new(subject.addr(), clients);
                (subject, clients)
            });
            group.bench_function(BenchmarkId::new(backend.name(), clients), |bencher| {
                bencher.iter_custom(|batches| pair.measure(batches));
            });
            pair.finish();
        }
    }
    group.finish();
}
