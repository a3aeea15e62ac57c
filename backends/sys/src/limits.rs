//! Limits of open files and of threads.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory mappings of a thread: its stack and the guard page.
const MAPPINGS_PER_THREAD: usize = 2;

/// Mappings for all else: program, libraries, heaps, and stacks kept for the next thread.
const MAPPINGS_RESERVED: usize = 1024;

/// The default of `vm.max_map_count` (Documentation/admin-guide/sysctl/vm.rst).
const MAPPINGS_DEFAULT: usize = 65_530;

/// Raises the soft limit of open files to the hard limit (`RLIMIT_NOFILE`, getrlimit(2)), and
/// returns the limit that then holds; `u64::MAX` if there is none. Where raising is refused, the
/// limit stays.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let limit = setrlimit(Resource::Nofile, raised).map_or(limit, |()| raised);
    limit.current.unwrap_or(u64::MAX)
}

/// Returns the number of threads that may exist on this machine: the smaller of
/// `kernel.pid_max`, which numbers them, and `kernel.threads-max`. `None` if neither is readable.
pub fn threads_of_machine() -> Option<u64> {
    let read = |name| sysctl(&format!("kernel/{name}"))?.parse().ok();
    ["pid_max", "threads-max"].into_iter().filter_map(read).min()
}

/// Returns the number of threads, of one connection each, that this process has mappings for
/// (`vm.max_map_count`). Without mappings left, an allocation may fail and abort the process.
pub fn threads_of_process() -> usize {
    threads_that_fit(sysctl("vm/max_map_count").and_then(|text| text.parse().ok()))
}

fn threads_that_fit(max_map_count: Option<usize>) -> usize {
    max_map_count.unwrap_or(MAPPINGS_DEFAULT).saturating_sub(MAPPINGS_RESERVED)
        / MAPPINGS_PER_THREAD
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_a_process_leave_mappings_for_all_else() {
        assert_eq!(threads_that_fit(Some(65_530)), 32_253);
        assert_eq!(threads_that_fit(Some(1_048_576)), 523_776);
        assert_eq!(threads_that_fit(None), 32_253);
        assert_eq!(threads_that_fit(Some(7)), 0);
        assert!(threads_of_process() > 0);
        assert!(threads_of_machine().is_some_and(|threads| threads > 1));
    }

    #[test]
    fn raising_open_files_reaches_the_hard_limit() {
        let raised = raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX), raised);
        assert_eq!(raise_open_files(), raised);
    }
}
