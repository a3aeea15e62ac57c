//! What the kernel has accounted to a process (proc(5)).

use std::fs;

use rustix::process::Pid;

use crate::machine::cpu_time;

/// Threads whose context switches are read one by one, at most. Each takes some ten microseconds of
/// a processor that the generator needs meanwhile.
pub const THREADS_READ: usize = 64;

/// Processor time and context switches of a process, or a thread, since it began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Processor time, nanoseconds.
    pub cpu_ns: u64,
    /// The part of it in the program, in clock ticks (sysconf(3), `_SC_CLK_TCK`).
    pub user_ticks: u64,
    /// The part of it in the kernel on its behalf, likewise.
    pub system_ticks: u64,
    /// The time of its children that have ended and were waited for, likewise.
    pub children_ticks: u64,
    /// Voluntary and involuntary switches of the threads that are there; `None` where these are
    /// more than [`THREADS_READ`].
    pub context_switches: Option<u64>,
}

impl Usage {
    /// What was used from `before` to this reading.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
            children_ticks: self.children_ticks.saturating_sub(before.children_ticks),
            // Threads that ended in between have taken theirs with them.
            context_switches: both(
                self.context_switches,
                before.context_switches,
                u64::saturating_sub,
            ),
        }
    }

    /// What two of them have used.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            user_ticks: self.user_ticks + other.user_ticks,
            system_ticks: self.system_ticks + other.system_ticks,
            children_ticks: self.children_ticks + other.children_ticks,
            context_switches: both(self.context_switches, other.context_switches, |a, b| a + b),
        }
    }

    /// The share of the time that was in the program; ticks are too coarse for less than a few
    /// hundredths of a second.
    pub fn user_share(self) -> f64 {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks == 0 { 0.0 } else { self.user_ticks as f64 / ticks as f64 }
    }
}

fn both(a: Option<u64>, b: Option<u64>, combined: fn(u64, u64) -> u64) -> Option<u64> {
    a.zip(b).map(|(a, b)| combined(a, b))
}

/// Reads what `pid` has used; `None` when it is gone or not ours to read.
pub fn usage(pid: Pid) -> Option<Usage> {
    let cpu_ns = cpu_time::of_process_ns(pid)?;
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    let [user_ticks, system_ticks, children_ticks] = parse_stat(&stat)?;
    let context_switches =
        (parse_threads(&stat)? <= THREADS_READ).then(|| switches_of_threads(&directory));
    Some(Usage { cpu_ns, user_ticks, system_ticks, children_ticks, context_switches })
}

fn switches_of_threads(directory: &str) -> u64 {
    statuses_of_threads(directory).map(|status| parse_switches(&status)).sum()
}

fn statuses_of_threads(directory: &str) -> impl Iterator<Item = String> {
    let tasks = fs::read_dir(format!("{directory}/task")).into_iter().flatten().flatten();
    // A thread may end between being listed and being read.
    tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
}

/// Reads what this thread has used.
pub fn thread_usage() -> Option<Usage> {
    let [user_ticks, system_ticks, _] =
        parse_stat(&fs::read_to_string("/proc/thread-self/stat").ok()?)?;
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let context_switches = Some(parse_switches(&status));
    let cpu_ns = cpu_time::of_this_thread_ns();
    Some(Usage { cpu_ns, user_ticks, system_ticks, children_ticks: 0, context_switches })
}

/// Reads what several processes have used; `None` when there is none, or one cannot be read.
pub fn usage_of(pids: &[Pid]) -> Option<Usage> {
    let usages: Option<Vec<Usage>> = pids.iter().copied().map(usage).collect();
    usages?.into_iter().reduce(Usage::plus)
}

/// How many threads several processes have, and the processors that any of them may use.
pub fn capacity_of(pids: &[Pid]) -> Option<(usize, Vec<usize>)> {
    let capacities: Option<Vec<_>> = pids.iter().copied().map(capacity).collect();
    capacities?.into_iter().reduce(|(threads, mut cpus), (more, others)| {
        cpus.extend(others);
        cpus.sort_unstable();
        cpus.dedup();
        (threads + more, cpus)
    })
}

/// How long this thread has been ready to run without a processor, since it began; `None` where
/// the kernel does not account it (`/proc/PID/schedstat`, second field; sched-stats.rst).
pub fn thread_waited_ns() -> Option<u64> {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// How many threads `pid` has, and the processors that any of them may use; of many threads, any of
/// the oldest [`THREADS_READ`].
pub fn capacity(pid: Pid) -> Option<(usize, Vec<usize>)> {
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    let status = fs::read_to_string(format!("{directory}/status")).ok()?;
    let threads = field(&status, "Threads:")?.parse().ok()?;
    let allowed =
        |status: &str| lockstep_sys::cpus::parse_list(field(status, "Cpus_allowed_list:")?).ok();
    // Each may be pinned to another one, and the first is no exception.
    let others = statuses_of_threads(&directory).take(THREADS_READ);
    let mut cpus = allowed(&status)?;
    cpus.extend(others.filter_map(|status| allowed(&status)).flatten());
    cpus.sort_unstable();
    cpus.dedup();
    Some((threads, cpus))
}

/// Whether `pid` has a handler for a signal, which would otherwise end it (`SigCgt`).
pub fn catches(pid: Pid, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    status.is_ok_and(|status| parse_catches(&status, signal))
}

/// A mask in hexadecimal; signal 1 is the lowest bit.
fn parse_catches(status: &str, signal: i32) -> bool {
    let caught = field(status, "SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    caught.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// `utime`, `stime`, and the sum of `cutime` and `cstime`: fields 14 to 17. The second field, the
/// name, may contain anything.
fn parse_stat(stat: &str) -> Option<[u64; 3]> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let mut field = || fields.next()?.parse::<u64>().ok();
    Some([field()?, field()?, field()? + field()?])
}

/// `num_threads`, field 20.
fn parse_threads(stat: &str) -> Option<usize> {
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(17)?.parse().ok()
}

fn parse_switches(status: &str) -> u64 {
    ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
        .iter()
        .filter_map(|name| field(status, name)?.parse::<u64>().ok())
        .sum()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "77 (a) b (c)) S 1 77 77 0 -1 4194304 1 2 3 4 55 66 7 1 20 0 9 0 123";
        assert_eq!(parse_stat(stat), Some([55, 66, 8]));
        assert_eq!(parse_threads(stat), Some(9));
        assert_eq!(parse_stat("77 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn caught_signals_are_told_from_others() {
        let status = "SigIgn:\t0000000000001000\nSigCgt:\t0000000000004a02\n";
        let caught: Vec<i32> = (1..=64).filter(|&s| parse_catches(status, s)).collect();
        assert_eq!(caught, [2, 10, 12, 15]);
        assert!(!parse_catches("", 10));
    }

    #[test]
    fn switches_of_both_kinds_add_up() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n";
        assert_eq!(parse_switches(status), 12);
        assert_eq!(parse_switches(""), 0);
    }

    #[test]
    fn this_process_has_used_something() {
        let own = rustix::process::getpid();
        let usage = usage(own).unwrap();
        assert!(usage.cpu_ns > 0 && usage.context_switches.is_none_or(|switches| switches > 0));
        let (threads, cpus) = capacity(own).unwrap();
        assert!(threads > 0 && !cpus.is_empty());
        assert_eq!(usage.since(usage).cpu_ns, 0);
    }
}
