//! What a server uses up, and what it does when there is no more: descriptors, memory, processor
//! time, and places in the listen queue. Each server is a process of its own, so that what is
//! counted is its alone.

#![allow(clippy::duplicate_mod, reason = "the cases are there once for each backend")]

mod common;

#[path = "."]
mod blocking {
    const BACKEND: &str = "blocking";
    /// A conversation has a thread, and a thread a stack: so many bytes of it are used.
    const MEMORY_PER_DEAF_PEER: u64 = 48 * 1024;

    #[path = "resources/cases.rs"]
    mod cases;
}

#[path = "."]
mod mio {
    const BACKEND: &str = "mio";
    /// The reply that is not sent yet, and what goes with it.
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
