//! A run on a free machine is valid: the generator is neither full nor late.

use std::time::{Duration, Instant};

use crate::harness::{run_with, two_cpus, with_each_engine};

with_each_engine! {
    closed_loop_run_is_valid_on_a_free_machine
    constant_rate_run_is_valid_on_a_free_machine
    poisson_rate_run_is_valid_on_a_free_machine
}

/// Repeats a short run until it is valid. Other programs can spoil any one of them. A generator
/// that is itself too slow or too late spoils all.
#[track_caller]
fn assert_becomes_valid(engine: &str, load: &[&str]) {
    let brief = ["--backend", "mio", "--no-floor", "-d", "100ms", "--warmup", "20ms", "--json"];
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let finished = run_with(engine, &[&brief[..], load].concat());
        match finished.code {
            Some(0) => return,
            Some(8) if Instant::now() < deadline => {}
            _ => panic!("{finished:#?}"),
        }
    }
}

fn closed_loop_run_is_valid_on_a_free_machine(engine: &str) {
    if two_cpus().is_some() {
        assert_becomes_valid(engine, &["--conns", "1"]);
    }
}

fn constant_rate_run_is_valid_on_a_free_machine(engine: &str) {
    if two_cpus().is_some() {
        assert_becomes_valid(engine, &["--conns", "4", "--rate", "200"]);
    }
}

fn poisson_rate_run_is_valid_on_a_free_machine(engine: &str) {
    if two_cpus().is_some() {
        let load = ["--conns", "4", "--rate", "200", "--arrivals", "poisson"];
        assert_becomes_valid(engine, &load);
    }
}
