//! Clients that load a server: connections, the threads that drive them, and their counters.
//!
//! [`worker`] is one thread. Its parts:
//!
//! * [`pattern`]: the bytes of requests, and the check of replies. [`connection`]: one connection,
//!   without system calls.
//! * [`engine`]: epoll and io_uring. [`socket`]: connect, receive, send.
//! * [`schedule`], `pacer`: requests of an open loop, and their sending in time. [`spacing`]: the
//!   check that they were.
//! * [`plan`]: load of all threads. [`clock`], [`control`]: state shared with the main thread.
//!   [`slices`]: runs that are under load alternately.
//! * `counters`, [`intervals`], [`failures`]: counts in all, and by interval.
//!
//! The clients share no protocol code with the servers that they measure: a shared bug would cancel
//! out.

pub mod clock;
pub mod connection;
pub mod control;
pub mod counters;
pub mod engine;
pub mod failures;
pub mod intervals;
mod pacer;
pub mod pattern;
pub mod plan;
pub mod schedule;
pub mod slices;
pub mod socket;
pub mod spacing;
pub mod worker;
