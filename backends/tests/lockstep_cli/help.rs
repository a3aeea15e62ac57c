//! Help of every command, and the table of backends.

use crate::common::child::Ended;
use crate::harness::{assert_complains, run};

#[test]
fn help_has_examples_and_exit_codes() {
    for args in [&["--help"][..], &["serve", "--help"], &["talk", "--help"]] {
        let help = assert_readable(&run(args));
        for part in ["Examples:", "Exit codes:", "  lockstep "] {
            assert!(help.contains(part), "{args:?} has no {part:?}: {help}");
        }
    }
}

#[test]
fn help_of_every_command_fits_a_terminal() {
    for command in [&[][..], &["serve"], &["talk"], &["backends"]] {
        for help in ["-h", "--help"] {
            assert_readable(&run([command, &[help]].concat()));
        }
    }
}

#[test]
fn table_of_backends_fits_a_terminal() {
    let table = assert_readable(&run(["backends"]));
    for backend in ["blocking", "poll", "mio", "io-uring"] {
        assert!(table.contains(&format!(" {backend} ")), "{table}");
    }
}

/// Returns the output; no line may be longer than 80 columns.
#[track_caller]
fn assert_readable(ended: &Ended) -> String {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
    assert!(ended.stdout.iter().all(|line| line.chars().count() <= 80), "{ended:?}");
    ended.stdout.join("\n")
}

#[test]
fn missing_command_prints_the_help() {
    let ended = run([""; 0]);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.stderr.iter().any(|line| line.starts_with("Usage: lockstep")), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
}

#[test]
fn bad_value_is_one_error_that_names_the_option() {
    for (args, parts) in [
        (["--backend", "x"], ["--backend", "'x'", "values: auto, io-uring, mio, blocking, poll"]),
        (["--idle-timeout", "5"], ["--idle-timeout", "'5'", "write 5s"]),
        (["--accept-pause", "5"], ["--accept-pause", "'5'", "write 5s"]),
        (["--shards", "0"], ["--shards", "'0'", "at least 1"]),
        (["--pin", "x"], ["--pin", "'x'", "0,2-3"]),
        (["--pin", "5000"], ["--pin", "'5000'", "no CPU 5000"]),
    ] {
        let ended = run([&["serve", "--listen", "127.0.0.1:0"][..], &args].concat());
        assert_complains(&ended, 2, &parts);
    }
}

#[test]
fn missing_cpus_are_refused() {
    for shards in ["1", "2"] {
        let args = ["serve", "--listen=127.0.0.1:0", "--backend=mio", "--pin=900", "--shards"];
        assert_complains(&run([&args[..], &[shards]].concat()), 2, &["900"]);
    }
}
