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
    /// Share of this process in the run. Its connections, requests and connect rate are divided
    /// already, the schedule of an open loop is not.
    pub share: Share,
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

/// Share of one of several equal parts, which differ by at most one: of the ranks of a run, or the
/// threads of a rank.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share {
    /// Number of the part, from 0.
    pub index: u32,
    /// Number of parts.
    pub count: u32,
}

impl Share {
    /// The only part.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// The part of a number: the quotient, and one more for the first parts if there is a
    /// remainder.
    pub fn of(self, whole: u64) -> u64 {
        let (index, count) = (u64::from(self.index), u64::from(self.count));
        whole / count + u64::from(index < whole % count)
    }

    /// The part of a rate.
    pub fn rate(self, whole: f64) -> f64 {
        whole / f64::from(self.count)
    }

    /// Seed of the part's own random choices, different for each part. That of the only part is the
    /// whole's.
    pub fn seed(self, whole: u64) -> u64 {
        match self.count {
            1 => whole,
            // Not the sequence from which the threads of one process take their seeds.
            _ => fastrand::Rng::with_seed(!whole ^ u64::from(self.index)).u64(..),
        }
    }
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
        let mut first = 0;
        let mut loads = Vec::new();
        for thread in 0..threads {
            let share = Share { index: thread as u32, count: threads as u32 };
            let connections = share.of(connections.into()) as u32;
            let requests = requests.map_or(u64::MAX, |requests| share.of(requests));
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
    fn shares_add_up_and_differ_by_at_most_one() {
        for (whole, count) in [(0, 3), (1, 1), (7, 3), (9, 3), (10_000_000_007, 4096), (5, 8)] {
            let shares = (0..count).map(|index| Share { index, count }.of(whole));
            let shares: Vec<u64> = shares.collect();
            assert_eq!(shares.iter().sum::<u64>(), whole);
            assert!(shares.is_sorted_by(|a, b| a >= b), "the first have the remainder: {shares:?}");
            assert!(shares[0] - shares[count as usize - 1] <= 1);
        }
    }

    #[test]
    fn seeds_of_shares_differ() {
        let seeds = |count| (0..count).map(move |index| Share { index, count }.seed(7));
        let mut all: Vec<u64> = seeds(1000).collect();
        assert_eq!(all, seeds(1000).collect::<Vec<_>>());
        all.push(7);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1001);
        assert_eq!(Share::WHOLE.seed(7), 7);
    }

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
