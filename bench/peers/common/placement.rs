//! Which processors a server runs on.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::Workers;
use super::cli::CPUS_MAX;

/// The processors that the calling thread may run on.
pub(super) fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CPUS_MAX).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Pins the calling thread, and the threads it will start.
pub(super) fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

impl Workers {
    /// How many threads are to serve. To be asked when the process has been pinned.
    pub(crate) fn count(self) -> io::Result<usize> {
        Ok(match self.workers {
            Some(count) => count.get(),
            None => allowed()?.len(),
        })
    }
}
