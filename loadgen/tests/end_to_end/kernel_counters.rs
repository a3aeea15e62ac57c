//! The command's counts equal the kernel's.

use std::fs;
use std::thread;

use lockstep_sys::netns;

use crate::harness::{Finished, run, skip};

/// A TCP counter of this thread's network namespace (proc_pid_net(5)).
fn counter(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let index = names.split(' ').position(|found| found == name).unwrap();
    values.split(' ').nth(index).unwrap().parse().unwrap()
}

/// Runs the command in its own network namespace. Also returns the kernel's number of connects in
/// it. `None` where namespaces are not allowed.
fn run_in_namespace(args: &'static [&str]) -> Option<(Finished, u64)> {
    let thread = thread::spawn(move || {
        netns::enter()?;
        let finished = run(args);
        Ok::<_, std::io::Error>((finished, counter("ActiveOpens")))
    });
    match thread.join().unwrap() {
        Ok(ran) => Some(ran),
        Err(error) => {
            skip("netns", error);
            None
        }
    }
}

#[test]
fn connect_count_equals_the_kernels_active_opens() {
    for args in [
        &["--conns", "50", "-n", "500", "--warmup", "0", "--backend", "mio", "--json"][..],
        &[
            "--service",
            "hi",
            "--conns",
            "7",
            "-n",
            "90",
            "--warmup",
            "0",
            "--backend",
            "blocking",
            "--json",
        ],
        &["--conns", "9", "--rate", "1k", "-d", "200ms", "--backend", "mio", "--json"],
    ] {
        let Some((finished, opened)) = run_in_namespace(args) else { return };
        let record = finished.record();
        assert_eq!(record["errors_total"], 0, "{record}");
        assert_eq!(record["latency"]["connect"]["count"], opened, "{args:?}");
    }
}
