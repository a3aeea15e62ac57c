//! Resource usage of the server in the measured window, read from its processes at both edges.

use std::collections::HashMap;
use std::net::SocketAddr;

use rustix::process::Pid;

use crate::machine::processes::{Processes, listeners};
use crate::machine::quota::{QuotaMeter, QuotaUse};
use crate::machine::usage::{self, Usage};

/// Resource usage of the server in the measured window.
#[derive(Clone, Debug, Default)]
pub struct ServerUsage {
    /// Usage of all its processes; `None` where it is unknown.
    pub usage: Option<Usage>,
    /// Number of its threads, and the CPUs that they may use.
    pub capacity: Option<(usize, Vec<usize>)>,
    /// True if its usage is unknown because processes came or went in the window.
    pub changed: bool,
    /// CPU quota of its processes.
    pub quota: Option<QuotaUse>,
    /// CPU time of its busiest threads, nanoseconds: one for each of several listeners that share
    /// an address.
    pub shards: Option<Vec<u64>>,
}

/// Reads the usage of one run.
#[derive(Debug)]
pub(super) struct ServerMeter {
    processes: Option<Processes>,
    found: Vec<Pid>,
    before: Option<Usage>,
    addr: SocketAddr,
    listeners: usize,
    threads: HashMap<i32, u64>,
    quota: QuotaMeter,
    pub(super) usage: ServerUsage,
}

impl ServerMeter {
    /// Reads the usage of these processes of the server at `addr`, if it is on this machine.
    pub(super) fn new(processes: Option<Processes>, addr: SocketAddr) -> Self {
        Self {
            processes,
            found: Vec::new(),
            before: None,
            addr,
            listeners: 0,
            threads: HashMap::new(),
            quota: QuotaMeter::find(&[]),
            usage: ServerUsage::default(),
        }
    }

    /// Finds the processes, once all connections are open. This may take long.
    pub(super) fn find(&mut self) {
        self.found = self.list();
        self.quota = QuotaMeter::find(&self.found);
        // An embedded server reports the work of its shards.
        if let Some(Processes::At(_) | Processes::Under(_)) = self.processes {
            self.listeners = listeners(self.addr);
        }
    }

    /// Processes that were found.
    pub(super) fn processes(&self) -> &[Pid] {
        &self.found
    }

    /// Reads the usage at the window's start.
    pub(super) fn begin(&mut self) {
        self.before = usage::usage_of(&self.found);
        // The server has all threads that its connections need by now.
        self.usage.capacity = usage::capacity_of(&self.found);
        self.quota.begin();
        if self.listeners > 1 {
            self.threads = usage::cpu_of_threads(&self.found);
        }
    }

    /// Reads the usage at the window's end. The connections have to be open still: processes may
    /// end with them.
    pub(super) fn end(&mut self) {
        self.usage.quota = self.quota.end();
        if self.listeners > 1 {
            let now = usage::cpu_of_threads(&self.found).into_iter();
            let used = now.map(|(id, ns)| ns.saturating_sub(*self.threads.get(&id).unwrap_or(&ns)));
            let mut used: Vec<u64> = used.collect();
            used.sort_unstable_by(|a, b| b.cmp(a));
            used.truncate(self.listeners);
            self.usage.shards = (used.len() == self.listeners).then_some(used);
        }
        let Some(before) = self.before else { return };
        let usage = usage::usage_of(&self.found).map(|after| after.since(before));
        self.usage.changed =
            self.list() != self.found || usage.is_none_or(|usage| usage.children_ticks > 0);
        self.usage.usage = usage.filter(|_| !self.usage.changed);
    }

    fn list(&self) -> Vec<Pid> {
        self.processes.map(Processes::list).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Signal, kill_process};

    use super::*;
    use crate::machine::processes::descendants;

    /// A shell that reads commands.
    struct Shell(Child);

    impl Shell {
        fn start() -> Self {
            let mut shell = Command::new("sh");
            Self(shell.stdin(Stdio::piped()).spawn().expect("there is sh(1)"))
        }

        fn fork(&mut self) {
            writeln!(self.0.stdin.as_mut().unwrap(), "sleep 60 &").unwrap();
        }

        fn pid(&self) -> Pid {
            Pid::from_child(&self.0)
        }

        fn wait_for_children(&self, count: usize) -> Vec<Pid> {
            loop {
                match descendants(self.pid()) {
                    children if children.len() == count => return children,
                    _ => std::thread::yield_now(),
                }
            }
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            for child in descendants(self.pid()) {
                let _ = kill_process(child, Signal::KILL);
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn processes_that_come_or_go_are_noticed() {
        for (went, came) in [(false, false), (true, false), (false, true)] {
            let mut shell = Shell::start();
            shell.fork();
            let child = shell.wait_for_children(1)[0];
            let mut meter =
                ServerMeter::new(Some(Processes::Under(shell.pid())), ([127, 0, 0, 1], 1).into());
            meter.find();
            meter.begin();
            if came {
                shell.fork();
                shell.wait_for_children(2);
            }
            if went {
                kill_process(child, Signal::KILL).unwrap();
                shell.wait_for_children(0);
            }
            meter.end();
            let used = meter.usage;
            assert_eq!((used.changed, used.usage.is_none()), (went || came, went || came));
            assert_eq!(used.capacity.map(|(threads, _)| threads), Some(1));
        }
    }
}
