//! Pacing of an open loop: the requests of one thread that are due, the idle connections that can
//! send them, and the timer that wakes the thread in time.
//!
//! A request that is due goes to the connection that has been idle longest. So all connections
//! take part at any rate, as so many users would; the connection used last would find its state in
//! every cache, and a few connections would do all the work at a low rate. If none is idle, the
//! request keeps its planned instant and goes to the first connection that gets its reply. No
//! request is dropped or moved: a request that is late is sent late.
//!
//! Lateness has two causes. The wait for an idle connection is the server's: its replies were not
//! here. All else is the generator's own. A reply may have been here before the thread saw it, so a
//! connection counts as idle from the earliest instant possible: the instant at which its reply
//! woke the thread, or else the end of the wait before.
//!
//! A timerfd ends the wait for the next request (timerfd_create(2)). It has a resolution of
//! nanoseconds and no timer slack; the timeout of epoll_wait(2) is in whole milliseconds, and
//! epoll_pwait2(2) is not everywhere. A sleeping thread still wakes some tens of microseconds late;
//! with `--spin` it polls the clock and the sockets instead.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::clients::clock::NEVER;
use crate::clients::connection::{Connection, State};
use crate::clients::control::Control;
use crate::clients::plan::{Plan, ThreadLoad};
use crate::clients::schedule::{OpenLoop, Part, SECOND, Schedule};

/// A wait at least this long was a sleep: no event was there when it began.
const SLEPT_NS: u64 = 50_000;

/// Phase of the schedule that is the measured window; the warm-up is phase 0.
const WINDOW: usize = 1;

/// Pacing of one thread.
pub(crate) struct Pacer<'a> {
    control: &'a Control,
    open: OpenLoop,
    part: Part,
    schedule: Schedule,
    /// Requests of the measured window not yet due; `u64::MAX` is no limit.
    quota: u64,
    timeout_ns: u64,
    /// Connections in the order in which they became idle. Some may have failed since.
    idle: VecDeque<u32>,
    timer: OwnedFd,
    armed_ns: u64,
    /// Zero of the run's clock on CLOCK_MONOTONIC.
    epoch_ns: u64,
    wait_from_ns: u64,
    wait_until_ns: u64,
    /// Earliest instant at which the replies that were just received may have been here.
    here_ns: u64,
}

/// A request that is due.
#[derive(Clone, Copy)]
pub(crate) struct Due {
    pub(crate) planned_ns: u64,
    pub(crate) measured: bool,
}

