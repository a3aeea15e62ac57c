//! Other programs on the CPUs of a run, and the time for which they kept its threads waiting.
//!
//! A thread that is ready to run waits for other threads, for the hypervisor, or until its idle CPU
//! has woken up; the kernel adds it all up (sched-stats.rst, `run_delay`). So the time for which
//! other programs kept a thread waiting is the least of three: the time that it waited, the time
//! for which its CPU was busy with something else, and the time for which they have run.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

use lockstep_sys::cpu_time;
use procfs::process::{Process, all_processes};
use rustix::process::Pid;

/// Part of the window below which a program is no cause.
const NEGLIGIBLE: f64 = 0.01;

/// Reads the CPU time of all processes around a window, and of the CPUs at its edges.
#[derive(Debug, Default)]
pub struct NeighbourMeter {
    processes: HashMap<i32, Program>,
    edge: Option<Edge>,
}

/// CPU time of a process, and its place among the others.
#[derive(Clone, Debug, Default)]
struct Program {
    name: String,
    parent: i32,
    /// CPU time of the process and of its children that have ended, nanoseconds.
    cpu_ns: u64,
}

/// State of the CPUs at an edge of the window.
#[derive(Debug)]
struct Edge {
    at: Instant,
    cpus: HashMap<usize, CpuTimes>,
    /// CPU time of the threads of this process, nanoseconds, and the CPU that each ran on last.
    threads: HashMap<i32, (u64, usize)>,
}

/// Times of a CPU since boot, in clock ticks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct CpuTimes {
    idle: u64,
    stolen: u64,
}

/// CPU time of other programs in a window.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// Length of the window; unlike the clock of the run, it does not stop.
    wall_s: f64,
    /// Times of each CPU, seconds.
    cpus: HashMap<usize, Cpu>,
    /// CPU time of all processes of the run except this one, seconds.
    helpers_s: f64,
    /// Other processes that have run, those with the most CPU time first.
    others: Vec<(i32, String, f64)>,
    /// True if the processes of this machine are visible, and not only those of a container or of a
    /// user.
    sees_all: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// Time for which it was neither idle nor stolen.
    busy_s: f64,
    stolen_s: f64,
    /// Part of the busy time that was this process's or that of the network stack's kernel thread.
    own_s: f64,
}

/// Disturbance of one side of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Disturbance {
    /// Share of the window for which threads waited for a CPU that others used.
    pub share: f64,
    /// The others, in words.
    pub by: String,
}

impl NeighbourMeter {
    /// Reads all processes, once all of the run are there. This may take long.
    pub fn find(&mut self) {
        self.processes = programs();
    }

    /// Reads the CPUs at the window's start.
    pub fn begin(&mut self) {
        self.edge = Some(Edge::now());
    }

    /// Returns what ran since the start of the window. The processes of the run have to be there
    /// still: they are this one, its descendants and `server`.
    pub fn end(&self, server: &[Pid]) -> Option<Neighbours> {
        let (before, after) = (self.edge.as_ref()?, Edge::now());
        let server: Vec<i32> = server.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        let mut neighbours =
            between(&self.processes, &programs(), std::process::id() as i32, &server);
        neighbours.wall_s = (after.at - before.at).as_secs_f64();
        for (cpu, times) in before.between(&after) {
            let found = neighbours.cpus.entry(cpu).or_default();
            *found = Cpu { own_s: found.own_s + times.own_s, ..times };
        }
        Some(neighbours)
    }
}

