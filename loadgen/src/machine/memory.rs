//! Memory of processes and of the kernel (proc(5)).

use std::fs;
use std::path::Path;

use lockstep_results::cgroup::{groups_of, memory_left};
use procfs::process::Process;
use procfs::{Current, Meminfo};
use rustix::process::Pid;

/// Memory that the kernel uses for everything on this machine.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kernel {
    /// `Slab`, `KernelStack` and `PageTables` of `/proc/meminfo`, bytes. The first includes
    /// sockets, the second grows with threads.
    pub bytes: u64,
    /// `mem` of TCP in `/proc/net/sockstat`, bytes: TCP's buffers in this network namespace.
    pub tcp_bytes: u64,
}

impl Kernel {
    /// Reads the present use; a value that the kernel does not report is zero.
    pub fn now() -> Self {
        let of_kernel = |meminfo: Meminfo| {
            meminfo.slab + meminfo.kernel_stack.unwrap_or(0) + meminfo.page_tables.unwrap_or(0)
        };
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let pages = parse_tcp_pages(&sockstat).unwrap_or(0);
        Self {
            bytes: Meminfo::current().map_or(0, of_kernel),
            tcp_bytes: pages * rustix::param::page_size() as u64,
        }
    }
}

/// Returns the bytes of memory that this process and its children may still take, and what limits
/// them: `MemAvailable` of `/proc/meminfo`, or the limit of a control group. `None` if neither is
/// readable.
pub fn left() -> Option<(u64, String)> {
    let machine = Meminfo::current().ok().and_then(|meminfo| meminfo.mem_available);
    let machine = machine.map(|bytes| (bytes, "this machine".to_owned()));
    let groups = groups_of(Path::new("/"), &["self".to_owned()], "memory").into_iter();
    let groups = groups.filter_map(|group| {
        Some((memory_left(&group)?, format!("the control group {}", group.display())))
    });
    groups.chain(machine).min()
}

/// Reads the memory of a process that no file backs, in bytes, counted page by page; `None` if the
/// process is gone or not readable.
///
/// `RssAnon` of `/proc/PID/status` costs less, but may lag behind.
pub fn anonymous(pid: Pid) -> Option<u64> {
    let process = Process::new(pid.as_raw_nonzero().get()).ok()?;
    let rollup = process.smaps_rollup().ok()?.memory_map_rollup;
    rollup.0.first()?.extension.map.get("Anonymous").copied()
}

/// Parses the pages in `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 7`.
fn parse_tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn kernel_memory_is_read() {
        let sockstat = "sockets: used 12\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 7\nUDP: mem 9\n";
        assert_eq!(parse_tcp_pages(sockstat), Some(7));
        assert_eq!(parse_tcp_pages("UDP: inuse 0 mem 0\n"), None);
        assert!(Kernel::now().bytes > 0);
    }

    // A process of its own: tests that run beside this one free memory of theirs at any time.
    #[test]
    fn written_pages_count_as_anonymous() {
        let size = 32 << 20;
        let mut dd = Command::new("dd")
            .args(["if=/dev/zero", &format!("bs={size}"), "count=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // dd writes after it has filled its buffer, and blocks because the pipe is smaller.
        dd.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let bytes = anonymous(Pid::from_child(&dd)).unwrap();
        dd.kill().unwrap();
        dd.wait().unwrap();
        assert!((size..2 * size).contains(&bytes), "{bytes}");
    }
}
