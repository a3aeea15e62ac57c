//! Pauses of this process that are not the server's: it was stopped (SIGSTOP, SIGTSTP, a frozen
//! control group, a stopped virtual machine), or the machine was suspended.
//!
//! A thread sleeps for `TICK` again and again. If it wakes much later, without having waited for
//! a CPU and while no other thread ran, the process was stopped. A suspended machine is found by
//! CLOCK_BOOTTIME, which counts the suspension, and CLOCK_MONOTONIC, which does not (time(7)).

use std::fs;
use std::io;
use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use lockstep_results::format;
use rustix::time::{ClockId, clock_gettime};

/// Time between two readings.
const TICK: Duration = Duration::from_millis(50);

/// Shortest stop that is distinguished from a late wake-up.
const STOPPED_MIN: Duration = Duration::from_millis(100);

/// Shortest suspension that is distinguished from the time between two readings.
const SUSPENDED_MIN: Duration = Duration::from_millis(1);

/// Pauses within some time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pauses {
    /// Time for which the process was stopped.
    pub stopped: Duration,
    /// Time for which the machine was suspended.
    pub suspended: Duration,
}

/// One reading of the watching thread.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    /// CLOCK_MONOTONIC, read before and after the other clocks.
    before: Duration,
    after: Duration,
    boot: Duration,
    /// CPU time of the process.
    used: Duration,
    /// Time that this thread has waited for a CPU.
    waited: Duration,
}

#[derive(Debug)]
struct Watch {
    /// Instant of the last reading; `None` before the first.
    read_at: Option<Duration>,
    /// Pauses, with the readings before and after.
    found: Vec<(Duration, Duration, Pauses)>,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch { read_at: None, found: Vec::new() });
static READ: Condvar = Condvar::new();

/// Begins to watch this process. No effect if it is watched already.
///
/// # Errors
///
/// `EAGAIN` if no thread can be started.
pub fn watch() -> io::Result<()> {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    if watch.read_at.is_none() {
        thread::Builder::new().name("pauses".to_owned()).spawn(work)?;
        watch.read_at = Some(now());
    }
    Ok(())
}

/// CLOCK_MONOTONIC, to be passed to [`between`].
pub fn now() -> Duration {
    clock(ClockId::Monotonic)
}

/// Returns the pauses between two instants of [`now`], the second of which has passed. Waits for
/// the next reading after it. None if this process is not watched.
pub fn between(from: Duration, until: Duration) -> Pauses {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    while watch.read_at.is_some_and(|read_at| read_at < until) {
        watch = READ.wait(watch).unwrap_or_else(PoisonError::into_inner);
    }
    let overlapping = watch.found.iter().filter(|(begin, end, _)| *begin < until && *end > from);
    overlapping.fold(Pauses::default(), |sum, (begin, end, pauses)| {
        let overlap = until.min(*end).saturating_sub(from.max(*begin));
        sum.plus(Pauses { stopped: pauses.stopped.min(overlap), ..*pauses })
    })
}

/// The watching thread.
fn work() {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get) as u32;
    let mut last = Reading::take();
    loop {
        thread::sleep(TICK);
        let reading = Reading::take();
        let pauses = last.pauses_until(&reading, cpus);
        let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
        if pauses != Pauses::default() {
            watch.found.push((last.before, reading.after, pauses));
        }
        watch.read_at = Some(reading.before);
        drop(watch);
        READ.notify_all();
        last = reading;
    }
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Time that the calling thread has waited for a CPU; zero if the kernel does not account it.
fn waited() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

impl Reading {
    fn take() -> Self {
        let before = now();
        let (boot, used) = (clock(ClockId::Boottime), clock(ClockId::ProcessCPUTime));
        Self { before, boot, used, after: now(), waited: waited() }
    }

