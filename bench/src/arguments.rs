//! Arguments that `cargo test` passes to every test executable, whatever its harness.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Removes arguments of libtest, so that `cargo test -- --test-threads=1` runs the benches.
///
/// criterion rejects arguments of libtest that it does not know, and reads its own from the
/// process. So this function executes the program again without them. `--no-capture` and
/// `--test-threads` have no effect on a bench.
///
/// # Panics
///
/// If execve(2) fails.
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
    fn only_arguments_that_criterion_rejects_are_dropped() {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let kept = |text| for_criterion(&words(text));
        assert_eq!(kept("--test-threads=1 mio"), words("mio"));
        assert_eq!(kept("--no-capture --test-threads 1 --nocapture"), words("--nocapture"));
        assert_eq!(kept("--bench round_trip/mio"), words("--bench round_trip/mio"));
    }
}