/// Compares all processes before and after a window.
fn between(
    before: &HashMap<i32, Program>,
    after: &HashMap<i32, Program>,
    own: i32,
    server: &[i32],
) -> Neighbours {
    let descends = |mut pid: i32| {
        // As many steps as there are processes: their parents may change meanwhile.
        (0..after.len()).any(|_| {
            let found = pid == own;
            pid = after.get(&pid).map_or(0, |program| program.parent);
            found
        })
    };
    let mut neighbours = Neighbours {
        // The second process is a kernel thread, unless it is another namespace's or hidden.
        sees_all: after.get(&2).is_some_and(|program| program.name == "kthreadd"),
        ..Neighbours::default()
    };
    // The time of a process that has ended is now its parent's, also that from before the window.
    let mut inherited: HashMap<i32, u64> = HashMap::new();
    for ended in before.iter().filter(|(pid, _)| !after.contains_key(pid)).map(|(_, it)| it) {
        let mut heir = ended.parent;
        while let Some(parent) = before.get(&heir).filter(|_| !after.contains_key(&heir)) {
            heir = parent.parent;
        }
        *inherited.entry(heir).or_default() += ended.cpu_ns;
    }
    for (&pid, program) in after {
        let before_ns = before.get(&pid).map_or(0, |program| program.cpu_ns)
            + inherited.get(&pid).copied().unwrap_or(0);
        let used_s = program.cpu_ns.saturating_sub(before_ns) as f64 / 1e9;
        let softirq = program.name.strip_prefix("ksoftirqd/").and_then(|cpu| cpu.parse().ok());
        if let Some(cpu) = softirq {
            neighbours.cpus.entry(cpu).or_default().own_s += used_s;
        } else if pid == own {
        } else if server.contains(&pid) || descends(pid) {
            neighbours.helpers_s += used_s;
        } else if used_s > 0.0 {
            neighbours.others.push((pid, program.name.clone(), used_s));
        }
    }
    neighbours.others.sort_by(|a, b| b.2.total_cmp(&a.2));
    neighbours
}

/// Reads all processes.
fn programs() -> HashMap<i32, Program> {
    let ticks = rustix::param::clock_ticks_per_second();
    let read = |process: Process| {
        let (stat, pid) = (process.stat().ok()?, Pid::from_raw(process.pid)?);
        let children = (stat.cutime + stat.cstime).unsigned_abs() * (1_000_000_000 / ticks);
        let cpu_ns = cpu_time::of_process_ns(pid)? + children;
        Some((process.pid, Program { name: stat.comm, parent: stat.ppid, cpu_ns }))
    };
    all_processes().into_iter().flatten().flatten().filter_map(read).collect()
}

impl Edge {
    fn now() -> Self {
        let tasks = Process::myself().ok().and_then(|me| me.tasks().ok());
        let times = |task: procfs::process::Task| {
            let (used, stat) = (task.schedstat().ok()?, task.stat().ok()?);
            Some((task.tid, (used.sum_exec_runtime, usize::try_from(stat.processor?).ok()?)))
        };
        let threads = tasks.into_iter().flatten().flatten().filter_map(times).collect();
        let cpus = parse(&fs::read_to_string("/proc/stat").unwrap_or_default());
        Self { at: Instant::now(), cpus, threads }
    }

    /// Returns the times of each CPU from this edge to another.
    fn between(&self, after: &Edge) -> impl Iterator<Item = (usize, Cpu)> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let wall_s = (after.at - self.at).as_secs_f64();
        self.cpus.iter().filter_map(move |(&cpu, before)| {
            let now = after.cpus.get(&cpu)?;
            let seconds = |before: u64, now: u64| now.saturating_sub(before) as f64 / ticks;
            let stolen_s = seconds(before.stolen, now.stolen);
            let own = after.threads.iter().filter(|(_, (_, last))| *last == cpu);
            let own_ns: u64 = own
                .map(|(tid, &(ns, _))| {
                    ns.saturating_sub(self.threads.get(tid).map_or(0, |&(before, _)| before))
                })
                .sum();
            let busy_s = (wall_s - seconds(before.idle, now.idle) - stolen_s).max(0.0);
            Some((cpu, Cpu { busy_s, stolen_s, own_s: own_ns as f64 / 1e9 }))
        })
    }
}

