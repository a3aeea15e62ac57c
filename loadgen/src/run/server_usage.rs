//! Resource usage of the server in the measured window, read from its processes at both edges.

use std::collections::HashMap;
use std::net::SocketAddr;

use rustix::process::Pid;

use crate::machine::processes::{Processes, listeners};
use crate::machine::quota::{QuotaMeter, QuotaUse};
use crate::machine::usage::{self, Usage};
use crate::run::server_page::{PageMeter, PageUsage};

/// Part of the CPU time of a server's busiest process below which a process counts as idle: it
/// shares the listening socket, or waits for the processes that it has started.
const IDLE: f64 = 0.01;

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
    /// Processes that are counted, and their names.
    pub processes: Vec<(Pid, String)>,
    /// Usage that the server has published, in place of the above; `None` if it has no page, or
    /// there was no window.
    pub page: Option<PageUsage>,
}

/// Reads the usage of one run.
#[derive(Debug)]
pub(super) struct ServerMeter {
    processes: Option<Processes>,
    found: Vec<Pid>,
    before: Option<Vec<Usage>>,
    addr: SocketAddr,
    listeners: usize,
    /// Processes whose threads share the listeners.
    sharing: Vec<Pid>,
    threads: HashMap<i32, u64>,
    quota: QuotaMeter,
    page: Option<PageMeter>,
    pub(super) usage: ServerUsage,
}

impl ServerMeter {
    /// Reads the usage of these processes of the server at `addr`, if it is on this machine, or
    /// its page, if it has one.
    pub(super) fn new(
        processes: Option<Processes>,
        addr: SocketAddr,
        page: Option<PageMeter>,
    ) -> Self {
        Self {
            processes,
            found: Vec::new(),
            before: None,
            addr,
            listeners: 0,
            sharing: Vec::new(),
            threads: HashMap::new(),
            quota: QuotaMeter::find(&[]),
            page,
            usage: ServerUsage::default(),
        }
    }

    /// Finds the processes, once all connections are open. This may take long.
    pub(super) fn find(&mut self) {
        self.found = self.list(&[]);
        if self.page.is_some() {
            return;
        }
        self.quota = QuotaMeter::find(&self.found);
        // An embedded server reports the work of its shards.
        if let Some(Processes::At { .. } | Processes::Under(_)) = self.processes {
            self.listeners = listeners(self.addr);
        }
        if self.listeners > 1 {
            // Also those without a connection.
            self.sharing = match self.processes {
                Some(Processes::At { addr, .. }) => {
                    Processes::At { addr, lasting: false }.list(&[])
                }
                _ => self.found.clone(),
            };
        }
    }

    /// Processes that were found.
    pub(super) fn processes(&self) -> &[Pid] {
        &self.found
    }

    /// Begins to read the page of the server, if it has one: shortly before the window, or,
    /// complete, before the load, if `wait` is true.
    pub(super) fn read_page(&mut self, wait: bool) {
        let Some(page) = &mut self.page else { return };
        page.begin();
        if wait {
            page.wait();
        }
    }

    /// Reads the usage at the window's start.
    pub(super) fn begin(&mut self) {
        if self.page.is_some() {
            return;
        }
        self.before = self.read();
        // The server has all threads that its connections need by now.
        self.usage.capacity = usage::capacity_of(&self.found);
        self.quota.begin();
        if self.listeners > 1 {
            self.threads = usage::cpu_of_threads(&self.sharing);
        }
    }

    /// Reads the usage at the window's end. The connections have to be open still: processes may
    /// end with them.
    pub(super) fn end(&mut self) {
        if let Some(page) = &mut self.page {
            self.usage.page = page.end();
            return;
        }
        self.usage.quota = self.quota.end();
        if self.listeners > 1 {
            let now = usage::cpu_of_threads(&self.sharing).into_iter();
            let used = now.map(|(id, ns)| ns.saturating_sub(*self.threads.get(&id).unwrap_or(&ns)));
            let mut used: Vec<u64> = used.collect();
            used.sort_unstable_by(|a, b| b.cmp(a));
            used.truncate(self.listeners);
            self.usage.shards = (used.len() == self.listeners).then_some(used);
        }
        let Some(before) = self.before.take() else { return };
        let after = self.read();
        let changes = after.map(|after| -> Vec<Usage> {
            after.into_iter().zip(before).map(|(after, before)| after.since(before)).collect()
        });
        let waited_for =
            |changes: &Vec<Usage>| changes.iter().any(|usage| usage.children_ticks > 0);
        self.usage.changed =
            self.list(&self.found) != self.found || changes.as_ref().is_none_or(waited_for);
        let changes = changes.unwrap_or_default();
        let most_ns = changes.iter().map(|usage| usage.cpu_ns).max().unwrap_or(0);
        let is_idle = |usage: &Usage| (usage.cpu_ns as f64) < most_ns as f64 * IDLE;
        let counted = self.found.iter().copied().zip(changes).filter(|(_, usage)| !is_idle(usage));
        let (pids, changes): (Vec<Pid>, Vec<Usage>) = counted.unzip();
        if !self.usage.changed {
            self.usage.usage = changes.into_iter().reduce(Usage::plus);
            if pids.len() < self.found.len() {
                self.usage.capacity = usage::capacity_of(&pids).or(self.usage.capacity.take());
            }
        }
        self.usage.processes =
            pids.iter().filter_map(|&pid| Some((pid, usage::name(pid)?))).collect();
    }

    fn list(&self, known: &[Pid]) -> Vec<Pid> {
        self.processes.map(|processes| processes.list(known)).unwrap_or_default()
    }

    /// Reads the usage of each process; `None` if there is none, or one is gone or not readable.
    fn read(&self) -> Option<Vec<Usage>> {
        let usages: Option<Vec<Usage>> = self.found.iter().copied().map(usage::usage).collect();
        usages.filter(|usages| !usages.is_empty())
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
            let mut meter = ServerMeter::new(
                Some(Processes::Under(shell.pid())),
                ([127, 0, 0, 1], 1).into(),
                None,
            );
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
