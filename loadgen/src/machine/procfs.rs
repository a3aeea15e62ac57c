//! What the kernel has accounted to a process, and which process a server is (proc(5)).

use std::fs;
use std::net::SocketAddr;

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
    let (user_ticks, system_ticks) = parse_stat(&stat)?;
    let context_switches =
        (parse_threads(&stat)? <= THREADS_READ).then(|| switches_of_threads(&directory));
    Some(Usage { cpu_ns, user_ticks, system_ticks, context_switches })
}

fn switches_of_threads(directory: &str) -> u64 {
    let tasks = fs::read_dir(format!("{directory}/task")).into_iter().flatten().flatten();
    // A thread may end between being listed and being read.
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status"));
    tasks.map(|task| parse_switches(&status(task).unwrap_or_default())).sum()
}

/// Reads what this thread has used.
pub fn thread_usage() -> Option<Usage> {
    let (user_ticks, system_ticks) =
        parse_stat(&fs::read_to_string("/proc/thread-self/stat").ok()?)?;
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let context_switches = Some(parse_switches(&status));
    let cpu_ns = cpu_time::of_this_thread_ns();
    Some(Usage { cpu_ns, user_ticks, system_ticks, context_switches })
}

/// The processes that are a server.
#[derive(Clone, Copy, Debug)]
pub enum Processes {
    /// This one.
    One(Pid),
    /// All in the process group of this one.
    Group(Pid),
}

impl Processes {
    /// Those there are now.
    pub fn list(self) -> Vec<Pid> {
        match self {
            Self::One(pid) => vec![pid],
            Self::Group(leader) => members(leader),
        }
    }
}

/// The processes of a group.
fn members(leader: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let members = processes.filter_map(|process| {
        let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        (parse_group(&stat)? == leader.as_raw_nonzero().get()).then_some(pid)
    });
    members.collect()
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

/// How many threads `pid` has, and the processors they may use.
pub fn capacity(pid: Pid) -> Option<(usize, Vec<usize>)> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let threads = field(&status, "Threads:")?.parse().ok()?;
    let cpus = crate::units::cpu_list(field(&status, "Cpus_allowed_list:")?).ok()?;
    Some((threads, cpus))
}

/// The process that listens at `addr` on this machine, if it can be found out.
pub fn listener(addr: SocketAddr) -> Option<Pid> {
    let table = match addr {
        SocketAddr::V4(_) => "/proc/net/tcp",
        SocketAddr::V6(_) => "/proc/net/tcp6",
    };
    let mut inodes = listening_inodes(&fs::read_to_string(table).ok()?, addr);
    if addr.is_ipv4() {
        // A socket that listens on [::] takes IPv4 connections as well.
        let unspecified = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), addr.port());
        let table = fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
        inodes.extend(listening_inodes(&table, unspecified));
    }
    if inodes.is_empty() {
        return None;
    }
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            if link.to_str().is_some_and(|link| sockets.iter().any(|socket| socket == link)) {
                return Pid::from_raw(pid);
            }
        }
    }
    None
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

/// `utime` and `stime`, fields 14 and 15. The second field, the name, may contain anything.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// `num_threads`, field 20.
fn parse_threads(stat: &str) -> Option<usize> {
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(17)?.parse().ok()
}

/// `pgrp`, field 5.
fn parse_group(stat: &str) -> Option<i32> {
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(2)?.parse().ok()
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

/// The inodes of sockets in state LISTEN (0A) at `addr` or at the unspecified address.
fn listening_inodes(table: &str, addr: SocketAddr) -> Vec<u64> {
    let port = format!("{:04X}", addr.port());
    let local = hexadecimal(addr);
    let mut inodes = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (Some(&address), Some(&"0A"), Some(inode)) =
            (fields.get(1), fields.get(3), fields.get(9))
        else {
            continue;
        };
        let Some((host, its_port)) = address.split_once(':') else { continue };
        if its_port == port && (host == local || host.bytes().all(|digit| digit == b'0')) {
            inodes.extend(inode.parse::<u64>());
        }
    }
    inodes
}

/// An address as `/proc/net/tcp` writes it: words of four bytes in the machine's byte order.
fn hexadecimal(addr: SocketAddr) -> String {
    let words = |bytes: &[u8]| {
        let words = bytes.chunks_exact(4).map(|word| {
            format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        });
        words.collect()
    };
    match addr {
        SocketAddr::V4(addr) => words(&addr.ip().octets()),
        SocketAddr::V6(addr) => words(&addr.ip().octets()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "77 (a) b (c)) S 1 77 77 0 -1 4194304 1 2 3 4 55 66 0 0 20 0 9 0 123";
        assert_eq!(parse_stat(stat), Some((55, 66)));
        assert_eq!(parse_threads(stat), Some(9));
        assert_eq!(parse_group(stat), Some(77));
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
    fn listeners_are_told_from_connections_and_other_ports() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:22C2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1\n\
            1: 0100007F:22C2 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 1002 1\n\
            2: 00000000:22C2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1003 1\n\
            3: 0200007F:22C2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1004 1\n";
        #[cfg(target_endian = "little")]
        assert_eq!(listening_inodes(table, "127.0.0.1:8898".parse().unwrap()), vec![1001, 1003]);
        assert!(listening_inodes(table, "127.0.0.1:8899".parse().unwrap()).is_empty());
    }

    #[test]
    fn this_process_is_found_by_its_listener() {
        let own = rustix::process::getpid();
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(socket) = TcpListener::bind(address) else {
                println!("SKIPPED: cannot listen on {address}");
                continue;
            };
            let mut addr = socket.local_addr().unwrap();
            if addr.ip().is_unspecified() {
                addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            assert_eq!(listener(addr), Some(own), "{address}");
        }
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
