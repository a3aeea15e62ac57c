//! The realtime clock: its state, and the boot that its readings belong to.

use std::fs;

use lockstep_results::{ClockState, digest};
use lockstep_sys::realtime;

/// Reads the state of the realtime clock; `None` if a sandbox forbids it.
pub fn state() -> Option<ClockState> {
    realtime::state().ok().map(|state| {
        // systemd-timesyncd sets errors of 0 without knowing them.
        let known = |us: i64| u64::try_from(us).ok().filter(|&us| us > 0);
        ClockState {
            synchronized: state.synchronized,
            max_error_us: known(state.max_error_us),
            estimated_error_us: known(state.estimated_error_us),
            offset_ns: state.offset_ns,
        }
    })
}

/// Returns a digest of the identifier of this boot; `None` if /proc is not mounted.
pub fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(digest(id.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_has_one_digest() {
        let boot = boot().unwrap();
        assert_eq!(boot.len(), 16);
        assert_eq!(Some(boot), super::boot());
    }
}
