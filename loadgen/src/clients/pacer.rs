//! What is due when, in an open loop, and which connections are there to send it.
//!
//! Until the next request is due, a timer ends the wait (timerfd_create(2)). Its
//! resolution is the nanosecond, and the slack of sleeps does not apply to it; the timeout of
//! epoll_wait(2) is in whole milliseconds, and epoll_pwait2(2) is not everywhere. A sleeping thread
//! still wakes some tens of microseconds late; `--spin` looks at the clock and the sockets without
//! sleeping.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::clients::clock::{Clock, NEVER};
use crate::clients::schedule::{OpenLoop, Part, SECOND, Schedule};
use crate::clients::share::Share;
use crate::clients::spacing::Spacing;
use crate::clients::tally::OpenTally;

/// A wait this long was a sleep: nothing was there when it began.
const SLEPT_NS: u64 = 50_000;

/// The measured window's phase of the schedule; that of the warm-up is 0.
const WINDOW: usize = 1;

/// What one thread of an open loop counts.
pub(crate) fn tally(asked: &OpenLoop, threads: usize, share: Share) -> OpenTally {
    let seed = asked.seed.wrapping_add(share.thread as u64);
    OpenTally::new(Some(Spacing::new(asked.arrivals, asked.mean_gap_ns(threads), seed)))
}

/// What is due when, and who is there to send it.
#[derive(Debug)]
pub(crate) struct Pacer {
    asked: OpenLoop,
    part: Part,
    schedule: Schedule,
    /// Requests of the measured window not yet due; `u64::MAX` is no limit.
    quota: u64,
    /// Connections in the order in which they became idle. Some may have failed since.
    idle: VecDeque<u32>,
    timer: OwnedFd,
    armed_ns: u64,
    clock: Clock,
    /// The clock's zero on CLOCK_MONOTONIC.
    epoch_ns: u64,
    wait_from_ns: u64,
    looked_ns: u64,
    /// The earliest that what was just received may have been here.
    here_ns: u64,
}

/// A request that is due.
#[derive(Clone, Copy)]
pub(crate) struct Due {
    pub(crate) planned_ns: u64,
    pub(crate) measured: bool,
}

impl Pacer {
    /// Takes all memory and descriptors that pacing needs.
    ///
    /// # Errors
    ///
    /// When the timer cannot be had.
    pub(crate) fn new(
        asked: OpenLoop,
        threads: usize,
        share: Share,
        clock: Clock,
    ) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // In this order, so that the timer is never early.
        let now = clock.now();
        let monotonic = clock_gettime(ClockId::Monotonic);
        let monotonic_ns = monotonic.tv_sec as u64 * SECOND + monotonic.tv_nsec as u64;
        let part = Part { thread: share.thread, threads, phase: 0 };
        Ok(Self {
            asked,
            part,
            schedule: Schedule::new(&asked, part, 0),
            quota: share.requests,
            idle: VecDeque::with_capacity(share.connections as usize),
            timer,
            armed_ns: NEVER,
            clock,
            epoch_ns: monotonic_ns.saturating_sub(now),
            wait_from_ns: 0,
            looked_ns: 0,
            here_ns: 0,
        })
    }

    /// What becomes readable when [`arm`](Self::arm) said.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Notes when a wait for events begins.
    pub(crate) fn before_wait(&mut self) {
        self.wait_from_ns = self.clock.now();
    }

    /// Notes when it ends.
    pub(crate) fn after_wait(&mut self) {
        let now = self.clock.now();
        let slept = now - self.wait_from_ns >= SLEPT_NS;
        self.here_ns = if slept { now } else { self.looked_ns };
        self.looked_ns = now;
    }

    /// Notes that the timer has expired.
    pub(crate) fn disarm(&mut self) {
        self.armed_ns = NEVER;
    }

    /// The loop begins, while these connections are idle.
    pub(crate) fn begin(&mut self, begin_ns: u64, idle: impl Iterator<Item = u32>) {
        self.schedule = Schedule::new(&self.asked, self.part, begin_ns);
        self.idle.extend(idle);
    }

    /// When the next request is due, if the measured window begins at `start_ns`: its schedule
    /// begins once that of the warm-up is through.
    #[inline]
    pub(crate) fn next_ns(&mut self, start_ns: u64) -> u64 {
        if self.part.phase != WINDOW && self.schedule.next_ns() >= start_ns {
            self.enter_window(start_ns);
        }
        self.schedule.next_ns()
    }

    fn enter_window(&mut self, start_ns: u64) {
        self.part.phase = WINDOW;
        self.schedule = Schedule::new(&self.asked, self.part, start_ns);
    }

    /// Whether requests are left of the number asked for.
    #[inline]
    pub(crate) fn has_more(&self) -> bool {
        self.quota > 0
    }

    /// Takes the next request off the schedule.
    #[inline]
    pub(crate) fn take(&mut self) -> Due {
        let (planned_ns, measured) = (self.schedule.next_ns(), self.part.phase == WINDOW);
        self.schedule.advance();
        if measured && self.quota < u64::MAX {
            self.quota -= 1;
        }
        Due { planned_ns, measured }
    }

    /// The connection has become idle.
    #[inline]
    pub(crate) fn push_idle(&mut self, index: usize) {
        self.idle.push_back(index as u32);
    }

    /// The connection that has been idle longest, if it has not failed since.
    #[inline]
    pub(crate) fn pop_idle(&mut self) -> Option<usize> {
        self.idle.pop_front().map(|index| index as usize)
    }

    /// The earliest that what was just received may have been here.
    #[inline]
    pub(crate) fn here_ns(&self) -> u64 {
        self.here_ns
    }

    /// How long before a request is due the thread stops sleeping.
    pub(crate) fn spin_ns(&self) -> u64 {
        self.asked.spin.as_nanos() as u64
    }

    /// How many requests of a window until `end_ns` are left, and where its plan ends: a number of
    /// requests ends where the one after the last would be due.
    pub(crate) fn rest(&mut self, start_ns: u64, end_ns: u64) -> (u64, u64) {
        if self.part.phase != WINDOW {
            self.enter_window(start_ns);
        }
        let left = self.schedule.remaining(end_ns).min(self.quota);
        let left_ns = self.quota as f64 * self.asked.mean_gap_ns(self.part.threads);
        (left, self.schedule.next_ns().saturating_add(left_ns as u64).min(end_ns))
    }

    /// Makes the timer expire at that instant.
    pub(crate) fn arm(&mut self, at_ns: u64) -> io::Result<()> {
        if self.armed_ns == at_ns {
            return Ok(());
        }
        self.armed_ns = at_ns;
        let expires_ns = self.epoch_ns + at_ns;
        let expires = Timespec {
            tv_sec: (expires_ns / SECOND) as i64,
            tv_nsec: (expires_ns % SECOND) as i64,
        };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Itimerspec { it_interval: once, it_value: expires };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)?;
        Ok(())
    }
}
