//! What the connections of a cell need of this machine, and the limits that it has.
//!
//! Only what is certain to fail is refused: the costs are about the least that was measured.

use std::fs;

use crate::machine::{limits, memory};
use crate::run::args::RunArgs;
use crate::servers::embedded;
use lockstep_sys::limits::{raise_open_files, threads, threads_of_process};

/// Largest number of processes on either side.
pub(super) const PROCESSES_MAX: u32 = 64;

/// Standard deviations by which a server process may have more connections than an even share. The
/// kernel spreads them at random by a hash, so that the number has a binomial distribution.
const DEVIATIONS: f64 = 6.0;

/// Share of the threads that may exist on this machine that a server may start.
const THREADS_SHARE: f64 = 0.75;

/// Kernel memory of a connection over loopback, both ends, bytes: sockets, files, inodes, a port
/// and events are 8 to 11 KB while it is idle, and a request on its way is 1.2 KB. Linux 6.18,
/// 1,000 to 200,000 connections: `kernel` of the results.
const KERNEL_BYTES: u64 = 10 << 10;

/// Memory of server and generator for a connection, bytes.
const USER_BYTES: u64 = 256;

/// Memory of a server's thread for one connection, bytes: the used part of two stacks, and the
/// kernel's tables of it.
const THREAD_BYTES: u64 = 28 << 10;

/// Memory of a process of either side without connections, bytes.
const PROCESS_BYTES: u64 = 3 << 20;

/// Connections of a cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    conns: u64,
    /// Bytes in a request.
    size: u64,
    /// True if the server has a thread for each connection.
    threads: bool,
    /// Processes that the options ask for.
    processes: Option<u32>,
}

/// Limits on the connections of this machine.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Descriptors that a process has for connections.
    files: u64,
    /// Threads that a process has mappings for.
    threads_of_process: u64,
    /// Threads in all, and the name of that limit.
    threads: Option<(u64, &'static str)>,
    /// Memory of TCP that the kernel uses at most, bytes.
    tcp_bytes: Option<u64>,
}

impl Limits {
    /// Reads the limits, and raises that of descriptors.
    pub(super) fn read() -> Self {
        let tcp_mem = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").ok();
        Self {
            files: limits::room(raise_open_files()),
            threads_of_process: threads_of_process() as u64,
            threads: threads(),
            tcp_bytes: tcp_mem.and_then(|text| {
                let pages: u64 = text.split_whitespace().nth(2)?.parse().ok()?;
                Some(pages.saturating_mul(rustix::param::page_size() as u64))
            }),
        }
    }
}

impl Needs {
    pub(super) fn of(args: &RunArgs, processes: Option<u32>) -> Self {
        Self {
            conns: args.conns.into(),
            size: args.size.into(),
            threads: embedded::thread_per_connection(&args.backend),
            processes,
        }
    }

    /// Returns the number of processes on either side.
    ///
    /// # Errors
    ///
    /// The limit that does not suffice for all connections.
    pub(super) fn processes(&self, limits: &Limits) -> Result<u32, String> {
        if let Some((all, name)) = limits.threads.filter(|_| self.threads)
            && self.conns as f64 > all as f64 * THREADS_SHARE
        {
            return Err(format!(
                "it needs a thread for each connection, and {name} allows {all} in all"
            ));
        }
        // The kernel charges at least a page for each socket with data.
        let tcp_bytes = self.conns * rustix::param::page_size() as u64;
        if let Some(limit) = limits.tcp_bytes.filter(|&limit| limit < tcp_bytes) {
            return Err(format!(
                "its requests on their way take {} of TCP's memory, which net.ipv4.tcp_mem limits \
                 to {}; raise that with sysctl",
                size(tcp_bytes),
                size(limit)
            ));
        }
        let (room, remedy) = match self.threads && limits.threads_of_process < limits.files {
            true => (limits.threads_of_process, "sysctl vm.max_map_count"),
            false => (limits.files, "`ulimit -n`"),
        };
        let needed = processes_for(self.conns, room);
        let processes = self.processes.map_or(needed, u64::from);
        if processes > self.conns {
            return Err("there are more processes than connections".to_owned());
        }
        if processes < needed || processes > PROCESSES_MAX.into() {
            return Err(format!(
                "it takes {needed} processes, which may have {room} connections each{}; raise that \
                 with {remedy}",
                match processes > PROCESSES_MAX.into() {
                    true => format!(", and {PROCESSES_MAX} are the most"),
                    false => String::new(),
                }
            ));
        }
        Ok(processes as u32)
    }

