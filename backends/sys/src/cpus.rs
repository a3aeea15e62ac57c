//! Sets of CPUs: as text, and as the affinity of a thread.

use std::io;

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
    let set = sched_getaffinity(None)?;
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
}
