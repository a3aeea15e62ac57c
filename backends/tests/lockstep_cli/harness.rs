//! Runs of `lockstep`, and checks of their end.

use std::ffi::OsStr;

use crate::common::child::{Ended, Process, is_available, lockstep};

/// Runs a rule with a backend, if it can run here.
pub(crate) fn on(backend: &str, rule: impl FnOnce(&str)) {
    if is_available(backend) {
        rule(backend);
    }
}

/// Runs `lockstep`, with nothing on its standard input, until it ends by itself.
pub(crate) fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ended {
    let mut process = Process::start(lockstep(args));
    process.type_end();
    process.wait()
}

/// The command ended with `code`, having printed an error and a hint and nothing else.
#[track_caller]
pub(crate) fn assert_complains(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.status.code(), Some(code), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    let [error, hint] = &ended.stderr[..] else { panic!("not an error and a hint: {ended:?}") };
    assert!(error.starts_with("error: ") && hint.starts_with("hint: "), "{ended:?}");
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

/// The command ended well and printed nothing but `stdout`.
#[track_caller]
pub(crate) fn assert_printed(ended: &Ended, stdout: &[&str]) {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stdout, stdout, "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}
