//! The processes that a server consists of (proc(5)).

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use procfs::net::{TcpNetEntry, TcpState, tcp, tcp6};
use procfs::process::{FDTarget, Process, all_processes};
use rustix::process::Pid;

/// The processes of a server.
#[derive(Clone, Copy, Debug)]
pub enum Processes {
    /// This process.
    One(Pid),
    /// All descendants of this process, without itself. It must be a subreaper
    /// (PR_SET_CHILD_SUBREAPER(2const)), or processes whose parents have ended are missed.
    Under(Pid),
    /// The processes at an address: a server may have a worker for each CPU, or a process for each
    /// connection.
    At {
        /// Address that clients connect to.
        addr: SocketAddr,
        /// True if connections last. Then only their holders serve, and processes that merely hold
        /// the listener are left out, such as a supervisor, or a shell that inherited it.
        lasting: bool,
    },
}

impl Processes {
    /// Lists the present processes; empty if some of them are not readable. Those that are `known`
    /// to serve are not left out when they hold no connection any more.
    pub fn list(self, known: &[Pid]) -> Vec<Pid> {
        match self {
            Self::One(pid) => vec![pid],
            Self::Under(root) => descendants(root),
            Self::At { addr, lasting } => holders(addr, lasting, known).unwrap_or_default(),
        }
    }
}

/// Returns a process that listens at `addr` on this machine, if one is found.
pub fn listener(addr: SocketAddr) -> Option<Pid> {
    let listeners = listening(&sockets(addr));
    let found = search(&listeners);
    found.first().filter(|_| all_are_held(&listeners, &found)).map(|(pid, _)| *pid)
}

/// Returns the number of listeners that share connections to `addr` (socket(7), SO_REUSEPORT).
pub fn listeners(addr: SocketAddr) -> usize {
    let mut counts: HashMap<SocketAddr, usize> = HashMap::new();
    // Listeners at an address and at all addresses do not share connections.
    for socket in sockets(addr).iter().filter(|socket| socket.state == TcpState::Listen) {
        *counts.entry(socket.local_address).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0)
}

/// Listener at an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listener {
    /// A process or a descendant of it holds the socket.
    Own,
    /// Only other processes hold it, or its holder is not readable.
    Other,
}

/// Returns whose listener accepts connections to `addr` on this machine, in relation to the
/// descendants of a process; `None` if there is no listener.
pub fn listener_of(root: Pid, addr: SocketAddr) -> Option<Listener> {
    let listeners = listening(&sockets(addr));
    if listeners.is_empty() {
        return None;
    }
    let holders = search(&listeners);
    let own = descendants(root).iter().any(|pid| holders.iter().any(|(holder, _)| holder == pid));
    Some(if own { Listener::Own } else { Listener::Other })
}

/// Returns all descendants of a process, except those that have ended and are not waited for yet.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let running = |process: Process| {
        let stat = process.stat().ok()?;
        (stat.state != 'Z').then_some((Pid::from_raw(stat.pid)?, stat.ppid))
    };
    let all: Vec<(Pid, i32)> = every_process().filter_map(running).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|pid| pid.as_raw_nonzero().get()) {
        found.extend(all.iter().filter(|&&(_, of)| of == parent).map(|&(pid, _)| pid));
        next += 1;
    }
    found.split_off(1)
}

/// A process, and the sockets that it holds.
type Holder = (Pid, Vec<u64>);

/// Returns the processes that hold a socket with `addr`, or a `lasting` connection if there is one;
/// `None` if the holder of a listener is missing.
fn holders(addr: SocketAddr, lasting: bool, known: &[Pid]) -> Option<Vec<Pid>> {
    let sockets = sockets(addr);
    let listeners = listening(&sockets);
    let found = search(&sockets.iter().map(|socket| socket.inode).collect());
    // Connections come and go, listeners stay: only these show whether all holders are readable.
    if listeners.is_empty() || !all_are_held(&listeners, &found) {
        return None;
    }
    let serves = |held: &[u64]| !lasting || held.iter().any(|inode| !listeners.contains(inode));
    let pids = |found: &[Holder]| -> Vec<Pid> { found.iter().map(|(pid, _)| *pid).collect() };
    let (serving, idle): (Vec<Holder>, Vec<Holder>) =
        found.into_iter().partition(|(pid, held)| serves(held) || known.contains(pid));
    let nothing_shows = serving.is_empty() && known.is_empty();
    Some(pids(if nothing_shows { &idle } else { &serving }))
}

fn listening(sockets: &[TcpNetEntry]) -> HashSet<u64> {
    let listeners = sockets.iter().filter(|socket| socket.state == TcpState::Listen);
    listeners.map(|socket| socket.inode).collect()
}

/// True if each of these sockets is held by one of the processes.
fn all_are_held(inodes: &HashSet<u64>, holders: &[Holder]) -> bool {
    inodes.iter().all(|inode| holders.iter().any(|(_, held)| held.contains(inode)))
}

/// Returns the processes that hold any of these sockets, as far as their descriptors are readable,
/// each with the sockets that it holds.
fn search(inodes: &HashSet<u64>) -> Vec<Holder> {
    if inodes.is_empty() {
        return Vec::new();
    }
    let holder = |process: Process| {
        let descriptors = process.fd().into_iter().flatten().flatten();
        let held: Vec<u64> = descriptors
            .filter_map(|descriptor| match descriptor.target {
                FDTarget::Socket(inode) if inodes.contains(&inode) => Some(inode),
                _ => None,
            })
            .collect();
        (!held.is_empty()).then_some((Pid::from_raw(process.pid)?, held))
    };
    every_process().filter_map(holder).collect()
}

