//! The accept queue as the kernel sees it: the connections that are established and not accepted.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// A listener's accept queue at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AcceptQueue {
    /// Connections waiting in it.
    pub(crate) waiting: u32,
    /// Its limit: the backlog, capped at `net.core.somaxconn`. It holds one more.
    pub(crate) limit: u32,
}

impl Display for AcceptQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0, {} in the accept queue, limit {}", self.waiting, self.limit)
    }
}

impl AcceptQueue {
    /// Looks at the queue of `listener`: of a listener, TCP_INFO has nothing else to tell
    /// (`tcp_get_info`, net/ipv4/tcp.c).
    ///
    /// # Errors
    ///
    /// What getsockopt(2) says; nothing that is to be expected of a listener.
    pub(crate) fn of(listener: impl AsFd) -> io::Result<Self> {
        let fd = listener.as_fd().as_raw_fd();
        // SAFETY: it consists of integers, for which zero is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        // SAFETY: `info` is writable, and `length` bytes long.
        match unsafe { libc::getsockopt(fd, level, name, (&raw mut info).cast(), &raw mut length) }
        {
            0 => Ok(Self { waiting: info.tcpi_unacked, limit: info.tcpi_sacked }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// What the kernel has counted for all listeners of this network namespace together, since it
/// was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Overflows {
    /// Handshakes that found an accept queue full; each try of a client counts.
    pub(crate) overflows: u64,
    /// Handshakes not begun or not completed, for this or another reason.
    pub(crate) drops: u64,
}

impl Overflows {
    /// What is counted now; none where the kernel does not show it.
    pub(crate) fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/thread-self/net/netstat").ok()?)
    }

    /// What has been added since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            overflows: self.overflows.wrapping_sub(before.overflows),
            drops: self.drops.wrapping_sub(before.drops),
        }
    }

    /// A line of names, and one of numbers in the same order (proc_pid_net(5)).
    fn parse(netstat: &str) -> Option<Self> {
        let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
        let (names, numbers) = (lines.next()?.split(' '), lines.next()?.split(' '));
        let find = |wanted| names.clone().zip(numbers.clone()).find(|(name, _)| *name == wanted);
        let count = |wanted| find(wanted)?.1.parse().ok();
        Some(Self { overflows: count("ListenOverflows")?, drops: count("ListenDrops")? })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_queue_is_what_is_connected_and_not_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // std's backlog is 128
        let addr = listener.local_addr().unwrap();
        assert_eq!(AcceptQueue::of(&listener).unwrap(), AcceptQueue { waiting: 0, limit: 128 });
        let _clients = [(); 3].map(|()| TcpStream::connect(addr).unwrap());
        assert_eq!(AcceptQueue::of(&listener).unwrap().waiting, 3);
        let _accepted = listener.accept().unwrap();
        assert_eq!(AcceptQueue::of(&listener).unwrap().waiting, 2);
    }

    #[test]
    fn counters_are_found_by_name_and_subtracted() {
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPLoss\n\
                       TcpExt: 9 7 8 1\nIpExt: InNoRoutes\nIpExt: 5\n";
        let before = Overflows::parse(netstat).unwrap();
        assert_eq!(before, Overflows { overflows: 7, drops: 8 });
        let now = Overflows { overflows: 10, drops: 18 };
        assert_eq!(now.since(before), Overflows { overflows: 3, drops: 10 });
        assert_eq!(Overflows::parse("TcpExt: ListenDrops\nTcpExt: 8\n"), None);
        assert_eq!(Overflows::parse(""), None);
    }
}
