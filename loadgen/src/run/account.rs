//! What the server uses in the measured window: readings of its processes at both edges.

use rustix::process::Pid;

use crate::machine::processes::Processes;
use crate::machine::usage::{self, Usage};

/// What the server used in the measured window.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// All its processes together; `None` where that cannot be known.
    pub usage: Option<Usage>,
    /// Its threads, and the processors they may use.
    pub capacity: Option<(usize, Vec<usize>)>,
    /// Whether it cannot be known because some of its processes came or went in the window.
    pub changed: bool,
}

/// The readings of one run.
#[derive(Debug)]
pub(super) struct Account {
    processes: Option<Processes>,
    found: Vec<Pid>,
    before: Option<Usage>,
    used: Used,
}

impl Account {
    /// Of a server's processes, if it is on this machine.
    pub(super) fn new(processes: Option<Processes>) -> Self {
        Self { processes, found: Vec::new(), before: None, used: Used::default() }
    }

    /// Finds the processes. This may take long; it has those that it needs for its connections.
    pub(super) fn find(&mut self) {
        self.found = self.list();
    }

    /// The processes found.
    pub(super) fn processes(&self) -> &[Pid] {
        &self.found
    }

    /// The window begins.
    pub(super) fn begin(&mut self) {
        self.before = usage::usage_of(&self.found);
        // Now it has the threads that it needs for its connections.
        self.used.capacity = usage::capacity_of(&self.found);
    }

    /// The window ends. The connections have to be open still: processes may end with them.
    pub(super) fn end(&mut self) {
        let Some(before) = self.before else { return };
        let usage = usage::usage_of(&self.found).map(|after| after.since(before));
        self.used.changed =
            self.list() != self.found || usage.is_none_or(|usage| usage.children_ticks > 0);
        self.used.usage = usage.filter(|_| !self.used.changed);
    }

    pub(super) fn into_used(self) -> Used {
        self.used
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

    /// A shell that does as it is told.
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

        fn await_children(&self, count: usize) -> Vec<Pid> {
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
    fn what_came_or_went_is_told() {
        for (went, came) in [(false, false), (true, false), (false, true)] {
            let mut shell = Shell::start();
            shell.fork();
            let child = shell.await_children(1)[0];
            let mut account = Account::new(Some(Processes::Under(shell.pid())));
            account.find();
            account.begin();
            if came {
                shell.fork();
                shell.await_children(2);
            }
            if went {
                kill_process(child, Signal::KILL).unwrap();
                shell.await_children(0);
            }
            account.end();
            let used = account.into_used();
            assert_eq!((used.changed, used.usage.is_none()), (went || came, went || came));
            assert_eq!(used.capacity.map(|(threads, _)| threads), Some(1));
        }
    }
}