    /// Checks that this machine has the memory for all connections now, with so many processes on
    /// either side.
    ///
    /// # Errors
    ///
    /// As [`fits`](Self::fits).
    pub(super) fn check_memory(&self, processes: u32, limits: &Limits) -> Result<(), String> {
        memory::left().map_or(Ok(()), |(left, whose)| self.fits(processes, limits, left, &whose))
    }

    /// Checks that the connections fit the memory that `whose` has left.
    ///
    /// # Errors
    ///
    /// Both numbers, and the number of connections that would fit.
    fn fits(&self, processes: u32, limits: &Limits, left: u64, whose: &str) -> Result<(), String> {
        let thread = if self.threads { THREAD_BYTES } else { 0 };
        let requests = (self.conns * self.size).min(limits.tcp_bytes.unwrap_or(u64::MAX));
        let each = KERNEL_BYTES + USER_BYTES + thread + requests / self.conns.max(1);
        let fixed = 2 * u64::from(processes) * PROCESS_BYTES;
        let needed = self.conns * each + fixed;
        if needed <= left {
            return Ok(());
        }
        Err(format!(
            "it needs {} of memory, about {} for each connection, and {whose} has {} left, enough \
             for {}",
            size(needed),
            size(each),
            size(left),
            left.saturating_sub(fixed) / each
        ))
    }
}

/// Returns the number of server processes among which the kernel may spread `conns` connections
/// without that any gets more than `room`.
fn processes_for(conns: u64, room: u64) -> u64 {
    if conns <= room {
        return 1;
    }
    // The largest mean m for which m + DEVIATIONS * sqrt(m) is at most the room.
    let root = ((DEVIATIONS / 2.0).powi(2) + room as f64).sqrt() - DEVIATIONS / 2.0;
    conns.div_ceil(((root * root) as u64).max(1))
}

