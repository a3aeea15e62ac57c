//! How a run is divided among the threads.

/// The share of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Which thread.
    pub thread: usize,
    /// The number of its first connection.
    pub first: u32,
    /// How many connections.
    pub connections: u32,
    /// How many measured exchanges; `u64::MAX` is no limit.
    pub requests: u64,
}

impl Share {
    /// Divides connections and exchanges among `threads`, as evenly as they go.
    pub fn divide(connections: u32, requests: Option<u64>, threads: usize) -> Vec<Self> {
        let part = |whole: u64, thread: usize| {
            let threads = threads as u64;
            whole / threads + u64::from((thread as u64) < whole % threads)
        };
        let mut first = 0;
        let mut shares = Vec::new();
        for thread in 0..threads {
            let connections = part(connections.into(), thread) as u32;
            let requests = requests.map_or(u64::MAX, |requests| part(requests, thread));
            shares.push(Self { thread, first, connections, requests });
            first += connections;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (connections, requests, threads) in
            [(1000, Some(7), 3), (2, Some(100), 4), (5, None, 2)]
        {
            let shares = Share::divide(connections, requests, threads);
            assert_eq!(shares.len(), threads);
            let mut first = 0;
            for share in &shares {
                assert_eq!(share.first, first);
                first += share.connections;
            }
            assert_eq!(first, connections);
            match requests {
                Some(requests) => {
                    assert_eq!(shares.iter().map(|share| share.requests).sum::<u64>(), requests);
                }
                None => assert!(shares.iter().all(|share| share.requests == u64::MAX)),
            }
        }
    }
}
