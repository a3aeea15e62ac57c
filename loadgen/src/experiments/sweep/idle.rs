//! Cost of opening connections and of keeping them idle, read before and after they are opened.

use std::thread;
use std::time::Duration;

use lockstep_results::{IdleMemory, Opening};
use rustix::process::Pid;

use crate::machine::memory::{self, Kernel};
use crate::run::observer::Observer;
use lockstep_sys::cpu_time;

/// Time for which connections are left idle before memory is read.
pub(super) const IDLE: Duration = Duration::from_millis(200);

/// Interval, and largest number, of the readings that wait until the kernel frees no more memory of
/// the run before.
const SETTLE: Duration = Duration::from_millis(100);
const SETTLE_MAX: u32 = 20;

/// CPU time and memory of the server, and memory of the kernel, at one instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    server_ns: u64,
    server_bytes: u64,
    kernel: Kernel,
}

impl Reading {
    /// Reads them. `server` lists the server's processes.
    pub(super) fn take(server: &[Pid]) -> Self {
        Self {
            server_ns: cpu_ns(server),
            server_bytes: server.iter().filter_map(|&pid| memory::anonymous(pid)).sum(),
            kernel: Kernel::now(),
        }
    }

    /// Waits until the kernel frees no more memory, at most two seconds or as long as `sleep` is
    /// true, and reads them.
    pub(super) fn take_settled(server: &[Pid], sleep: &mut dyn FnMut(Duration) -> bool) -> Self {
        let mut lowest = u64::MAX;
        for _ in 0..SETTLE_MAX {
            let now = Kernel::now().bytes;
            if now >= lowest || !sleep(SETTLE) {
                break;
            }
            lowest = now;
        }
        Self::take(server)
    }

    /// The cost of opening `conns` connections, of which `served` had an exchange, since `before`.
    pub(super) fn opening(
        &self,
        before: &Self,
        took: Duration,
        conns: u32,
        served: u64,
    ) -> Opening {
        let cpu_us = self.server_ns.saturating_sub(before.server_ns) as f64 / 1e3;
        Opening {
            opening_s: took.as_secs_f64(),
            opened_per_s: served as f64 / took.as_secs_f64(),
            open_cpu_us_per_connection: cpu_us / f64::from(conns),
            accepted: Vec::new(),
        }
    }

    /// The growth of memory since `before`.
    pub(super) fn memory(&self, before: &Self) -> IdleMemory {
        IdleMemory {
            server_memory_bytes: self.server_bytes.saturating_sub(before.server_bytes),
            kernel_memory_bytes: self.kernel.bytes as i64 - before.kernel.bytes as i64,
            tcp_memory_bytes: self.kernel.tcp_bytes as i64 - before.kernel.tcp_bytes as i64,
        }
    }
}

/// CPU time of several processes, nanoseconds.
pub(super) fn cpu_ns(processes: &[Pid]) -> u64 {
    processes.iter().filter_map(|&pid| cpu_time::of_process_ns(pid)).sum()
}

/// Takes the readings during a run of one generator process.
#[derive(Debug, Default)]
pub(super) struct Probe {
    before: Option<Reading>,
    idle: Option<(Reading, Duration)>,
}

impl Probe {
    /// The costs, if the server's processes are known and every connection was tried.
    pub(super) fn costs(&self, conns: u32, served: u64) -> Option<(Opening, IdleMemory)> {
        let (before, (idle, took)) = (self.before.as_ref()?, self.idle.as_ref()?);
        Some((idle.opening(before, *took, conns, served), idle.memory(before)))
    }
}

impl Observer for Probe {
    fn ready(&mut self, server: &[Pid], sleep: &mut dyn FnMut(Duration) -> bool) {
        self.before = (!server.is_empty()).then(|| Reading::take_settled(server, sleep));
    }

    fn opened(&mut self, server: &[Pid], opening: Duration) {
        thread::sleep(IDLE);
        self.idle = Some((Reading::take(server), opening));
    }
}
