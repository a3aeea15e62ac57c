//! Clock of a run, which stands still during the time slices of other runs.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};
use std::thread;
use std::time::{Duration, Instant};

/// An instant that never comes.
pub const NEVER: u64 = u64::MAX;

/// Flag of a stopped clock; the other bits are the time it shows.
const STOPPED: u64 = 1 << 63;

/// State while the clock is being stopped and its time is not known yet.
const STOPPING: u64 = u64::MAX;

/// Nanoseconds since the clock was started, on the monotonic clock, without the time that it was
/// stopped.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Instant,
    /// Time that it was stopped in all; or, with [`STOPPED`], the time it shows. One word, so that
    /// no reader sees the time leap when the clock is resumed.
    state: Arc<AtomicU64>,
}

impl Clock {
    /// Starts a clock at zero.
    pub fn start() -> Self {
        Self { origin: Instant::now(), state: Arc::default() }
    }

    /// Returns the time.
    ///
    /// A running clock is read as with a sequence lock: the state, the monotonic clock, the state
    /// again. If the state has not changed, the clock was running when the monotonic clock was
    /// read, so a stop in between is never taken for time that has passed. The fence keeps the
    /// second load behind the loads of the clock's read in the vDSO. Only the counter itself
    /// (RDTSC) is not ordered before later loads: it may be read later by the few nanoseconds that
    /// a CPU executes out of order.
    #[inline]
    pub fn now(&self) -> u64 {
        loop {
            match self.state.load(Acquire) {
                STOPPING => thread::yield_now(),
                // 292 years fit into 63 bits.
                stopped_ns if stopped_ns & STOPPED == 0 => {
                    let now = self.real_ns() - stopped_ns;
                    fence(Acquire);
                    if self.state.load(Relaxed) == stopped_ns {
                        return now;
                    }
                }
                shown => return shown & !STOPPED,
            }
        }
    }

    /// Returns the time until `instant` if the clock is not stopped; zero if it has passed.
    pub fn until(&self, instant: u64) -> Duration {
        Duration::from_nanos(instant.saturating_sub(self.now()))
    }

    /// True if the clock is stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.load(Acquire) & STOPPED != 0
    }

    /// Stops the clock. No effect on a stopped one. Only one thread at a time may stop or resume
    /// it.
    pub fn stop(&self) {
        let stopped_ns = self.state.load(Relaxed);
        if stopped_ns & STOPPED == 0 {
            // The clock is read after this store is visible. So the time shown is not earlier than
            // any that a reader has seen.
            self.state.store(STOPPING, SeqCst);
            fence(SeqCst);
            self.state.store((self.real_ns() - stopped_ns) | STOPPED, Release);
        }
    }

    /// Resumes a stopped clock. No effect on a running one.
    pub fn resume(&self) {
        let state = self.state.load(Relaxed);
        if state & STOPPED != 0 {
            self.state.store(self.real_ns() - (state & !STOPPED), Release);
        }
    }

    fn real_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn stopped_clock_shows_the_time_of_its_stop() {
        let clock = Clock::start();
        let before = clock.now();
        clock.stop();
        let shown = clock.now();
        assert!(shown >= before);
        sleep(Duration::from_millis(20));
        assert_eq!(clock.now(), shown);
        clock.stop();
        assert_eq!(clock.now(), shown, "a second stop has no effect");
        assert!(clock.is_stopped());
        clock.resume();
        assert!(!clock.is_stopped());
    }

    #[test]
    fn resumed_clock_continues_from_its_stop() {
        let clock = Clock::start();
        let mut pauses = Duration::ZERO;
        for _ in 0..3 {
            clock.stop();
            let (shown, real) = (clock.now(), Instant::now());
            sleep(Duration::from_millis(5));
            pauses += real.elapsed();
            clock.resume();
            assert!(clock.now() >= shown);
        }
        assert!(clock.now() as u128 + pauses.as_nanos() <= clock.origin.elapsed().as_nanos());
    }

    #[test]
    fn resume_has_no_effect_on_a_running_clock() {
        let clock = Clock::start();
        sleep(Duration::from_millis(1));
        for stops in 0..2 {
            let before = clock.now();
            clock.resume();
            assert!(!clock.is_stopped(), "after {stops} stops");
            assert!((before..before + 60_000_000_000).contains(&clock.now()));
            clock.stop();
            sleep(Duration::from_millis(1));
            clock.resume();
        }
    }

    #[test]
    fn readers_never_see_it_go_back_or_leap() {
        let clock = Clock::start();
        let stopped_ns = AtomicU64::new(0);
        let over = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut before = 0;
                    while over.load(Acquire) == 0 {
                        let now = clock.now();
                        assert!(now >= before, "{now} after {before}");
                        // Time stopped before the reading is not shown.
                        let stopped_ns = stopped_ns.load(Acquire);
                        let most = clock.real_ns() - stopped_ns;
                        assert!(now <= most, "{now} of at most {most}");
                        before = now;
                    }
                });
            }
            for _ in 0..200 {
                clock.stop();
                let real = Instant::now();
                sleep(Duration::from_micros(200));
                stopped_ns.fetch_add(real.elapsed().as_nanos() as u64, Release);
                clock.resume();
                thread::yield_now();
            }
            over.store(1, Release);
        });
    }

    #[test]
    fn clones_are_the_same_clock() {
        let clock = Clock::start();
        let copy = clock.clone();
        clock.stop();
        assert_eq!(copy.now(), clock.now());
        copy.resume();
        assert!(clock.until(NEVER) > Duration::ZERO);
        let then = clock.now();
        sleep(Duration::from_millis(1));
        assert!(clock.now() > then);
    }
}
