//! How many descriptors the process may have, and how many a run needs.

use lockstep_sys::limits;

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
    check(limits::raise_open_files(), conns, threads)
}

/// The connections that a limit of descriptors has room for, beside what else is open.
pub fn room(limit: u64) -> u64 {
    limit.saturating_sub(2 * RESERVE)
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
