//! Sockets and processes as the kernel reports them, independently of any backend.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lockstep_sys::sock_diag::{SockDiag, TcpSocket};
use lockstep_sys::tcp::{CLOSE_WAIT, ESTABLISHED, SYN_RECV};
use procfs::process::{Process, Task};
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::until;

/// Returns the number of connections in the accept queue of each listener at the address.
pub(crate) fn listen_queues(addr: SocketAddr) -> Vec<u32> {
    let queues = SockDiag::open().and_then(|mut diag| diag.listeners(addr)).unwrap();
    queues.iter().map(|queue| queue.waiting).collect()
}

/// Returns the server's open connections, accepted or not.
pub(crate) fn open_connections(addr: SocketAddr) -> Vec<TcpSocket> {
    sockets(addr, &[ESTABLISHED, SYN_RECV, CLOSE_WAIT])
}

fn sockets(addr: SocketAddr, states: &[u8]) -> Vec<TcpSocket> {
    SockDiag::open().and_then(|mut diag| diag.sockets(addr, states)).unwrap()
}

/// Waits until the server has closed every connection on its side.
pub(crate) fn until_closed(addr: SocketAddr) {
    until("the server has closed every connection", || open_connections(addr).is_empty());
}

/// Waits until every client's handshake is complete on the server's side, too, so that later
/// connections queue behind them. A client is connected earlier, and on a busy machine the last
/// packets of two handshakes may overtake each other.
pub(crate) fn until_queued(addr: SocketAddr) {
    until("every handshake is complete", || sockets(addr, &[SYN_RECV]).is_empty());
}

/// Waits until the server is stuck with `count` peers: each has sent more than the server has
/// received, does not receive what the server sends, and nothing has changed for a while.
pub(crate) fn until_stuck(addr: SocketAddr, count: usize) {
    const UNCHANGED: Duration = Duration::from_millis(200);
    let stuck = || {
        let open = open_connections(addr).into_iter();
        open.filter(|socket| socket.rqueue > 0 && socket.wqueue > 0).collect::<Vec<_>>()
    };
    let (mut before, mut since) = (stuck(), Instant::now());
    until("the server is stuck with peers that do not read", || {
        let now = stuck();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        before.len() >= count && since.elapsed() >= UNCHANGED
    });
}

/// Returns the CPU time that a process has used, user and system.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = process(pid).stat().unwrap();
    Duration::from_secs(stat.utime + stat.stime) / procfs::ticks_per_second() as u32
}

/// Returns the open descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> BTreeSet<u32> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Shuts down one of a child's listening sockets: its accepts fail from then on (EINVAL), as those
/// of a socket that `ss --kill` has destroyed.
pub(crate) fn shut_down_a_listener(pid: u32) {
    let process = Pid::from_raw(pid as i32).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let copy = |fd: u32| pidfd_getfd(&process, fd as i32, PidfdGetfdFlags::empty()).unwrap();
    let listening = |socket: &_| socket_acceptconn(socket).is_ok_and(|it| it);
    let listener = descriptors(pid).into_iter().map(copy).find(listening).unwrap();
    shutdown(listener, Shutdown::Both).unwrap();
}

/// Returns the memory of a process that no file backs, in bytes, counted page by page.
pub(crate) fn anonymous_memory(pid: u32) -> u64 {
    let rollup = process(pid).smaps_rollup().unwrap().memory_map_rollup;
    rollup.0[0].extension.map["Anonymous"]
}

/// Returns the most memory that a process has used since [`reset_peak_memory`], in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    process(pid).status().unwrap().vmhwm.unwrap() * 1024
}

/// Sets the peak of a process's memory to what it uses now (proc_pid_clear_refs(5)).
pub(crate) fn reset_peak_memory(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// Returns the names of a process's threads, without the kernel's threads of a ring.
pub(crate) fn threads(pid: u32) -> Vec<String> {
    let names = tasks(pid).filter_map(|task| Some(task.stat().ok()?.comm));
    names.filter(|name| !name.starts_with("iou-")).collect()
}

/// Returns the states of a process's threads, such as `S` or `T`.
pub(crate) fn thread_states(pid: u32) -> Vec<char> {
    tasks(pid).filter_map(|task| Some(task.stat().ok()?.state)).collect()
}

/// True if a process has a handler for SIGTERM.
pub(crate) fn handles_sigterm(pid: u32) -> bool {
    process(pid).status().unwrap().sigcgt & 1 << (libc::SIGTERM - 1) != 0
}

fn process(pid: u32) -> Process {
    Process::new(pid as i32).unwrap()
}

fn tasks(pid: u32) -> impl Iterator<Item = Task> {
    process(pid).tasks().unwrap().flatten()
}
