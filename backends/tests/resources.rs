//! Use of descriptors, memory, CPU time and places in the listen queue, and behaviour without them.
//! Each server is a process of its own, so that its use can be measured.

#![allow(clippy::duplicate_mod, reason = "the cases are there once for each backend")]

mod common;

#[path = "."]
mod blocking {
    const BACKEND: &str = "blocking";
    /// Pages used of the stack of a connection's thread.
    const MEMORY_PER_DEAF_PEER: u64 = 48 * 1024;

    #[path = "resources/cases.rs"]
    mod cases;
}

#[path = "."]
mod poll {
    const BACKEND: &str = "poll";
    /// As for mio.
    const MEMORY_PER_DEAF_PEER: u64 = 4 * 1024;

    #[path = "resources/cases.rs"]
    mod cases;
}

#[path = "."]
mod mio {
    const BACKEND: &str = "mio";
    /// The unsent reply and its bookkeeping.
    const MEMORY_PER_DEAF_PEER: u64 = 4 * 1024;

    #[path = "resources/cases.rs"]
    mod cases;
    #[path = "resources/cases_spin.rs"]
    mod cases_spin;
}

#[path = "."]
mod io_uring {
    const BACKEND: &str = "io-uring";
    /// As for mio.
    const MEMORY_PER_DEAF_PEER: u64 = 4 * 1024;

    #[path = "resources/cases.rs"]
    mod cases;
    #[path = "resources/cases_spin.rs"]
    mod cases_spin;
}
