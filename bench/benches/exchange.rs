//! The exchange alone: the cost that `lockstep-core` adds to a receive and a send. Without sockets
//! and copies; the service is called through a trait object, as in the backends.
//!
//! `exchange/whole/64` is a request of 64 bytes whose reply is sent by one send; in
//! `exchange/short/64` the first send takes only half. One iteration is one exchange.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use lockstep_bench::drop_libtest_arguments;
use lockstep_core::{Echo, Exchange, Op, RECV_MAX, Service};

const SIZES: [usize; 2] = [64, 1024];

fn main() {
    drop_libtest_arguments();
    let mut criterion = Criterion::default()
        .without_plots() // slower than the measurements; `--plotting-backend plotters` draws them
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    exchange(&mut criterion);
    criterion.final_summary();
}

fn exchange(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exchange");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        for (name, first) in [("whole", size), ("short", size / 2)] {
            let mut conversation = Conversation::new(size, first);
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| conversation.exchange());
            });
            conversation.finish();
        }
    }
    group.finish();
}

/// A connection whose peer sends a different request each time.
struct Conversation {
    exchange: Exchange,
    service: Box<dyn Service>,
    buffer: [u8; RECV_MAX],
    /// Bytes of a request.
    size: usize,
    /// Bytes of the reply that the first send takes.
    first: usize,
    exchanges: u64,
    bytes_sent: u64,
}

impl Conversation {
    fn new(size: usize, first: usize) -> Self {
        Self {
            exchange: Exchange::new(),
            service: black_box(Box::new(Echo) as Box<dyn Service>),
            buffer: [0; RECV_MAX],
            size,
            first,
            exchanges: 0,
            bytes_sent: 0,
        }
    }

    /// Receives a request with its number, and sends the reply, which must contain the number, too.
    fn exchange(&mut self) {
        let request = self.exchanges.to_le_bytes();
        self.buffer[..8].copy_from_slice(&request);
        let mut taken = self.first;
        let received = black_box(self.size);
        let mut op = self.exchange.received(&mut *self.service, &mut self.buffer, received);
        while let Op::Send { start, end } = op {
            if start == 0 {
                assert_eq!(self.buffer[..8], request, "the reply differs from its request");
            }
            self.bytes_sent += taken as u64;
            op = self.exchange.sent(black_box(taken));
            taken = usize::from(end) - taken;
        }
        assert_eq!(op, Op::Recv, "an exchange ends the conversation");
        self.exchanges += 1;
    }

    fn finish(self) {
        assert_eq!(self.bytes_sent, self.exchanges * self.size as u64, "not the bytes received");
    }
}
