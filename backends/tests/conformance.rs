//! One suite of rules over real sockets, the same for every backend.
//!
//! A rule is an ordinary test in one of the files of `conformance/`. Each backend, and each tuning
//! of one, is a module here that contains them all. A backend that this machine does not support is
//! skipped with a note, unless it is named in the environment variable `LOCKSTEP_REQUIRE`
//! (`blocking,poll,mio,io-uring`).

#![allow(clippy::duplicate_mod, reason = "the cases are there once for each backend")]

mod common;

#[path = "conformance/harness.rs"]
mod harness;

#[path = "../examples/backend.rs"]
#[allow(dead_code, unreachable_pub, reason = "main is the example's own")]
mod example;

use std::time::Duration;

use lockstep_backends::blocking::Blocking;
use lockstep_backends::io_uring::IoUring;
use lockstep_backends::mio::Mio;
use lockstep_backends::poll::Poll;
use lockstep_backends::{BACKENDS, Backend};

use harness::Subject;

/// A thread per connection.
#[path = "."]
mod blocking {
    use super::{Blocking, Subject};

    const SUBJECT: Subject = Subject::of(&Blocking);

    #[path = "conformance/cases.rs"]
    mod cases;
}

/// More threads than any test has open connections.
#[path = "."]
mod blocking_threads {
    use super::{Blocking, Subject};

    const SUBJECT: Subject = Subject { threads: Some(80), ..Subject::of(&Blocking) };

    #[path = "conformance/cases.rs"]
    mod cases;
    #[path = "conformance/cases_threads.rs"]
    mod cases_threads;
}

#[path = "."]
mod mio {
    use super::{Mio, Subject};

    const SUBJECT: Subject = Subject::of(&Mio);

    #[path = "conformance/cases.rs"]
    mod cases;
}

#[path = "."]
mod poll {
    use super::{Poll, Subject};

    const SUBJECT: Subject = Subject::of(&Poll);

    #[path = "conformance/cases.rs"]
    mod cases;
}

/// Two shards, each on a CPU of its own.
#[path = "."]
mod mio_steered {
    use super::{Mio, Subject};

    const SUBJECT: Subject = Subject { steered: true, ..Subject::of(&Mio) };

    #[path = "conformance/cases.rs"]
    mod cases;
    #[path = "conformance/cases_steered.rs"]
    mod cases_steered;
}

#[path = "."]
mod mio_spinning {
    use super::{Duration, Mio, Subject};

    const SUBJECT: Subject = Subject { spin: Duration::from_micros(200), ..Subject::of(&Mio) };

    #[path = "conformance/cases.rs"]
    mod cases;
    #[path = "conformance/cases_spin.rs"]
    mod cases_spin;
}

#[path = "."]
mod io_uring {
    use super::{IoUring, Subject};

    const SUBJECT: Subject = Subject::of(&IoUring::DEFAULT);

    #[path = "conformance/cases.rs"]
    mod cases;
}

#[path = "."]
mod io_uring_steered {
    use super::{IoUring, Subject};

    const SUBJECT: Subject = Subject { steered: true, ..Subject::of(&IoUring::DEFAULT) };

    #[path = "conformance/cases.rs"]
    mod cases;
    #[path = "conformance/cases_steered.rs"]
    mod cases_steered;
}

#[path = "."]
mod io_uring_spinning {
    use super::{Duration, IoUring, Subject};

    const SUBJECT: Subject =
        Subject { spin: Duration::from_micros(200), ..Subject::of(&IoUring::DEFAULT) };

    #[path = "conformance/cases.rs"]
    mod cases;
    #[path = "conformance/cases_spin.rs"]
    mod cases_spin;
}

/// Fewer buffers than some tests have requests in flight.
#[path = "."]
mod io_uring_few_buffers {
    use super::{IoUring, Subject};

    const FEW: IoUring = IoUring { buffers: 16 };
    const SUBJECT: Subject = Subject::of(&FEW);

    #[path = "conformance/cases.rs"]
    mod cases;
    #[path = "conformance/cases_buffers.rs"]
    mod cases_buffers;
}

/// A backend from outside of the crate.
#[path = "."]
mod example_backend {
    use super::{Subject, example};

    const SUBJECT: Subject = Subject::of(&example::InTurn);

    #[path = "conformance/cases.rs"]
    mod cases;
}

#[test]
fn every_backend_is_under_test() {
    let mut under_test = [Blocking.name(), Poll.name(), Mio.name(), IoUring::DEFAULT.name()];
    let mut known: Vec<_> = BACKENDS.iter().map(|backend| backend.name()).collect();
    under_test.sort_unstable();
    known.sort_unstable();
    assert_eq!(known, under_test, "a backend without a module here, or the reverse");
}
