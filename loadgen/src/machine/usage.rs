//! CPU time and context switches of processes and threads (proc(5)).

use std::collections::HashMap;

use procfs::process::{Process, Status, Task};
use rustix::param::clock_ticks_per_second;
use rustix::process::Pid;
use rustix::thread::gettid;
use rustix::time::{ClockId, Timespec, clock_gettime};

use lockstep_sys::cpu_time;

/// Number of threads, at most, whose context switches and affinity are read. Each takes some tens
/// of microseconds of a CPU that the generator needs meanwhile.
pub const THREADS_READ: usize = 64;

/// CPU time and context switches of a process or a thread since its start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// Part of the CPU time in user mode, in clock ticks (sysconf(3), `_SC_CLK_TCK`).
    pub user_ticks: u64,
    /// Part of the CPU time in the kernel, in clock ticks.
    pub system_ticks: u64,
    /// CPU time of children that have ended and were waited for, in clock ticks.
    pub children_ticks: u64,
    /// Voluntary and involuntary context switches of the threads that exist; `None` if these are
    /// more than [`THREADS_READ`].
    pub context_switches: Option<u64>,
    /// Time for which the threads that exist were ready to run without a CPU, nanoseconds; `None`
    /// if these are more than [`THREADS_READ`], or if the kernel does not account it
    /// (sched-stats.rst).
    pub waited_ns: Option<u64>,
}

impl Usage {
    /// Returns the usage from `before` to this reading.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
            children_ticks: self.children_ticks.saturating_sub(before.children_ticks),
            // The switches of threads that ended in between are missing from this reading.
            context_switches: both(
                self.context_switches,
                before.context_switches,
                u64::saturating_sub,
            ),
            waited_ns: both(self.waited_ns, before.waited_ns, u64::saturating_sub),
        }
    }

    /// Returns the sum of two usages.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            user_ticks: self.user_ticks + other.user_ticks,
            system_ticks: self.system_ticks + other.system_ticks,
            children_ticks: self.children_ticks + other.children_ticks,
            context_switches: both(self.context_switches, other.context_switches, |a, b| a + b),
            waited_ns: both(self.waited_ns, other.waited_ns, |a, b| a + b),
        }
    }

    /// Returns the share of the CPU time in user mode. Ticks are too coarse for less than a few
    /// hundredths of a second.
    pub fn user_share(self) -> f64 {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks == 0 { 0.0 } else { self.user_ticks as f64 / ticks as f64 }
    }
}

fn both(a: Option<u64>, b: Option<u64>, combined: fn(u64, u64) -> u64) -> Option<u64> {
    a.zip(b).map(|(a, b)| combined(a, b))
}

/// Reads the usage of a process; `None` if it is gone or not readable.
pub fn usage(pid: Pid) -> Option<Usage> {
    let cpu_ns = cpu_time::of_process_ns(pid)?;
    let process = process(pid)?;
    let stat = process.stat().ok()?;
    let is_small = stat.num_threads <= THREADS_READ as i64;
    Some(Usage {
        cpu_ns,
        user_ticks: stat.utime,
        system_ticks: stat.stime,
        children_ticks: (stat.cutime + stat.cstime).unsigned_abs(),
        context_switches: is_small.then(|| threads(&process).map(|thread| switches(&thread)).sum()),
        waited_ns: if is_small { waited_ns(&process) } else { None },
    })
}

/// Reads the usage of the calling thread.
pub fn thread_usage() -> Option<Usage> {
    let thread = this_thread()?;
    let stat = thread.stat().ok()?;
    Some(Usage {
        cpu_ns: cpu_time::of_this_thread_ns(),
        user_ticks: stat.utime,
        system_ticks: stat.stime,
        children_ticks: 0,
        context_switches: Some(switches(&thread.status().ok()?)),
        waited_ns: thread.schedstat().ok().map(|times| times.run_delay),
    })
}

/// Returns the name of a process; `None` if it is gone.
pub fn name(pid: Pid) -> Option<String> {
    let process = process(pid)?;
    let name = process.stat().ok()?.comm;
    // A program that was started from /proc/self/exe.
    let file = || Some(process.exe().ok()?.file_name()?.to_string_lossy().into_owned());
    if name == "exe" { file().or(Some(name)) } else { Some(name) }
}

/// Returns the start of a process in seconds since 1970; `None` if it is gone.
pub fn started(pid: Pid) -> Option<f64> {
    let after_boot = process(pid)?.stat().ok()?.starttime as f64 / clock_ticks_per_second() as f64;
    let seconds = |time: Timespec| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    let [now, uptime] = [ClockId::Realtime, ClockId::Boottime].map(clock_gettime).map(seconds);
    Some(now - uptime + after_boot)
}

