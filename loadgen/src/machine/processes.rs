//! Which processes are a server (proc(5)).

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv6Addr, SocketAddr};

use rustix::process::Pid;

/// The processes that are a server.
#[derive(Clone, Copy, Debug)]
pub enum Processes {
    /// This one.
    One(Pid),
    /// All that this one has started, and these, without itself. It has to be a subreaper
    /// (PR_SET_CHILD_SUBREAPER(2const)), or whose parents have ended are not found.
    Under(Pid),
    /// All that hold a socket of the server at this address, be it the listening one or that of a
    /// connection: there may be a worker for each processor, or a process for each connection.
    At(SocketAddr),
}

impl Processes {
    /// Those there are now; none when some of them cannot be found out.
    pub fn list(self) -> Vec<Pid> {
        match self {
            Self::One(pid) => vec![pid],
            Self::Under(root) => descendants(root),
            Self::At(addr) => holders(addr).unwrap_or_default(),
        }
    }
}

/// A process that listens at `addr` on this machine, if one can be found out.
pub fn listener(addr: SocketAddr) -> Option<Pid> {
    let listening: Vec<u64> = sockets(addr).into_iter().filter_map(Socket::if_listening).collect();
    holders_of(&listening)?.first().copied()
}

/// All processes that descend from this one.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let all: Vec<(Pid, i32)> = every_process().into_iter().filter_map(with_parent).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|pid| pid.as_raw_nonzero().get()) {
        found.extend(all.iter().filter(|&&(_, of)| of == parent).map(|&(pid, _)| pid));
        next += 1;
    }
    found.split_off(1)
}

/// All processes that hold a socket at `addr`; `None` when not even all that listen are found.
fn holders(addr: SocketAddr) -> Option<Vec<Pid>> {
    let sockets = sockets(addr);
    let all: Vec<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let listening: Vec<u64> = sockets.into_iter().filter_map(Socket::if_listening).collect();
    // Connections come and go; it is the others that tell whether all can be seen.
    holders_of(&listening)?;
    let (holders, _) = search(&all);
    Some(holders)
}

/// The processes that hold any of these sockets; `None` when there is none for some socket.
fn holders_of(inodes: &[u64]) -> Option<Vec<Pid>> {
    let (holders, found) = search(inodes);
    (!holders.is_empty() && inodes.iter().all(|inode| found.contains(inode))).then_some(holders)
}

/// The processes that hold any of these sockets, as far as they are ours to see, and which of the
/// sockets they hold.
fn search(inodes: &[u64]) -> (Vec<Pid>, HashSet<u64>) {
    let wanted: HashSet<u64> = inodes.iter().copied().collect();
    let (mut holders, mut found) = (Vec::new(), HashSet::new());
    if wanted.is_empty() {
        return (holders, found);
    }
    for pid in every_process() {
        let directory = format!("/proc/{}/fd", pid.as_raw_nonzero());
        let descriptors = fs::read_dir(directory).into_iter().flatten().flatten();
        let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        let its: Vec<u64> = links
            .filter_map(|link| link.to_str().and_then(socket_inode))
            .filter(|inode| wanted.contains(inode))
            .collect();
        if !its.is_empty() {
            holders.push(pid);
            found.extend(its);
        }
    }
    (holders, found)
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn every_process() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pid = |entry: fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
    entries.filter_map(pid).collect()
}

/// A process with its parent, unless it has ended.
fn with_parent(pid: Pid) -> Option<(Pid, i32)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Some((pid, parse_parent(&stat)?))
}

/// `ppid`, field 4, unless `state`, field 3, says that it has ended and is only to be waited for.
fn parse_parent(stat: &str) -> Option<i32> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    (fields.next()? != "Z").then_some(fields.next()?.parse().ok()?)
}

/// A socket of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Socket {
    inode: u64,
    listens: bool,
}

impl Socket {
    fn if_listening(self) -> Option<u64> {
        self.listens.then_some(self.inode)
    }
}

/// The sockets of this machine whose own address is `addr`, or that listen for all addresses.
fn sockets(addr: SocketAddr) -> Vec<Socket> {
    let read = |table| fs::read_to_string(table).unwrap_or_default();
    match addr {
        SocketAddr::V4(v4) => {
            let mut found = parse_sockets(&read("/proc/net/tcp"), addr);
            // A socket that listens on [::] takes IPv4 connections as well.
            let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), addr.port());
            found.extend(parse_sockets(&read("/proc/net/tcp6"), mapped));
            found
        }
        SocketAddr::V6(_) => parse_sockets(&read("/proc/net/tcp6"), addr),
    }
}

/// What nobody has accepted yet, and what was closed, has no inode.
fn parse_sockets(table: &str, addr: SocketAddr) -> Vec<Socket> {
    let port = format!("{:04X}", addr.port());
    let any = match addr {
        SocketAddr::V4(_) => "0".repeat(8),
        SocketAddr::V6(_) => hexadecimal(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)),
    };
    let local = hexadecimal(addr);
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (host, its_port) = fields.nth(1)?.split_once(':')?;
        let listens = fields.nth(1)? == "0A";
        let inode = fields.nth(5)?.parse().ok().filter(|&inode| inode > 0)?;
        let its = its_port == port && (host == local || listens && host == any);
        its.then_some(Socket { inode, listens })
    };
    table.lines().skip(1).filter_map(parse).collect()
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
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn who_has_ended_is_nobody_s_child() {
        assert_eq!(parse_parent("77 (a) b (c)) S 9 77 77 0 -1"), Some(9));
        assert_eq!(parse_parent("77 (a) b (c)) Z 9 77 77 0 -1"), None);
        assert_eq!(parse_parent(""), None);
    }

    #[test]
    fn sockets_are_of_the_address_or_listen_for_all() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:22C2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1\n\
            1: 0100007F:22C2 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 1002 1\n\
            2: 00000000:22C2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1003 1\n\
            3: 0200007F:22C2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1004 1\n\
            4: 0100007F:9999 0100007F:22C2 01 00000000:00000000 00:00000000 00000000     0        0 1005 1\n\
            5: 0100007F:22C2 0100007F:9998 06 00000000:00000000 00:00000000 00000000     0        0 0 1\n";
        let socket = |inode, listens| Socket { inode, listens };
        #[cfg(target_endian = "little")]
        assert_eq!(
            parse_sockets(table, "127.0.0.1:8898".parse().unwrap()),
            [socket(1001, true), socket(1002, false), socket(1003, true)]
        );
        assert!(parse_sockets(table, "127.0.0.1:8899".parse().unwrap()).is_empty());
    }

    /// Another test's child holds copies of all descriptors until it becomes another program.
    #[track_caller]
    fn assert_found(addr: SocketAddr, mut expected: Vec<Pid>) {
        expected.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let found = Processes::At(addr).list();
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{addr}: {found:?}, not {expected:?}");
        }
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
                addr.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            assert_found(addr, vec![own]);
            assert_eq!(listener(addr), Some(own), "{address}");
        }
    }

    #[test]
    fn a_connection_s_process_is_one_of_the_server() {
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
    fn children_of_children_are_found() {
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
        shell.wait().unwrap();
    }
}