/// Bytes with a unit: `1.9 GiB`, `12.3 MiB`, `10.2 KiB`.
fn size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match kib {
        ..1024.0 => format!("{kib:.1} KiB"),
        ..1_048_576.0 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.1} GiB", kib / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        files: 19_744,
        threads_of_process: 32_253,
        threads: Some((32_768, "kernel.pid_max")),
        tcp_bytes: Some(575_796 * 4096),
    };

    fn needs(conns: u64) -> Needs {
        Needs { conns, size: 64, threads: false, processes: None }
    }

    #[test]
    fn processes_follow_from_descriptors() {
        for (conns, processes) in [
            (1, 1),
            (10_000, 1),
            (19_744, 1),
            (19_745, 2),
            (37_800, 2),
            (50_000, 3),
            (100_000, 6),
            (200_000, 11),
        ] {
            assert_eq!(needs(conns).processes(&LIMITS), Ok(processes), "{conns}");
        }
        let asked = |count| Needs { processes: Some(count), ..needs(100_000) }.processes(&LIMITS);
        assert_eq!((asked(6), asked(64)), (Ok(6), Ok(64)));
        assert!(asked(5).unwrap_err().contains("it takes 6 processes, which may have 19744"));
        let few = Limits { files: 768, ..LIMITS };
        let error = needs(100_000).processes(&few).unwrap_err();
        assert!(error.contains("it takes 162 processes"), "{error}");
        assert!(error.contains("64 are the most") && error.contains("`ulimit -n`"), "{error}");
        assert!(needs(1).processes(&Limits { files: 0, ..LIMITS }).is_ok());
        let error = needs(70).processes(&Limits { files: 0, ..LIMITS }).unwrap_err();
        assert!(error.contains("it takes 70 processes"), "{error}");
        let asked = Needs { processes: Some(3), ..needs(2) };
        assert!(asked.processes(&LIMITS).unwrap_err().contains("more processes than"));
    }

    /// No process gets more connections than it has room for, unless a hash spreads them six
    /// standard deviations apart; and one process less would not do.
    #[test]
    fn spread_over_processes_fits_the_room() {
        let fits = |conns: u64, processes: u64, room: u64| {
            let mean = conns as f64 / processes as f64;
            processes == 1 && conns <= room || mean + DEVIATIONS * mean.sqrt() <= room as f64 + 1e-6
        };
        let mut rng = fastrand::Rng::with_seed(14);
        for _ in 0..20_000 {
            let (conns, room) = (rng.u64(1..400_000), rng.u64(10..40_000));
            let processes = processes_for(conns, room);
            assert!(fits(conns, processes, room), "{conns} in {room}: {processes}");
            let mean = (conns / processes) as f64;
            let spare = room as f64 - (mean + DEVIATIONS * mean.sqrt());
            // The mean is rounded down to a whole connection, the processes up.
            let few = (conns as f64 / (processes - 1).max(1) as f64).floor() - 1.0;
            let less = few + DEVIATIONS * few.sqrt() > room as f64 - 8.0;
            assert!(processes == 1 || less, "{conns} in {room}: {processes}, {spare} to spare");
        }
    }

    #[test]
    fn limit_that_stops_threads_is_named() {
        let blocking = |conns| Needs { threads: true, ..needs(conns) };
        assert_eq!(blocking(24_576).processes(&LIMITS), Ok(2));
        let error = blocking(24_577).processes(&LIMITS).unwrap_err();
        assert!(error.contains("kernel.pid_max allows 32768"), "{error}");
        let none = Limits { threads: None, threads_of_process: 500, ..LIMITS };
        let error = blocking(50_000).processes(&none).unwrap_err();
        assert!(
            error.contains("500 connections each") && error.contains("max_map_count"),
            "{error}"
        );
    }

    #[test]
    fn tcp_memory_takes_a_page_for_each_connection() {
        let limits = Limits { files: 1 << 30, ..LIMITS };
        assert_eq!(needs(575_796).processes(&limits), Ok(1));
        let error = needs(575_797).processes(&limits).unwrap_err();
        assert!(error.contains("net.ipv4.tcp_mem limits to 2.2 GiB"), "{error}");
        let unknown = Limits { tcp_bytes: None, ..limits };
        assert_eq!(needs(1 << 29).processes(&unknown), Ok(1));
    }

    #[test]
    fn memory_that_is_short_names_both_numbers() {
        let gib = |count: u64| count << 30;
        let fits = |needs: Needs, processes, left| needs.fits(processes, &LIMITS, left, "it");
        for conns in [1, 1000, 10_000, 100_000, 200_000, 1_000_000] {
            // The least that suffices, and a byte less.
            let least = conns * (KERNEL_BYTES + USER_BYTES + 64) + 2 * PROCESS_BYTES;
            assert_eq!(fits(needs(conns), 1, least), Ok(()), "{conns}");
            assert!(fits(needs(conns), 1, least - 1).is_err(), "{conns}");
            assert!(fits(needs(conns), 2, least).is_err(), "{conns}");
        }
        assert_eq!(fits(needs(200_000), 11, gib(3)), Ok(()));
        assert_eq!(
            fits(needs(200_000), 11, gib(1)).unwrap_err(),
            "it needs 2.0 GiB of memory, about 10.3 KiB for each connection, and it has 1.0 GiB \
             left, enough for 95126"
        );
        let enough = |needs: Needs, left| {
            let error = fits(needs, 11, left).unwrap_err();
            error.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let fit = enough(needs(200_000), gib(1));
        assert_eq!(fits(needs(fit), 11, gib(1)), Ok(()), "what is said to fit does");
        assert_eq!(enough(needs(200_000), 0), 0);
        let threads = Needs { threads: true, ..needs(20_000) };
        assert!(
            fits(threads, 2, gib(1) / 2).is_err() && fits(needs(20_000), 2, gib(1) / 2).is_ok()
        );
    }

    #[test]
    fn large_requests_take_memory_up_to_that_of_tcp() {
        let large = |conns| Needs { size: 1 << 20, ..needs(conns) };
        let fits = |conns, left| large(conns).fits(1, &LIMITS, left, "it");
        assert!(fits(1000, 1 << 30).is_ok() && fits(1000, 7 << 27).is_err());
        // TCP's memory ends at 2.2 GiB, however many there are.
        assert!(fits(19_000, 2 << 30).is_err() && fits(19_000, 5 << 29).is_ok());
    }

    #[test]
    fn sizes_have_a_unit() {
        let sizes = [0, 10_496, 3 << 20, 2 << 30].map(size);
        assert_eq!(sizes, ["0.0 KiB", "10.2 KiB", "3.0 MiB", "2.0 GiB"]);
    }
}