impl<'a> Pacer<'a> {
    /// Allocates all memory and descriptors that pacing needs. Its clock is not to be stopped.
    ///
    /// # Errors
    ///
    /// Those of timerfd_create(2).
    pub(crate) fn new(
        open: OpenLoop,
        plan: &Plan,
        control: &'a Control,
        load: ThreadLoad,
    ) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // In this order, so that the timer is never early.
        let now = control.clock.now();
        let monotonic = clock_gettime(ClockId::Monotonic);
        let monotonic_ns = monotonic.tv_sec as u64 * SECOND + monotonic.tv_nsec as u64;
        let part = Part { share: plan.share, thread: load.thread, threads: plan.threads, phase: 0 };
        Ok(Self {
            control,
            open,
            part,
            schedule: Schedule::new(&open, part, 0),
            quota: load.requests,
            timeout_ns: plan.timeout.as_nanos() as u64,
            idle: VecDeque::with_capacity(load.connections as usize),
            timer,
            armed_ns: NEVER,
            epoch_ns: monotonic_ns.saturating_sub(now),
            wait_from_ns: 0,
            wait_until_ns: 0,
            here_ns: 0,
        })
    }

    /// The timerfd that [`arm`](Self::arm) sets.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Notes the begin of a wait for events.
    pub(crate) fn before_wait(&mut self) {
        self.wait_from_ns = self.control.clock.now();
    }

    /// Notes the end of a wait for events.
    pub(crate) fn after_wait(&mut self) {
        let now = self.control.clock.now();
        let slept = now - self.wait_from_ns >= SLEPT_NS;
        self.here_ns = if slept { now } else { self.wait_until_ns };
        self.wait_until_ns = now;
    }

    /// Begins the schedule, with all connections that are resting.
    pub(crate) fn begin(&mut self, connections: &[Connection]) {
        self.schedule = Schedule::new(&self.open, self.part, self.control.begin_ns());
        let resting = (0..).zip(connections).filter(|(_, c)| c.state == State::Resting);
        self.idle.extend(resting.map(|(index, _)| index));
    }

    /// Instant of the next request, if there is one that may still be sent: planned in the window,
    /// and not later than the timeout after it.
    #[inline]
    fn next_ns(&mut self, now: u64) -> Option<u64> {
        let (start_ns, end_ns) = (self.control.start_ns(), self.control.end_ns());
        if self.part.phase != WINDOW && self.schedule.next_ns() >= start_ns {
            self.enter_window(start_ns);
        }
        let next_ns = self.schedule.next_ns();
        let last_send_ns = end_ns.saturating_add(self.timeout_ns);
        let cut = self.control.abandon_ns() != NEVER;
        (next_ns < end_ns && self.quota > 0 && now < last_send_ns && !cut).then_some(next_ns)
    }

    /// Begins the schedule of the window once that of the warm-up is through.
    fn enter_window(&mut self, start_ns: u64) {
        self.part.phase = WINDOW;
        self.schedule = Schedule::new(&self.open, self.part, start_ns);
    }

    /// Takes the next request off the schedule if it is due.
    #[inline]
    pub(crate) fn take_due(&mut self, now: u64) -> Option<Due> {
        let planned_ns = self.next_ns(now).filter(|&next_ns| next_ns <= now)?;
        let measured = self.part.phase == WINDOW;
        self.schedule.advance();
        if measured && self.quota < u64::MAX {
            self.quota -= 1;
        }
        Some(Due { planned_ns, measured })
    }

    /// Next instant at which the thread has to act without an event; `None` once all is sent and
    /// the window is over.
    pub(crate) fn next_instant(&mut self, now: u64) -> Option<u64> {
        let end_ns = self.control.end_ns();
        self.next_ns(now).or((now < end_ns && end_ns != NEVER).then_some(end_ns))
    }

    /// Notes that a connection has become idle. Returns the earliest instant at which it may have
    /// been.
    #[inline]
    pub(crate) fn push_idle(&mut self, index: usize) -> u64 {
        self.idle.push_back(index as u32);
        self.here_ns
    }

    /// Takes the connection that has been idle longest.
    #[inline]
    pub(crate) fn pop_idle(&mut self, connections: &[Connection]) -> Option<usize> {
        loop {
            let index = self.idle.pop_front()? as usize;
            if connections[index].state == State::Resting {
                return Some(index);
            }
        }
    }

    /// Counts the requests that will not be sent, and returns the end of the plan: a number of
    /// requests ends where the request after the last would be due.
    pub(crate) fn unsent(&mut self) -> (u64, u64) {
        let (start_ns, end_ns) = (self.control.start_ns(), self.control.end_ns());
        if self.part.phase != WINDOW {
            self.enter_window(start_ns);
        }
        let left = self.schedule.remaining(end_ns).min(self.quota);
        let left_ns = self.quota as f64 * self.open.mean_gap_ns(self.part.share, self.part.threads);
        (left, self.schedule.next_ns().saturating_add(left_ns as u64).min(end_ns))
    }

    /// Arms the timer for an instant, or earlier by the time that is polled before it. False if
    /// that is over: the thread is to poll.
    ///
    /// # Errors
    ///
    /// Those of timerfd_settime(2).
    pub(crate) fn arm(&mut self, at_ns: u64, now: u64) -> io::Result<bool> {
        let wake_ns = at_ns.saturating_sub(self.open.spin.as_nanos() as u64);
        if now >= wake_ns {
            return Ok(false);
        }
        if self.armed_ns != wake_ns {
            self.armed_ns = wake_ns;
            let expires_ns = self.epoch_ns + wake_ns;
            let expires = Timespec {
                tv_sec: (expires_ns / SECOND) as i64,
                tv_nsec: (expires_ns % SECOND) as i64,
            };
            let once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Itimerspec { it_interval: once, it_value: expires };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)?;
        }
        Ok(true)
    }
}
