//! Arguments that `cargo test` hands to every test executable, whatever its harness.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets `cargo test -- --test-threads=1` run the benches.
///
/// criterion refuses libtest's arguments that it does not know and reads its own from the process,
/// so the process is started over without them. `--no-capture` and `--test-threads` mean nothing
/// to a bench.
///
/// # Panics
///
/// If the executable cannot be started again.
pub fn drop_libtest_arguments() {
    let given: Vec<OsString> = env::args_os().skip(1).collect();
    let kept = for_criterion(&given);
    if kept.len() < given.len() {
        let executable = env::current_exe().expect("the path of this executable");
        let error = Command::new(executable).args(kept).exec();
        panic!("cannot start the bench again: {error}");
    }
}

fn for_criterion(given: &[OsString]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut given = given.iter();
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("--no-capture") => {}
            Some("--test-threads") => drop(given.next()),
            Some(text) if text.starts_with("--test-threads=") => {}
            _ => kept.push(argument.clone()),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_criterion_refuses_is_dropped() {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let kept = |text| for_criterion(&words(text));
        assert_eq!(kept("--test-threads=1 mio"), words("mio"));
        assert_eq!(kept("--no-capture --test-threads 1 --nocapture"), words("--nocapture"));
        assert_eq!(kept("--bench round_trip/mio"), words("--bench round_trip/mio"));
    }
}
