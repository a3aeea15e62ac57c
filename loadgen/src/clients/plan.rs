//! The plan of a run's threads, and the part of each thread in it.

use std::time::Duration;

use crate::clients::connection::Service;
use crate::clients::engine::Engine;
use crate::clients::pattern::Pattern;
use crate::clients::schedule::OpenLoop;
use crate::clients::slices::SliceHandle;
use crate::clients::socket::Target;

/// Plan that all threads of a run follow.
#[derive(Debug)]
pub struct Plan {
    /// System calls to use.
    pub engine: Engine,
    /// Address of the server.
    pub target: Target,
    /// Service that the server is expected to provide.
    pub service: Service,
    /// Bytes of the requests.
    pub pattern: Pattern,
    /// Timeout for a connect or an exchange.
    pub timeout: Duration,
    /// New connections per second, over all threads; `None` is as fast as possible.
    pub connect_rate: Option<f64>,
    /// Number of threads.
    pub threads: usize,
    /// Schedule of an open loop; `None` is a closed loop.
    pub open: Option<OpenLoop>,
    /// Time that a closed loop polls for replies before it sleeps.
    pub spin: Duration,
    /// Length of the intervals of the measured window.
    pub interval_ns: u64,
    /// Handle of a run that shares time slices with other runs. Closed loops without a number of
    /// requests only.
    pub slices: Option<SliceHandle>,
}

/// Connections and exchanges of one thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadLoad {
    /// Number of the thread.
    pub thread: usize,
    /// Number of its first connection.
    pub first: u32,
    /// Number of connections.
    pub connections: u32,
    /// Number of measured exchanges; `u64::MAX` is no limit.
    pub requests: u64,
}

impl ThreadLoad {
    /// Divides connections and exchanges among `threads` as evenly as possible.
    pub fn divide(connections: u32, requests: Option<u64>, threads: usize) -> Vec<Self> {
        let part = |whole: u64, thread: usize| {
            let threads = threads as u64;
            whole / threads + u64::from((thread as u64) < whole % threads)
        };
        let mut first = 0;
        let mut loads = Vec::new();
        for thread in 0..threads {
            let connections = part(connections.into(), thread) as u32;
            let requests = requests.map_or(u64::MAX, |requests| part(requests, thread));
            loads.push(Self { thread, first, connections, requests });
            first += connections;
        }
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_loads_add_up() {
        for (connections, requests, threads) in
            [(1000, Some(7), 3), (2, Some(100), 4), (5, None, 2)]
        {
            let loads = ThreadLoad::divide(connections, requests, threads);
            assert_eq!(loads.len(), threads);
            let mut first = 0;
            for load in &loads {
                assert_eq!(load.first, first);
                first += load.connections;
            }
            assert_eq!(first, connections);
            match requests {
                Some(requests) => {
                    assert_eq!(loads.iter().map(|load| load.requests).sum::<u64>(), requests);
                }
                None => assert!(loads.iter().all(|load| load.requests == u64::MAX)),
            }
        }
    }
}
