//! Counts of a server that can be read while it runs.
//!
//! Each thread that counts has cache lines of its own to publish in, so no store waits for another
//! thread's, and the reader takes no lock. A thread that ends leaves its counts there, and the next
//! thread adds to them: nothing is lost, nothing is counted twice, and the sum never falls.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use lockstep_core::Cause;

use crate::Stats;
use crate::stats::Closed;

/// Number of counts that change with each exchange. They come first, in one cache line: an exchange
/// touches no other.
const HOT: usize = 4;

/// Number of counts that are published: also connections accepted, and ended by each cause.
const COUNTS: usize = HOT + 1 + Cause::ALL.len();

/// Counts in the order in which they are published.
type Counts = [u64; COUNTS];

fn counts(stats: &Stats) -> Counts {
    let Stats { accepted, exchanges, bytes_received, bytes_sent, syscalls, closed, .. } = stats;
    let mut counts = [0; COUNTS];
    counts[..HOT].copy_from_slice(&[*exchanges, *bytes_received, *bytes_sent, *syscalls]);
    counts[HOT] = *accepted;
    counts[HOT + 1..].copy_from_slice(&closed.0);
    counts
}

/// Counts of all threads of a server, as published last.
///
/// ```
/// use lockstep_backends::{Published, Publisher, Stats};
///
/// let published = Published::new();
/// for _thread in 0..2 {
///     let (publisher, mut stats) = (Publisher::new(Some(&published)), Stats::new());
///     stats.on_accepted();
///     publisher.publish(&stats);
/// } // the second thread has used the place of the first
/// assert_eq!(published.read().accepted, 2);
/// ```
#[derive(Debug, Default)]
pub struct Published {
    /// A block is twice as large as the one before, so that there are few and none ever moves.
    blocks: [OnceLock<Box<[Place]>>; 32],
    free: Mutex<Free>,
}

/// Places without a publisher.
#[derive(Debug, Default)]
struct Free {
    returned: Vec<usize>,
    /// Number of places that have ever been taken.
    taken: usize,
}

/// Cache lines of one publisher: pairs of them, since CPUs fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place([Count; COUNTS]);

#[derive(Debug, Default)]
struct Count {
    value: AtomicU64,
    /// Part of it that is of the threads that had the place before.
    before: AtomicU64,
}

impl Published {
    /// All counts are zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a place for a thread.
    fn take(&self) -> Taken<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let index = free.returned.pop().unwrap_or_else(|| {
            free.taken += 1;
            free.taken - 1
        });
        // Blocks have 1, 2, 4, ... places.
        let block = (index + 1).ilog2();
        let places = self.blocks[block as usize]
            .get_or_init(|| (0..1 << block).map(|_| Place::default()).collect());
        drop(free); // the last publisher here has stored its counts before
        let place = &places[index + 1 - (1 << block)];
        for Count { value, before } in &place.0 {
            before.store(value.load(Relaxed), Relaxed);
        }
        Taken { published: self, index, place }
    }

    /// Adds up the published counts: connections accepted and closed, exchanges, bytes and system
    /// calls.
    pub fn read(&self) -> Stats {
        let mut sum = [0; COUNTS];
        for place in self.blocks.iter().map_while(OnceLock::get).flatten() {
            for (sum, count) in sum.iter_mut().zip(&place.0) {
                *sum += count.value.load(Relaxed);
            }
        }
        let [exchanges, bytes_received, bytes_sent, syscalls, accepted, closed @ ..] = sum;
        let closed = Closed(closed);
        Stats { accepted, exchanges, bytes_received, bytes_sent, syscalls, closed, ..Stats::new() }
    }
}

/// Publishes the counts of one thread.
#[derive(Debug)]
pub struct Publisher<'a>(Option<Taken<'a>>);

/// A place that belongs to one thread.
#[derive(Debug)]
struct Taken<'a> {
    published: &'a Published,
    index: usize,
    place: &'a Place,
}

impl<'a> Publisher<'a> {
    /// Returns a publisher for a thread whose counts are zero. `None` publishes nothing.
    pub fn new(published: Option<&'a Published>) -> Self {
        Self(published.map(Published::take))
    }

    /// True if counts are published.
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Publishes the counts of the thread. Costs some stores to memory that only the reader of
    /// metrics shares. A count that has become smaller is not published, so that none falls:
    /// io_uring counts a reply when it is submitted, and corrects that if the send fails.
    #[inline]
    pub fn publish(&self, stats: &Stats) {
        self.publish_first::<COUNTS>(stats);
    }

    /// As [`publish`](Self::publish), if no connection has been accepted or has ended since.
    #[inline]
    pub fn publish_exchanges(&self, stats: &Stats) {
        self.publish_first::<HOT>(stats);
    }

    #[inline]
    fn publish_first<const N: usize>(&self, stats: &Stats) {
        if let Some(Taken { place, .. }) = &self.0 {
            for (Count { value, before }, count) in place.0.iter().zip(counts(stats)).take(N) {
                let count = before.load(Relaxed) + count;
                value.store(value.load(Relaxed).max(count), Relaxed);
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut free = self.published.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.returned.push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn counts_survive_their_threads_and_never_fall() {
        const THREADS: u64 = 4;
        const LIVES: u64 = 200;
        const EXCHANGES: u64 = 50;
        let (published, ended) = (Published::new(), AtomicBool::new(false));
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = counts(&published.read());
                while !ended.load(Relaxed) {
                    let next = counts(&published.read());
                    assert!(last.iter().zip(&next).all(|(last, next)| last <= next));
                    last = next;
                }
            });
            let threads = (0..THREADS).map(|_| {
                scope.spawn(|| {
                    for life in 0..LIVES {
                        let (publisher, mut stats) =
                            (Publisher::new(Some(&published)), Stats::new());
                        stats.on_accepted();
                        for _ in 0..EXCHANGES {
                            stats.on_received(1);
                            stats.on_sent(2, 2);
                            publisher.publish(&stats);
                        }
                        stats.on_closed(Cause::ALL[life as usize % Cause::ALL.len()]);
                        publisher.publish(&stats);
                    }
                })
            });
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
            ended.store(true, Relaxed);
            reader.join().unwrap();
        });
        let stats = published.read();
        let lives = THREADS * LIVES;
        assert_eq!((stats.accepted, stats.closed.total()), (lives, lives));
        assert_eq!(stats.exchanges, lives * EXCHANGES);
        assert_eq!(
            (stats.bytes_received, stats.bytes_sent),
            (stats.exchanges, 2 * stats.exchanges)
        );
        assert!(published.free.lock().unwrap().taken <= THREADS as usize, "places are reused");
    }

    #[test]
    fn places_do_not_move_and_are_all_read() {
        let published = Published::new();
        let mut stats = Stats::new();
        stats.on_accepted();
        let publisher = || Publisher::new(Some(&published));
        let publishers: Vec<_> = (0..1000).map(|_| publisher()).collect();
        for publisher in &publishers {
            publisher.publish(&stats);
            publisher.publish(&stats); // the same counts again
        }
        assert_eq!(published.read().accepted, 1000);
        publishers[0].publish(&Stats::new());
        drop(publishers);
        assert_eq!(published.read().accepted, 1000, "no count falls");
        publisher().publish(&stats);
        assert_eq!(published.read().accepted, 1001);
        assert_eq!(size_of::<[Count; HOT]>(), 64);
    }
}
