//! How many threads this process has room for.

use std::fs;

/// What a thread takes of the mappings that a process may have: its stack, and the one on which Rust
/// handles an overflow of it, each with a guard page.
const MAPPINGS_EACH: usize = 4;

/// Mappings for all else: program, libraries, heaps, and stacks that are kept for the next thread.
const RESERVE: usize = 1024;

/// The default of `vm.max_map_count` (Documentation/admin-guide/sysctl/vm.rst).
const MAPPINGS_DEFAULT: usize = 65_530;

/// The most threads that may be alive. One more may get its stack and then find no room for the
/// other one, at which std aborts the process (`stack_overflow.rs`): so nobody may try.
pub(super) fn threads_max() -> usize {
    threads_that_fit(&fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default())
}

fn threads_that_fit(max_map_count: &str) -> usize {
    let mappings = max_map_count.trim().parse().unwrap_or(MAPPINGS_DEFAULT);
    mappings.saturating_sub(RESERVE) / MAPPINGS_EACH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_leaves_room_for_all_else() {
        assert_eq!(threads_that_fit("65530\n"), 16_126);
        assert_eq!(threads_that_fit("1048576\n"), 261_888);
        assert_eq!(threads_that_fit(""), threads_that_fit("65530"));
        assert_eq!(threads_that_fit("7"), 0);
    }
}
