//! Sets of CPUs: as text, and as the affinity of a thread; and the cores that they belong to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPU numbers, ascending. The alias keeps clap from reading an option's `Vec` as a repeated
/// option.
pub type CpuList = Vec<usize>;

/// Parses a set of CPUs in the kernel's notation: `0`, `0,2-3`. Order and repetition have no
/// effect.
///
/// # Errors
///
/// A text for the user that shows the notation, or names the CPU number that is too large.
pub fn parse_list(text: &str) -> Result<CpuList, String> {
    let malformed = || "not a list of CPUs: write 0 or 0,2-3".to_owned();
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| malformed());
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(malformed());
        }
        if last >= CpuSet::MAX_CPU {
            return Err(format!("no CPU {last}: the highest number is {}", CpuSet::MAX_CPU - 1));
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

/// Formats a set of CPUs as the kernel does: `0,2-3`.
pub fn format_list(cpus: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let runs = runs.iter().map(|&(first, last)| match last - first {
        0 => format!("{first}"),
        _ => format!("{first}-{last}"),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// Returns the CPUs that the calling thread may run on.
///
/// # Errors
///
/// `EINVAL` if the machine has more CPUs than a [`CpuSet`] (sched_getaffinity(2)).
pub fn allowed() -> io::Result<CpuList> {
    read_affinity(None)
}

/// Returns the CPUs that the first thread of a process may run on.
///
/// # Errors
///
/// `ESRCH` if there is no such process, and as [`allowed`].
pub fn allowed_to(process: Pid) -> io::Result<CpuList> {
    read_affinity(Some(process))
}

fn read_affinity(thread: Option<Pid>) -> io::Result<CpuList> {
    let set = sched_getaffinity(thread)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Pins the calling thread, and the threads that it will start, to `cpus`.
///
/// # Errors
///
/// `EINVAL` if none of `cpus` exists and is allowed (sched_setaffinity(2)).
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Returns the CPUs that sched_setaffinity(2) allows: those of the cpuset (cpuset(7)) that are
/// online. The affinity of the calling thread, which may be smaller, does not change.
///
/// # Errors
///
/// `EPERM` or `ENOSYS` in a sandbox that forbids it, `EAGAIN` if no thread can be started.
pub fn permitted() -> io::Result<CpuList> {
    let all: CpuList = (0..CpuSet::MAX_CPU).collect();
    thread::scope(|scope| {
        // The kernel leaves out what is not allowed.
        let trial =
            thread::Builder::new().spawn_scoped(scope, || pin(&all).and_then(|()| allowed()));
        trial?.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()))
    })
}

/// The cores of CPUs. The hardware threads of a core are CPUs that share it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cores(BTreeMap<usize, usize>);

impl Cores {
    /// Reads the cores of these CPUs below `root`, which is `/sys/devices/system/cpu` except in
    /// tests (Documentation/admin-guide/cputopology.rst). A CPU about which nothing is known has a
    /// core of its own.
    pub fn read(root: &Path, cpus: &[usize]) -> Self {
        let first = |cpu: usize| {
            let topology = root.join(format!("cpu{cpu}/topology"));
            // The second is the first's name before Linux 5.3.
            let read = |name| fs::read_to_string(topology.join(name)).ok();
            let list = read("core_cpus_list").or_else(|| read("thread_siblings_list"))?;
            parse_list(&list).ok()?.first().copied()
        };
        Self(cpus.iter().map(|&cpu| (cpu, first(cpu).unwrap_or(cpu))).collect())
    }

    /// Returns the core of a CPU, as the number of the core's first CPU.
    pub fn of(&self, cpu: usize) -> usize {
        self.0.get(&cpu).copied().unwrap_or(cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_and_formatted() {
        assert_eq!(parse_list("0"), Ok(vec![0]));
        assert_eq!(parse_list("3,0-1,1"), Ok(vec![0, 1, 3]));
        assert_eq!(parse_list(" 0, 2-3\n"), Ok(vec![0, 2, 3]));
        assert_eq!(format_list(&[0, 1, 3, 5, 6, 7]), "0-1,3,5-7");
        assert_eq!(format_list(&[]), "");
        for malformed in ["", "a", "3-1", "0,", "0,,1", "0-", "-1", "1-2-3"] {
            let error = parse_list(malformed).unwrap_err();
            assert!(error.starts_with("not a list of CPUs: write"), "{malformed}: {error}");
        }
        let error = parse_list("0,1024").unwrap_err();
        assert_eq!(error, "no CPU 1024: the highest number is 1023");
    }

    #[test]
    fn pinned_thread_may_run_on_those_cpus_only() {
        let first = allowed().unwrap()[0];
        let pinned = std::thread::spawn(move || {
            pin(&[first]).unwrap();
            allowed().unwrap()
        });
        assert_eq!(pinned.join().unwrap(), [first]);
        assert_eq!(pin(&[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn permitted_cpus_are_more_than_the_affinity() {
        let permitted = permitted().unwrap();
        let alone = permitted[permitted.len() - 1];
        thread::spawn(move || {
            pin(&[alone]).unwrap();
            assert_eq!(super::permitted().unwrap(), permitted);
            assert_eq!(allowed().unwrap(), [alone]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn cores_are_those_of_this_machine() {
        let cpus = permitted().unwrap();
        let cores = Cores::read(Path::new("/sys/devices/system/cpu"), &cpus);
        assert!(cpus.iter().all(|&cpu| cores.of(cpu) <= cpu && cores.of(1 << 20) == 1 << 20));
    }
}
