//! Shared by the server's tests: a client, a server as a child process, and both as the kernel sees
//! them.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod child;
pub(crate) mod client;
pub(crate) mod kernel;
pub(crate) mod metrics;
pub(crate) mod rounds;
pub(crate) mod seccomp;

use std::fmt::Display;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Longest wait for anything that must happen. No test depends on how much of it is used.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Interval at which a condition is checked.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until the condition holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out after {PATIENCE:?} waiting until {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Random bytes, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Reports that this machine lacks `feature`, on the process's standard error, which libtest does
/// not capture. Fails the test if `LOCKSTEP_REQUIRE`, a list of names, contains `feature`.
#[track_caller]
pub(crate) fn skip(feature: &str, cause: impl Display) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    writeln!(io::stderr(), "SKIPPED {test}: {feature}: {cause}").expect("stderr can be written");
    let required = std::env::var("LOCKSTEP_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == feature), "{feature} is required here");
}
