//! System calls per exchange, by the server's own count. Every iteration finds its requests in the
//! sockets, so the result does not depend on timing.

mod common;

use common::child::is_available;
use common::rounds;

const CONNECTIONS: usize = 1000;

/// Enough rounds to make the calls of accepting and closing negligible.
const ROUNDS: usize = 100;

/// A receive and a send, and a share of the wait.
#[test]
fn mio_needs_one_receive_and_one_send_per_exchange() {
    for length in [64, 1024] {
        let per_exchange = per_exchange("mio", length);
        assert!(per_exchange <= 2.1, "{per_exchange} for {length} bytes");
        assert!(per_exchange >= 2.0, "{per_exchange} for {length} bytes: who counts?");
    }
}

/// One call submits the replies of an iteration and waits for the next one.
#[test]
fn io_uring_needs_a_fraction_of_a_call_per_exchange() {
    if !is_available("io-uring") {
        return;
    }
    for length in [64, 1024] {
        let per_exchange = per_exchange("io-uring", length);
        assert!(per_exchange <= 0.1, "{per_exchange} for {length} bytes");
    }
}

fn per_exchange(backend: &str, length: usize) -> f64 {
    lockstep_sys::limits::raise_open_files();
    let stats = rounds::serve(
        backend,
        CONNECTIONS,
        || (),
        |rounds| {
            for _ in 0..ROUNDS {
                rounds.exchange(length);
            }
        },
    );
    stats.syscalls_per_exchange().expect("there were exchanges")
}
