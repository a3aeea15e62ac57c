//! The command line of a reference server.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use clap::Args;

/// The most processors an affinity mask can name (CPU_SETSIZE, sched_setaffinity(2)).
pub(super) const CPUS_MAX: usize = 1024;

/// What every reference server can be told, as `lockstep serve` can.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8898")]
    pub(super) listen: SocketAddr,

    /// The listen queue asked of listen(2)
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(super) backlog: u32,

    /// Processors to run on, such as 0 or 0,2-3
    #[arg(long, value_name = "CPULIST", value_parser = cpu_list)]
    pub(super) pin: Option<CpuList>,
}

/// For the reference servers that use more than one processor.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Workers {
    /// Threads that serve; by default one for each processor it may run on
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<NonZeroUsize>,
}

type CpuList = Vec<usize>;

/// Processors in the kernel's own notation.
fn cpu_list(text: &str) -> Result<CpuList, String> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < CPUS_MAX).then_some(first..=last)
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    let malformed = || format!("not a list of processors such as 0 or 0,2-3: {text:?}");
    Ok(ranges.ok_or_else(malformed)?.into_iter().flatten().collect())
}
