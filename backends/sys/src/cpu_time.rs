//! CPU time of a thread and of whole processes, in nanoseconds.

use std::mem::MaybeUninit;

use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

/// Returns the CPU time that the calling thread has used.
#[inline]
pub fn of_this_thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Returns the CPU time that all threads of this process have used, including those that have
/// ended.
pub fn of_this_process_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What the threads of a process have used since its start, including those that have ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub system_us: u64,
    /// Voluntary and involuntary context switches.
    pub context_switches: u64,
}

/// Returns what the threads of this process have used (getrusage(2), `RUSAGE_SELF`).
pub fn usage_of_this_process() -> Usage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a local variable of the expected type.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: every field is an integer, and zeroed where the call has not written it.
    let usage = unsafe { usage.assume_init() };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Usage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        context_switches: (usage.ru_nvcsw + usage.ru_nivcsw) as u64,
    }
}

/// Returns the CPU time that all threads of a process have used, including those that have ended
/// (clock_getcpuclockid(3)); `None` if the process is gone.
///
/// `/proc/PID/stat` has it as well, but in clock ticks of usually ten milliseconds.
pub fn of_process_ns(pid: Pid) -> Option<u64> {
    let mut clock = 0;
    // SAFETY: the pointer is to a local variable of the expected type.
    let result = unsafe { libc::clock_getcpuclockid(pid.as_raw_nonzero().get(), &raw mut clock) };
    if result != 0 {
        return None;
    }
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to a local variable of the expected type.
    let result = unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so it has written the whole value.
    let time = unsafe { time.assume_init() };
    Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn cpu_time_grows_with_work() {
        let process = of_process_ns(rustix::process::getpid());
        let thread = of_this_thread_ns();
        let mut sum = 0u64;
        while of_this_thread_ns() < thread + 20_000_000 {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        std::hint::black_box(sum);
        assert!(of_process_ns(rustix::process::getpid()) >= process.map(|ns| ns + 20_000_000));
        // The kernel splits the same time; the two readings are not of the same instant.
        let usage = usage_of_this_process();
        assert!((usage.user_us + usage.system_us) * 1000 <= of_this_process_ns());
    }

    #[test]
    fn cpu_time_of_a_child_is_readable_until_it_is_waited_for() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("there is sleep(1)");
        let pid = Pid::from_child(&child);
        let mut used = of_process_ns(pid);
        for _ in 0..1000 {
            if used != Some(0) {
                break;
            }
            thread::sleep(Duration::from_millis(5));
            used = of_process_ns(pid);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(used.is_some_and(|ns| ns > 0), "{used:?}");
        assert_eq!(of_process_ns(pid), None);
    }
}