/// Parses the lines of the CPUs in `/proc/stat`: user, nice, system, idle, iowait, irq, softirq and
/// steal (proc_stat(5)).
fn parse(stat: &str) -> HashMap<usize, CpuTimes> {
    let times = |line: &str| {
        let (cpu, times) = line.strip_prefix("cpu")?.split_once(' ')?;
        let times: Vec<u64> = times.split(' ').map_while(|ticks| ticks.parse().ok()).collect();
        let (idle, stolen) = (times.get(3)? + times.get(4)?, times.get(7).copied().unwrap_or(0));
        Some((cpu.parse().ok()?, CpuTimes { idle, stolen }))
    };
    stat.lines().filter_map(times).collect()
}

impl Neighbours {
    /// Returns the disturbance of threads on these CPUs. `waiting` is the time for which they
    /// waited for a CPU, as a share of the window; of several threads, the sum. `helpers`: the
    /// server runs on these CPUs.
    pub fn disturbance(&self, cpus: &[usize], helpers: bool, waiting: f64) -> Option<Disturbance> {
        let found: Vec<Cpu> = cpus.iter().filter_map(|cpu| self.cpus.get(cpu).copied()).collect();
        let sum = |value: fn(&Cpu) -> f64| found.iter().map(value).sum::<f64>();
        let own_s = sum(|cpu| cpu.own_s) + if helpers { self.helpers_s } else { 0.0 };
        let mut others_s = (sum(|cpu| cpu.busy_s) - own_s).max(0.0);
        if self.sees_all {
            others_s = others_s.min(self.others.iter().map(|(_, _, used_s)| used_s).sum());
        }
        let others = waiting.min(others_s / self.wall_s);
        let stolen = (waiting - others).min(sum(|cpu| cpu.stolen_s) / self.wall_s);
        let share = (others + stolen) / found.len() as f64;
        let by = match self.largest(cpus) {
            _ if stolen > others => "the hypervisor".to_owned(),
            Some((pid, name)) => format!("other programs (most of all {name}, pid {pid})"),
            None => "other programs".to_owned(),
        };
        share.is_finite().then_some(Disturbance { share: share.min(1.0), by })
    }

