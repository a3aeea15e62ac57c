//! State of the realtime clock, as time daemons have set it in the kernel.

use std::io;
use std::mem::MaybeUninit;

/// State of the realtime clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct State {
    /// False if the kernel regards the clock as unsynchronized (`STA_UNSYNC`).
    pub synchronized: bool,
    /// Maximum error, microseconds.
    pub max_error_us: i64,
    /// Estimated error, microseconds.
    pub estimated_error_us: i64,
    /// Offset that is still being corrected, nanoseconds.
    pub offset_ns: i64,
}

/// Reads the state of the realtime clock (adjtimex(2)), which needs no privilege.
///
/// # Errors
///
/// `EPERM` or `ENOSYS` if a sandbox forbids the call.
pub fn state() -> io::Result<State> {
    let mut timex = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the pointer is to a local variable of the expected type. All fields are integers, so
    // zeros are a value of it. `modes` is 0: the call only writes the variable.
    if unsafe { libc::adjtimex(timex.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeros are a value of the type, and so is what the kernel has written.
    let timex = unsafe { timex.assume_init() };
    let unit_ns = if timex.status & libc::STA_NANO != 0 { 1 } else { 1000 };
    Ok(State {
        synchronized: timex.status & libc::STA_UNSYNC == 0,
        max_error_us: timex.maxerror,
        estimated_error_us: timex.esterror,
        offset_ns: timex.offset.saturating_mul(unit_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_read_without_privilege() {
        // A sandbox may forbid the call; what it returns otherwise has the kernel's bounds.
        let Ok(state) = state() else { return };
        assert!((0..=16_000_000).contains(&state.max_error_us), "{state:?}");
        assert!((0..=16_000_000).contains(&state.estimated_error_us), "{state:?}");
        assert!(state.offset_ns.abs() <= 1_000_000_000, "{state:?}");
    }
}
