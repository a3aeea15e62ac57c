//! The clock of a run, which can be stopped: while others have their turn, no time passes for it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// An instant that does not come.
pub const NEVER: u64 = u64::MAX;

/// Set where the clock stands still; the other bits are what it shows.
const STOPPED: u64 = 1 << 63;

/// Set while it is being found out what it shows from now on.
const STOPPING: u64 = u64::MAX;

/// Nanoseconds since the run was set up, on the monotonic clock, without those it was stopped.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Instant,
    /// How long it was stopped; or, with [`STOPPED`], what it shows. In one word, so that nobody
    /// who looks while it is started again sees the time leap.
    state: Arc<AtomicU64>,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self { origin: Instant::now(), state: Arc::default() }
    }

    /// The time now.
    #[inline]
    pub fn now(&self) -> u64 {
        loop {
            match self.state.load(Acquire) {
                STOPPING => thread::yield_now(),
                // 292 years fit.
                stopped_ns if stopped_ns & STOPPED == 0 => {
                    let now = self.real_ns() - stopped_ns;
                    // Who is kept from its processor in between must not take a stop for time.
                    if self.state.load(Acquire) == stopped_ns {
                        return now;
                    }
                }
                shows => return shows & !STOPPED,
            }
        }
    }

    /// How long until `instant` if it is not stopped meanwhile; zero when it has passed.
    pub fn until(&self, instant: u64) -> Duration {
        Duration::from_nanos(instant.saturating_sub(self.now()))
    }

    /// Whether it stands still.
    pub fn is_stopped(&self) -> bool {
        self.state.load(Acquire) & STOPPED != 0
    }

    /// Stops it. For one thread at a time, as is [`resume`](Self::resume).
    pub fn stop(&self) {
        let state = self.state.load(Relaxed);
        if state & STOPPED == 0 {
            // From here on nobody sees it go; so what it shows is not before what anybody saw.
            self.state.store(STOPPING, SeqCst);
            self.state.store((self.real_ns() - state) | STOPPED, Release);
        }
    }

    /// Lets it go on from where it was stopped; nothing happens to one that goes.
    pub fn resume(&self) {
        self.state.store(self.real_ns() - self.now(), Release);
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
    fn a_stopped_clock_shows_when_it_was_stopped() {
        let clock = Clock::start();
        let before = clock.now();
        clock.stop();
        let shown = clock.now();
        assert!(shown >= before);
        sleep(Duration::from_millis(20));
        assert_eq!(clock.now(), shown);
        clock.stop();
        assert_eq!(clock.now(), shown, "to stop it twice changes nothing");
        assert!(clock.is_stopped());
        clock.resume();
        assert!(!clock.is_stopped());
    }

    #[test]
    fn time_goes_on_where_it_was_stopped() {
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
    fn nobody_sees_it_go_back_or_leap() {
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
                        // What was stopped before it was looked at is not shown.
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
    fn every_copy_is_the_same_clock() {
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