    /// Returns the other process with the most CPU time, of those that ran last on one of the CPUs.
    fn largest(&self, cpus: &[usize]) -> Option<(i32, &str)> {
        let least_s = self.wall_s * NEGLIGIBLE;
        let ran_here = |pid: i32| {
            let tasks = Process::new(pid).and_then(|process| process.tasks());
            tasks.into_iter().flatten().flatten().any(|task| {
                let last = task.stat().ok().and_then(|stat| stat.processor);
                last.is_some_and(|cpu| cpus.contains(&(cpu as usize)))
            })
        };
        let others = self.others.iter().take_while(|(_, _, used_s)| *used_s >= least_s);
        let mut here = others.filter(|(pid, _, _)| ran_here(*pid));
        here.next().map(|(pid, name, _)| (*pid, name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(programs: &[(i32, &str, i32, u64)]) -> HashMap<i32, Program> {
        let program = |&(pid, name, parent, ms): &(i32, &str, i32, u64)| {
            (pid, Program { name: name.to_owned(), parent, cpu_ns: ms * 1_000_000 })
        };
        programs.iter().map(program).collect()
    }

    #[test]
    fn processes_of_the_run_are_no_neighbours() {
        let before = all(&[
            (2, "kthreadd", 0, 0),
            (17, "ksoftirqd/1", 2, 100),
            (50, "make", 1, 700),
            (52, "sh", 50, 5),
            (53, "cc", 52, 4000), // ends in the window, and its shell, too
            (60, "loadgen", 1, 10),
            (70, "server", 1, 20),
        ]);
        let after = all(&[
            (2, "kthreadd", 0, 0),
            (17, "ksoftirqd/1", 2, 350),
            (50, "make", 1, 5205),
            (51, "cc", 50, 40),
            (60, "loadgen", 1, 900),
            (61, "exec", 60, 3),
            (62, "worker", 61, 500),
            (70, "server", 1, 320),
        ]);
        let found = between(&before, &after, 60, &[70]);
        assert!(found.sees_all);
        let names: Vec<_> = found.others.iter().map(|(_, name, _)| name.as_str()).collect();
        assert_eq!(names, ["make", "cc"]);
        assert!((found.others[0].2 - 0.5).abs() < 1e-9, "{found:?}");
        assert!((found.helpers_s - 0.803).abs() < 1e-9, "{found:?}");
        assert!((found.cpus[&1].own_s - 0.25).abs() < 1e-9, "{found:?}");
        assert!(!between(&before, &all(&[(2, "sh", 1, 0)]), 60, &[]).sees_all);
    }

    fn neighbours(busy_s: f64, stolen_s: f64, own_s: f64, others_s: f64) -> Neighbours {
        Neighbours {
            wall_s: 10.0,
            cpus: HashMap::from([(1, Cpu { busy_s, stolen_s, own_s })]),
            helpers_s: 0.0,
            others: vec![(i32::MAX, "gone".to_owned(), others_s)],
            sees_all: true,
        }
    }

    #[test]
    fn waiting_counts_only_while_others_run() {
        let share = |neighbours: &Neighbours, waited_s| {
            neighbours.disturbance(&[1], false, waited_s / 10.0).unwrap().share
        };
        for (busy_s, stolen_s, own_s, others_s, waited_s, expected) in [
            (9.9, 0.0, 5.0, 8.0, 4.0, 0.4),  // a program beside the generator
            (6.0, 0.0, 5.9, 0.1, 2.0, 0.01), // the CPU was idle: it had to wake up
            (6.0, 0.0, 5.5, 8.0, 2.0, 0.05), // the program ran on another CPU
            (9.9, 0.0, 5.0, 0.2, 2.0, 0.02), // interrupts
            (9.9, 0.0, 5.0, 8.0, 0.0, 0.0),  // it ran while the generator slept
            (6.0, 1.5, 6.0, 8.0, 2.0, 0.15), // the hypervisor
            (6.0, 9.0, 6.0, 8.0, 2.0, 0.2),
        ] {
            let found = share(&neighbours(busy_s, stolen_s, own_s, others_s), waited_s);
            assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        }
        // In a container, other programs are out of sight.
        let hidden =
            Neighbours { others: vec![], sees_all: false, ..neighbours(9.9, 0.0, 5.0, 0.0) };
        assert!((share(&hidden, 4.0) - 0.4).abs() < 1e-9);
        assert_eq!(hidden.disturbance(&[1], false, 0.4).unwrap().by, "other programs");
        let stolen = neighbours(6.0, 1.5, 6.0, 8.0).disturbance(&[1], false, 0.2).unwrap();
        assert_eq!(stolen.by, "the hypervisor");
        assert_eq!(hidden.disturbance(&[7], false, 0.4), None, "no such CPU");
    }

    #[test]
    fn server_on_the_same_cpus_is_no_neighbour() {
        let shared = Neighbours { helpers_s: 4.0, ..neighbours(9.9, 0.0, 5.0, 8.0) };
        let share = |helpers| shared.disturbance(&[1], helpers, 0.5).unwrap().share;
        assert!((share(true) - 0.09).abs() < 1e-9 && (share(false) - 0.49).abs() < 1e-9);
    }

    #[test]
    fn times_of_cpus_are_parsed() {
        let stat = "cpu  3 0 3 90 8 0 1 5 0 0\ncpu0 1 0 1 50 4 0 1 2 0 0\ncpu3 2 0 2 40 4 0 0 3\n\
                    intr 12 cpu9\nctxt 4\n";
        let times = |idle, stolen| CpuTimes { idle, stolen };
        assert_eq!(parse(stat), HashMap::from([(0, times(54, 2)), (3, times(44, 3))]));
        assert!(!Edge::now().cpus.is_empty());
    }
}