/// Reads the number of threads of several processes, and the CPUs that any of them may use; of a
/// process with many threads, any of the oldest [`THREADS_READ`].
pub fn capacity_of(pids: &[Pid]) -> Option<(usize, Vec<usize>)> {
    let mut total = 0;
    let mut cpus = Vec::new();
    for &pid in pids {
        let process = process(pid)?;
        let status = process.status().ok()?;
        total += status.threads as usize;
        // Each thread may be pinned to another CPU, and the first is no exception.
        let others = threads(&process).take(THREADS_READ);
        for ranges in others.chain([status]).filter_map(|status| status.cpus_allowed_list) {
            cpus.extend(
                ranges.into_iter().flat_map(|(first, last)| first as usize..=last as usize),
            );
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    (total > 0).then_some((total, cpus))
}

/// Reads the CPU time of the threads of several processes, nanoseconds by thread ID; of any
/// [`THREADS_READ`] of them.
pub fn cpu_of_threads(pids: &[Pid]) -> HashMap<i32, u64> {
    let tasks = pids.iter().filter_map(|&pid| process(pid)?.tasks().ok()).flatten().flatten();
    let read = |task: Task| Some((task.tid, task.schedstat().ok()?.sum_exec_runtime));
    tasks.take(THREADS_READ).filter_map(read).collect()
}

/// True if `pid` has a handler for a signal that would otherwise end it.
pub fn catches(pid: Pid, signal: i32) -> bool {
    let status = process(pid).and_then(|process| process.status().ok());
    status.is_some_and(|status| status.sigcgt >> (signal - 1) & 1 == 1)
}

fn process(pid: Pid) -> Option<Process> {
    Process::new(pid.as_raw_nonzero().get()).ok()
}

fn this_thread() -> Option<Task> {
    Process::myself().ok()?.task_from_tid(gettid().as_raw_nonzero().get()).ok()
}

/// Reads the status of each thread. A thread that ends before it is read is left out.
fn threads(process: &Process) -> impl Iterator<Item = Status> {
    process.tasks().into_iter().flatten().filter_map(|task| task.ok()?.status().ok())
}

/// Time for which the threads of a process were ready to run without a CPU.
fn waited_ns(process: &Process) -> Option<u64> {
    let tasks = process.tasks().ok()?.flatten();
    tasks.filter_map(|task| Some(task.schedstat().ok()?.run_delay)).reduce(|a, b| a + b)
}

fn switches(status: &Status) -> u64 {
    status.voluntary_ctxt_switches.unwrap_or(0) + status.nonvoluntary_ctxt_switches.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread;

    use super::*;

    #[test]
    fn usage_of_this_process_and_thread_is_read() {
        let own = rustix::process::getpid();
        let usage = usage(own).unwrap();
        assert!(usage.cpu_ns > 0 && usage.context_switches.is_none_or(|switches| switches > 0));
        assert_eq!(
            usage.since(usage),
            Usage {
                context_switches: usage.context_switches.map(|_| 0),
                waited_ns: usage.waited_ns.map(|_| 0),
                ..Usage::default()
            }
        );
        assert_eq!(usage.plus(usage).user_ticks, 2 * usage.user_ticks);
        assert!(started(own).unwrap() <= started(own).unwrap() + 1.0);
        assert!(name(own).is_some_and(|name| !name.is_empty() && name != "exe"));
        thread::yield_now();
        assert!(thread_usage().is_some_and(|it| it.cpu_ns > 0 && it.waited_ns.is_some()));
    }

    #[test]
    fn capacity_counts_threads_and_their_cpus() {
        let own = rustix::process::getpid();
        let (threads, cpus) = capacity_of(&[own]).unwrap();
        assert!(threads > 0);
        assert_eq!(cpus, lockstep_sys::cpus::allowed().unwrap());
        assert_eq!(capacity_of(&[]), None);
    }

    #[test]
    fn usage_is_read_while_threads_end() {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    thread::scope(|scope| drop(scope.spawn(thread::yield_now)));
                }
            });
            let own = rustix::process::getpid();
            for _ in 0..200 {
                assert!(usage(own).is_some() && capacity_of(&[own]).is_some());
            }
            stop.store(true, Relaxed);
        });
    }

    #[test]
    fn caught_signals_are_distinguished_from_others() {
        let own = rustix::process::getpid();
        signal_hook::flag::register(libc::SIGURG, Arc::new(AtomicBool::new(false))).unwrap();
        assert!(catches(own, libc::SIGURG));
        assert!(!catches(own, libc::SIGPWR));
    }
}
