//! Open files that a run needs, and the limit of this process.

use lockstep_sys::limits;

/// Descriptors for all else than connections: standard streams, epoll instances, an embedded
/// server's pipes, and those of libraries.
const RESERVE: u64 = 128;

/// Raises the limit of open files to the hard limit, and checks that `conns` connections of
/// `threads` threads fit.
///
/// # Errors
///
/// A text for the user that names the limit and the number needed, if they do not fit.
pub fn raise_descriptors(conns: u32, threads: usize) -> Result<(), String> {
    check(limits::raise_open_files(), conns, threads)
}

/// Returns the number of connections that fit a limit of open files.
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
    fn too_many_connections_name_the_need_and_the_limit() {
        assert_eq!(check(20_000, 10_000, 1), Ok(()));
        let error = check(256, 1000, 1).unwrap_err();
        assert!(error.contains("256") && error.contains("1130"), "{error}");
    }
}
