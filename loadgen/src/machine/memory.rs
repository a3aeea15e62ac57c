//! How much memory processes and the kernel use (proc(5)).

use std::fs;

use rustix::process::Pid;

/// What the kernel uses, for everything that runs here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kernel {
    /// `Slab`, `KernelStack` and `PageTables` of `/proc/meminfo`, bytes: sockets are among the
    /// first, threads have the second.
    pub bytes: u64,
    /// `mem` of TCP in `/proc/net/sockstat`, bytes: what its buffers hold in this network namespace.
    pub tcp_bytes: u64,
}

impl Kernel {
    /// What it uses now; zero where it does not say.
    pub fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let pages = parse_tcp_pages(&read("/proc/net/sockstat")).unwrap_or(0);
        Self {
            bytes: parse_meminfo(&read("/proc/meminfo")),
            tcp_bytes: pages * rustix::param::page_size() as u64,
        }
    }
}

/// The memory of a process that no file backs, in bytes, counted page by page; `None` when it is
/// gone or not ours to read.
///
/// `RssAnon` of `/proc/PID/status` is had for less, and may lag behind.
pub fn anonymous(pid: Pid) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero())).ok()?;
    kilobytes(&rollup, "Anonymous:")
}

fn parse_meminfo(meminfo: &str) -> u64 {
    let names = ["Slab:", "KernelStack:", "PageTables:"];
    names.iter().filter_map(|name| kilobytes(meminfo, name)).sum()
}

/// `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 7`.
fn parse_tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// The bytes of a line such as `Slab:    861320 kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        let meminfo = "MemFree: 7 kB\nSlab:     100 kB\nKernelStack:  20 kB\nPageTables:  3 kB\n";
        assert_eq!(parse_meminfo(meminfo), 123 * 1024);
        let sockstat = "sockets: used 12\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 7\nUDP: mem 9\n";
        assert_eq!(parse_tcp_pages(sockstat), Some(7));
        assert_eq!(parse_tcp_pages("UDP: inuse 0 mem 0\n"), None);
        assert!(Kernel::now().bytes > 0);
    }

    #[test]
    fn what_is_written_to_is_counted() {
        let own = rustix::process::getpid();
        let before = anonymous(own).unwrap();
        let pages = vec![1u8; 32 << 20];
        assert!(anonymous(own).unwrap() >= before + (24 << 20), "{}", pages.len());
    }
}
