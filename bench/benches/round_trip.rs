//! A round trip over loopback: each client sends a request, and each waits for its reply.
//!
//! `round_trip/mio/64x1024` has 64 connections and requests of 1,024 bytes. One iteration is one
//! exchange on every connection: one thread with blocking sockets sends all requests, then receives
//! all replies. So the throughput in elements is exchanges per second, and the time is that of a
//! whole batch.
//!
//! With two or more CPUs the server is pinned to the first and the clients to the last; see
//! [`Placement`]. A side that has nothing to do sleeps, and the other side's next send wakes it on
//! another CPU, which costs more than the exchange. With one connection that happens in every
//! exchange, and with 64 still in many. So this bench shows whether a change of a backend makes its
//! round trip slower; `loadgen` measures what a busy server costs per exchange.
//!
//! Every byte of every reply is compared. In the end the server must have counted the same
//! connections, exchanges and bytes as its clients.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use lockstep_bench::{Clients, Pair, Placement, Subject, backends, drop_libtest_arguments};
use lockstep_core::Echo;
use lockstep_sys::limits::raise_open_files;

const CONNECTIONS: [usize; 3] = [1, 64, 1000];
const SIZES: [usize; 2] = [64, 1024];

/// Descriptors for all else than both ends of the connections.
const DESCRIPTORS_RESERVED: u64 = 64;

fn main() {
    drop_libtest_arguments();
    let placement = Placement::of_this_process();
    placement.pin_client();
    let mut criterion = Criterion::default()
        .without_plots() // slower than the measurements; `--plotting-backend plotters` draws them
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    round_trip(&mut criterion, &placement);
    criterion.final_summary();
}

fn round_trip(criterion: &mut Criterion, placement: &Placement) {
    let mut group = criterion.benchmark_group("round_trip");
    group.sampling_mode(SamplingMode::Flat); // a batch of 1,000 takes milliseconds
    let limit = raise_open_files();
    for backend in backends() {
        for connections in CONNECTIONS {
            let needed = 2 * connections as u64 + DESCRIPTORS_RESERVED;
            if needed > limit {
                let name = backend.name();
                eprintln!("SKIPPED {name}/{connections}: {needed} open files, but only {limit}");
                continue;
            }
            group.throughput(Throughput::Elements(connections as u64));
            for size in SIZES {
                let mut pair = Pair::new(|| {
                    let subject = Subject::start(backend, Echo, placement);
                    let clients = Clients::connect(subject.addr(), connections, size);
                    (subject, clients)
                });
                let id = BenchmarkId::new(backend.name(), format!("{connections}x{size}"));
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|batches| pair.measure(batches));
                });
                pair.finish();
            }
        }
    }
    group.finish();
}
