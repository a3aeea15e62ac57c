//! How many descriptors the process may have, and how many a run needs.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside the connections: standard streams, epoll instances, an embedded server's
/// pipes, and what the libraries hold.
const RESERVE: u64 = 128;

/// Raises the limit of open descriptors as far as it may be raised, and checks that `conns`
/// connections of `threads` threads fit.
///
/// # Errors
///
/// One line that names the limit and the number needed.
pub fn raise_descriptors(conns: u32, threads: usize) -> Result<(), String> {
    match raise() {
        Some(limit) => check(limit, conns, threads),
        None => Ok(()),
    }
}

/// Raises the limit of open descriptors as far as it may be raised (getrlimit(2), hard limit), and
/// returns it.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Where raising is refused, it stays the old limit.
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let _ = setrlimit(Resource::Nofile, raised);
    }
    getrlimit(Resource::Nofile).current
}

/// The connections that a limit of descriptors has room for, beside what else is open.
pub fn room(limit: u64) -> u64 {
    limit.saturating_sub(2 * RESERVE)
}

/// The threads that may exist on this machine: the smaller of `kernel.pid_max`, which numbers them,
/// and `kernel.threads-max`; `None` where neither can be read.
pub fn threads() -> Option<u64> {
    let read = |name| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    ["pid_max", "threads-max"].into_iter().filter_map(read).min()
}

fn check(limit: u64, conns: u32, threads: usize) -> Result<(), String> {
    let needed = u64::from(conns) + 2 * threads as u64 + RESERVE;
    if needed <= limit {
        return Ok(());
    }
    Err(format!(
        "--conns {conns} needs {needed} open files, and the limit of this process is {limit}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_and_the_need_are_named() {
        assert_eq!(check(20_000, 10_000, 1), Ok(()));
        let error = check(256, 1000, 1).unwrap_err();
        assert!(error.contains("256") && error.contains("1130"), "{error}");
    }
}
