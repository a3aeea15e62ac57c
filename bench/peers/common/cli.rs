//! The command line of a reference server.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use clap::Args;
use lockstep_sys::cpus::{CpuList, allowed, parse_list};

/// Options of every reference server, as of `lockstep serve`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Listen address; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8898")]
    pub(super) listen: SocketAddr,

    /// Length of the listen queue (listen(2))
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(super) backlog: u32,

    /// CPUs to run on, such as 0 or 0,2-3
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub(super) pin: Option<CpuList>,
}

/// Options of the reference servers with several threads.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Workers {
    /// Number of threads [default: one for each CPU that it may run on]
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<NonZeroUsize>,
}

impl Workers {
    /// Returns the number of threads that serve. Must be called after pinning.
    pub(crate) fn count(self) -> io::Result<usize> {
        Ok(match self.workers {
            Some(count) => count.get(),
            None => allowed()?.len(),
        })
    }
}
