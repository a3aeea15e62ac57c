//! What the kernel says about sockets and processes: an observer that no backend can fool.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::sockets::{CLOSE_WAIT, ESTABLISHED, LISTEN, Row, SYN_RECV, of_port};
use super::until;

/// The listeners of the address: how many connections wait in the queue of each.
pub(crate) fn listen_queues(addr: SocketAddr) -> Vec<u32> {
    of_port(addr).iter().filter(|row| row.state == LISTEN).map(|row| row.unread).collect()
}

/// The server's sockets that are open, accepted or not.
pub(crate) fn open_connections(addr: SocketAddr) -> Vec<Row> {
    let open = |row: &Row| matches!(row.state, ESTABLISHED | SYN_RECV | CLOSE_WAIT);
    of_port(addr).into_iter().filter(open).collect()
}

/// Waits until the server has closed every connection on its side.
pub(crate) fn until_closed(addr: SocketAddr) {
    until("the server has closed every connection", || open_connections(addr).is_empty());
}

/// Waits until every client's handshake is complete on the server's side, too: who connects now
/// waits behind them. Connected is a client earlier, and on a busy machine the last packets of two
/// handshakes may overtake each other.
pub(crate) fn until_queued(addr: SocketAddr) {
    until("every handshake is complete", || of_port(addr).iter().all(|row| row.state != SYN_RECV));
}

/// Waits until the server is stuck with `count` peers: each has sent more than it has received,
/// is sent something that it does not take, and nothing has changed for a while.
pub(crate) fn until_stuck(addr: SocketAddr, count: usize) {
    const A_WHILE: Duration = Duration::from_millis(200);
    let stuck = || {
        let rows = open_connections(addr).into_iter();
        rows.filter(|row| row.unread > 0 && row.unsent > 0).collect::<Vec<_>>()
    };
    let (mut before, mut since) = (stuck(), Instant::now());
    until("the server is stuck with peers that do not read", || {
        let now = stuck();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        before.len() >= count && since.elapsed() >= A_WHILE
    });
}

/// The processor time a process has used, user and system.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The command's name, in parentheses, may contain anything.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_secs(ticks) / rustix::param::clock_ticks_per_second() as u32
}

/// The descriptors that a process has open.
pub(crate) fn descriptors(pid: u32) -> BTreeSet<u32> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// The memory of a process that no file backs, in bytes, counted page by page.
pub(crate) fn anonymous_memory(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// The names of a process's threads, without those in which the kernel does a ring's work.
pub(crate) fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| !name.starts_with("iou-")).collect()
}

/// The states of a process's threads, such as `S` or `T`.
pub(crate) fn thread_states(pid: u32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .map(|stat| stat[stat.rfind(')').unwrap() + 2..].chars().next().unwrap())
        .collect()
}
