//! A server and its clients under a bench.

use std::time::{Duration, Instant};

use crate::{Counts, Subject};

/// Clients that make exchanges with a server.
pub trait Load {
    /// Makes one exchange with each client, and checks every byte of the replies.
    ///
    /// # Panics
    ///
    /// If a client cannot connect, or if a reply is wrong or exceeds the timeout.
    fn exchange(&mut self);

    /// Closes every connection, and returns the counts that the server must have.
    ///
    /// # Panics
    ///
    /// If the server sends more than its replies, or does not close a connection.
    fn finish(self) -> Counts;
}

/// A server and its clients. They start at the first measurement: the bench may be filtered out.
#[derive(Debug)]
pub struct Pair<L, S> {
    start: S,
    started: Option<(Subject, L)>,
}

impl<L: Load, S: Fn() -> (Subject, L)> Pair<L, S> {
    /// Prepares a pair that `start` starts.
    pub fn new(start: S) -> Self {
        Self { start, started: None }
    }

    /// Measures `batches` of one exchange with each client.
    pub fn measure(&mut self, batches: u64) -> Duration {
        let (_, clients) = self.started.get_or_insert_with(&self.start);
        let start = Instant::now();
        for _ in 0..batches {
            clients.exchange();
        }
        start.elapsed()
    }

    /// Ends both, and compares their counts.
    pub fn finish(self) {
        if let Some((subject, clients)) = self.started {
            subject.finish(&clients.finish());
        }
    }
}