fn every_process() -> impl Iterator<Item = Process> {
    all_processes().into_iter().flatten().flatten()
}

/// Returns the sockets of this machine whose own address is `addr`, and the listeners that accept
/// connections to it. Sockets not accepted yet, and closed ones, have no inode.
fn sockets(addr: SocketAddr) -> Vec<TcpNetEntry> {
    let all = tcp().into_iter().chain(tcp6()).flatten();
    let at_addr = |socket: &TcpNetEntry| {
        socket.inode > 0 && takes(socket.local_address, socket.state == TcpState::Listen, addr)
    };
    all.filter(at_addr).collect()
}

/// True if a socket at `own` has the address, or is a listener on all addresses. One on `[::]`
/// accepts IPv4 connections, too.
fn takes(own: SocketAddr, is_listener: bool, addr: SocketAddr) -> bool {
    let ip = addr.ip().to_canonical();
    let any = is_listener && own.ip().is_unspecified() && (ip.is_ipv4() || own.is_ipv6());
    own.port() == addr.port() && (own.ip().to_canonical() == ip || any)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn sockets_match_by_address_or_as_listener_on_all_addresses() {
        let takes = |own: &str, is_listener, addr: &str| {
            takes(own.parse().unwrap(), is_listener, addr.parse().unwrap())
        };
        let target = "127.0.0.1:8898";
        for own in [target, "[::ffff:127.0.0.1]:8898"] {
            assert!(takes(own, true, target) && takes(own, false, target), "{own}");
        }
        for own in ["0.0.0.0:8898", "[::]:8898"] {
            assert!(takes(own, true, target) && !takes(own, false, target), "{own}");
        }
        for own in ["127.0.0.2:8898", "127.0.0.1:8899", "[::1]:8898"] {
            assert!(!takes(own, true, target), "{own}");
        }
        assert!(takes("[::]:80", true, "[::1]:80") && !takes("0.0.0.0:80", true, "[::1]:80"));
    }

    /// A child of another test holds copies of all descriptors until it calls execve(2).
    #[track_caller]
    fn assert_found(addr: SocketAddr, mut expected: Vec<Pid>) {
        expected.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let found = Processes::At { addr, lasting: false }.list(&[]);
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{addr}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn process_that_only_holds_the_listener_does_not_serve() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        // A shell that has inherited the listener.
        let stdin = std::os::fd::OwnedFd::from(listener.try_clone().unwrap());
        let mut child = Command::new("sleep").arg("60").stdin(stdin).spawn().unwrap();
        let (own, other) = (rustix::process::getpid(), Pid::from_child(&child));
        assert_found(addr, vec![own, other]);
        let client = TcpStream::connect(addr).unwrap();
        let accepted = listener.accept().unwrap().0;
        let serving = |known: &[Pid]| Processes::At { addr, lasting: true }.list(known);
        // A child of another test holds copies of all descriptors until it calls execve(2).
        let found = |known: &[Pid]| {
            let found = serving(known);
            (found.contains(&own), found.contains(&other))
        };
        assert_eq!(found(&[]), (true, false));
        assert_eq!(found(&[other]), (true, true));
        drop((client, accepted));
        // Without a connection, nothing shows which process serves.
        while found(&[]) != (true, true) {
            std::thread::yield_now();
        }
        assert_eq!(found(&[own]), (true, false));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn listener_is_found_by_its_address() {
        let own = rustix::process::getpid();
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(socket) = TcpListener::bind(address) else {
                continue; // no IPv6
            };
            let mut addr = socket.local_addr().unwrap();
            if addr.ip().is_unspecified() {
                addr.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            assert_found(addr, vec![own]);
            assert_eq!(listener(addr), Some(own), "{address}");
        }
    }

    #[test]
    fn listener_belongs_to_a_descendant_or_to_another_process() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let stdin = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
        let mut holder = Command::new("sleep").arg("60").stdin(stdin).spawn().unwrap();
        let own = rustix::process::getpid();
        assert_eq!(listener_of(own, addr), Some(Listener::Own));
        assert_eq!(listener_of(Pid::from_child(&other), addr), Some(Listener::Other));
        for child in [&mut other, &mut holder] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        drop(socket);
        // A child of another test holds a copy until it calls execve(2).
        while listener_of(own, addr).is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn process_of_a_connection_belongs_to_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let client = TcpStream::connect(addr).unwrap();
        let accepted = listener.accept().unwrap().0;
        // As inetd(8) does it: the connection is another process's standard input.
        let stdin = std::os::fd::OwnedFd::from(accepted.try_clone().unwrap());
        let mut child = Command::new("sleep").arg("60").stdin(stdin).spawn().unwrap();
        assert_found(addr, vec![rustix::process::getpid(), Pid::from_child(&child)]);
        child.kill().unwrap();
        child.wait().unwrap();
        drop((client, accepted));
        assert_found(addr, vec![rustix::process::getpid()]);
    }

    #[test]
    fn descendants_include_grandchildren_but_no_zombies() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let root = Pid::from_child(&shell);
        let found = loop {
            if let [found] = descendants(root)[..] {
                break found;
            }
            std::thread::yield_now();
        };
        let under = descendants(rustix::process::getpid());
        assert!(under.contains(&root) && under.contains(&found), "{under:?}");
        rustix::process::kill_process(found, rustix::process::Signal::KILL).unwrap();
        while !descendants(root).is_empty() {
            std::thread::yield_now();
        }
        // The shell has ended, and is a zombie until it is waited for.
        while descendants(rustix::process::getpid()).contains(&root) {
            std::thread::yield_now();
        }
        shell.wait().unwrap();
    }
}
