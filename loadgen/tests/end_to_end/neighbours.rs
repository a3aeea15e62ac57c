//! Other programs on the CPUs of a run.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;

use lockstep_sys::cpus::pin;

use crate::harness::{Running, run, two_cpus};

/// Starts endless loops on one CPU.
fn busy_loops(program: &std::path::Path, cpu: usize) -> Vec<Running> {
    // Programs inherit the CPUs of the thread that starts them.
    let start = || {
        pin(&[cpu]).expect("the CPU may be used");
        let start = |_| Running::start(Command::new(program).args(["-c", "while :; do :; done"]));
        (0..3).map(start).collect()
    };
    thread::scope(|scope| scope.spawn(start).join().expect("the loops start"))
}

#[test]
fn program_that_keeps_a_side_waiting_is_named() {
    let Some(&[quiet, busy, ..]) = two_cpus().as_deref() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("busy-loop");
    symlink("/bin/sh", &program).unwrap();
    let _loops = busy_loops(&program, busy);
    let (quiet, busy) = (quiet.to_string(), busy.to_string());
    for (client, server, word) in
        [(&busy, &quiet, "disturbed"), (&quiet, &busy, "server-disturbed")]
    {
        let args = ["--backend", "mio", "--pin", client, "--server-pin", server, "--conns", "4"];
        let finished = run(&[&args[..], &["-d", "500ms", "-w", "20ms", "--json"]].concat());
        finished.assert_measured();
        let record = finished.record();
        let doubts = format!("{}{}", record["invalid_reasons"], record["warnings"]);
        // Programs of other tests may use more CPU than the loops.
        assert!(doubts.contains(&format!("\"{word}: other programs (most of all ")), "{record}");
    }
}