    /// Pauses from this reading to the next, on a machine with this many CPUs.
    fn pauses_until(&self, next: &Reading, cpus: u32) -> Pauses {
        let gap = next.before.saturating_sub(self.before);
        let waited = next.waited.saturating_sub(self.waited);
        let stopped = gap.saturating_sub(TICK).saturating_sub(waited);
        // Only this thread came late if others ran for most of the time.
        let used = next.used.saturating_sub(self.used).saturating_sub(TICK * cpus);
        let alone = used > gap / 2;
        // By their least difference, whenever this thread lost its CPU between two clocks.
        let boot = next.boot.saturating_sub(self.boot);
        let suspended = boot.saturating_sub(next.after.saturating_sub(self.before));
        Pauses {
            stopped: if stopped < STOPPED_MIN || alone { Duration::ZERO } else { stopped },
            suspended: if suspended < SUSPENDED_MIN { Duration::ZERO } else { suspended },
        }
    }
}

impl Pauses {
    fn plus(self, other: Self) -> Self {
        Self { stopped: self.stopped + other.stopped, suspended: self.suspended + other.suspended }
    }

    /// The longer of each, of two processes.
    pub fn max(self, other: Self) -> Self {
        Self {
            stopped: self.stopped.max(other.stopped),
            suspended: self.suspended.max(other.suspended),
        }
    }

    /// Describes the pauses, each in a sentence that begins with a word for programs; `when` is
    /// such as `in the measured window`.
    pub fn sentences(self, when: &str) -> Vec<String> {
        [
            ("stopped: the generator was stopped", self.stopped),
            ("suspended: the machine was suspended", self.suspended),
        ]
        .into_iter()
        .filter(|(_, length)| !length.is_zero())
        .map(|(what, length)| {
            let length = format::duration(length.as_nanos() as u64);
            format!("{what} for {length} {when}")
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Pauses between two readings: by the monotonic clock, the boot clock, the CPU time and the
    /// wait for a CPU in between, in milliseconds.
    fn pauses(mono: u64, boot: u64, used: u64, waited: u64) -> (u64, u64) {
        let start = Reading { before: ms(9), after: ms(9), boot: ms(700), ..Reading::default() };
        let next = Reading {
            before: start.before + ms(mono),
            after: start.after + ms(mono),
            boot: start.boot + ms(boot),
            used: ms(used),
            waited: ms(waited),
        };
        let Pauses { stopped, suspended } = start.pauses_until(&next, 2);
        (stopped.as_millis() as u64, suspended.as_millis() as u64)
    }

    #[test]
    fn stopped_process_is_neither_a_waiting_one_nor_a_late_thread() {
        assert_eq!(pauses(50, 50, 50, 0), (0, 0));
        assert_eq!(pauses(2050, 2050, 40, 0), (2000, 0), "stopped");
        assert_eq!(pauses(2050, 2050, 100, 0), (2000, 0), "it ran on all CPUs before");
        assert_eq!(pauses(2050, 2050, 40, 1950), (0, 0), "waited for a CPU");
        assert_eq!(pauses(2050, 2050, 40, 500), (1500, 0), "both");
        assert_eq!(pauses(2050, 2050, 1900, 0), (0, 0), "other threads ran");
        assert_eq!(pauses(140, 140, 0, 0), (0, 0), "a late wake-up");
    }

    #[test]
    fn suspended_machine_is_found_by_its_clocks() {
        assert_eq!(pauses(50, 3050, 0, 0), (0, 3000));
        assert_eq!(pauses(2050, 5050, 0, 0), (2000, 3000));
        // This thread lost its CPU between the clocks of the second reading.
        let start = Reading::default();
        let next = Reading { before: ms(50), boot: ms(90), after: ms(90), ..start };
        assert_eq!(start.pauses_until(&next, 2), Pauses::default());
    }

    #[test]
    fn sentences_name_the_length() {
        let pauses = Pauses { stopped: ms(2010), suspended: ms(3200) };
        assert_eq!(
            pauses.sentences("in the window"),
            [
                "stopped: the generator was stopped for 2.01s in the window",
                "suspended: the machine was suspended for 3.20s in the window",
            ]
        );
        assert_eq!(Pauses::default().sentences("").len(), 0);
    }

    #[test]
    fn running_process_is_read_repeatedly() {
        watch().unwrap();
        watch().unwrap();
        let from = now();
        // Returns after a reading.
        between(from, now());
        assert_eq!(between(now() + ms(5), now()), Pauses::default());
    }
}
