//! Sending requests when they are due.
//!
//! A request that is due goes to the connection that has been idle longest: so all connections
//! take part at any rate, as so many users would; the one used last would find its state in every
//! cache, and a few connections would do all the work at a low rate. When none is idle, the
//! request waits with its planned instant and goes to the first that gets its reply. Nothing is
//! left out and nothing is moved: what is late is sent late.
//!
//! Until the next request is due, a timer ends the wait (timerfd_create(2)). Its
//! resolution is the nanosecond, and the slack of sleeps does not apply to it; the timeout of
//! epoll_wait(2) is in whole milliseconds, and epoll_pwait2(2) is not everywhere. A sleeping thread
//! still wakes some tens of microseconds late; `--spin` looks at the clock and the sockets without
//! sleeping.
//!
//! Lateness has two causes. The wait for an idle connection is the server's doing, whose replies
//! were not here; all else is our own. A reply may have been here before we saw it, so a
//! connection counts as idle from the earliest instant that is possible: when the thread was woken
//! by it, or else when it last looked.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::clients::clock::{Clock, NEVER};
use crate::clients::connection::State;
use crate::clients::engine::Sockets;
use crate::clients::schedule::{OpenLoop, Part, SECOND, Schedule};
use crate::clients::share::Share;
use crate::clients::spacing::Spacing;
use crate::clients::tally::OpenTally;
use crate::clients::worker::{KICK_OFF, Worker};

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
struct Due {
    planned_ns: u64,
    measured: bool,
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

    /// The schedule of the phase that `start_ns` begins, once that of the warm-up is through.
    fn enter_window(&mut self, start_ns: u64) {
        if self.part.phase != WINDOW && self.schedule.next_ns() >= start_ns {
            self.part.phase = WINDOW;
            self.schedule = Schedule::new(&self.asked, self.part, start_ns);
        }
    }

    /// Makes the timer expire at that instant.
    fn arm(&mut self, at_ns: u64) -> io::Result<()> {
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

impl<S: Sockets> Worker<'_, S> {
    /// Sends what is due when it is due, and what could not be sent then as soon as it can, up to
    /// `--timeout` after the window.
    pub(crate) fn run_open_loop(&mut self) -> io::Result<()> {
        self.looping = true;
        let Some(pacer) = &mut self.pacer else { return Ok(()) };
        pacer.schedule = Schedule::new(&pacer.asked, pacer.part, self.control.begin_ns());
        let resting = (0..).zip(&self.connections).filter(|(_, c)| c.state == State::Resting);
        pacer.idle.extend(resting.map(|(index, _)| index));
        loop {
            self.send_due();
            let nobody_left = self.busy + self.resting == 0;
            let until_ns = self.next_instant();
            if nobody_left
                || self.now >= self.control.abandon_ns()
                || (until_ns.is_none() && self.busy == 0)
            {
                break;
            }
            self.wait_for_due(until_ns)?;
        }
        self.count_unsent();
        Ok(())
    }

    /// Sends what is due as long as there are idle connections, but looks at replies now and then.
    fn send_due(&mut self) {
        for _ in 0..KICK_OFF {
            self.now = self.control.clock.now();
            if self.resting == 0 {
                return;
            }
            let Some(due) = self.take_due() else { return };
            self.send_idle(due, due.planned_ns);
        }
    }

    /// The next request, if it is due by now.
    #[inline]
    fn take_due(&mut self) -> Option<Due> {
        let next_ns = self.next_planned_ns()?;
        let pacer = self.pacer.as_mut()?;
        if next_ns > self.now {
            return None;
        }
        pacer.schedule.advance();
        let measured = pacer.part.phase == WINDOW;
        if measured && pacer.quota < u64::MAX {
            pacer.quota -= 1;
        }
        Some(Due { planned_ns: next_ns, measured })
    }

    /// When the next request is due, if there is one that may still be sent.
    #[inline]
    fn next_planned_ns(&mut self) -> Option<u64> {
        let control = self.control;
        let (start_ns, end_ns) = (control.start_ns(), control.end_ns());
        let pacer = self.pacer.as_mut()?;
        pacer.enter_window(start_ns);
        let next_ns = pacer.schedule.next_ns();
        let last_send_ns = end_ns.saturating_add(self.plan.timeout.as_nanos() as u64);
        let cut = control.abandon_ns() != NEVER;
        (next_ns < end_ns && pacer.quota > 0 && self.now < last_send_ns && !cut).then_some(next_ns)
    }

    /// When something is to be done without an event; none when all is sent and the window over.
    fn next_instant(&mut self) -> Option<u64> {
        if let Some(next_ns) = self.next_planned_ns() {
            return Some(next_ns);
        }
        let end_ns = self.control.end_ns();
        (self.now < end_ns && end_ns != NEVER).then_some(end_ns)
    }

    fn take_idle(&mut self) -> Option<usize> {
        let pacer = self.pacer.as_mut()?;
        loop {
            let index = pacer.idle.pop_front()? as usize;
            if self.connections[index].state == State::Resting {
                return Some(index);
            }
        }
    }

    /// Waits for events, but not beyond that instant if there is somebody to act then.
    fn wait_for_due(&mut self, instant_ns: Option<u64>) -> io::Result<()> {
        let (Some(instant_ns), true) = (instant_ns, self.resting > 0) else {
            return self.turn(self.until_scan());
        };
        let Some(pacer) = &mut self.pacer else { return Ok(()) };
        let wake_ns = instant_ns.saturating_sub(pacer.asked.spin.as_nanos() as u64);
        if self.now < wake_ns {
            pacer.arm(wake_ns)?;
            return self.turn(self.until_scan());
        }
        let (from_ns, sends) = (self.now, self.sockets.has_queued());
        self.turn(Duration::ZERO)?;
        let inside = from_ns >= self.control.start_ns() && self.now < self.control.end_ns();
        if !self.found && !sends && from_ns < instant_ns && inside {
            self.tally.spun_ns += self.now - from_ns;
        }
        Ok(())
    }

    /// Gives a connection that has just become idle what waits for it, or rest.
    #[inline]
    pub(crate) fn next_planned(&mut self, index: usize) {
        let others_idle = self.resting > 0;
        self.connections[index].state = State::Resting;
        self.resting += 1;
        self.busy -= 1;
        if !self.looping {
            return;
        }
        let Some(pacer) = &mut self.pacer else { return };
        pacer.idle.push_back(index as u32);
        let here_ns = pacer.here_ns;
        if let Some(due) = self.take_due() {
            self.send_idle(due, if others_idle { due.planned_ns } else { here_ns });
        }
    }

    /// Gives what is due to the connection that has been idle longest; one has been since
    /// `idle_ns`.
    #[inline]
    fn send_idle(&mut self, due: Due, idle_ns: u64) {
        let Some(index) = self.take_idle() else { return };
        self.resting -= 1;
        self.busy += 1;
        self.send_planned(index, due, idle_ns);
    }

    /// Begins the exchange that was due, for which there is a connection since `idle_ns`.
    #[inline]
    fn send_planned(&mut self, index: usize, due: Due, idle_ns: u64) {
        let connection = &mut self.connections[index];
        connection.measured = due.measured;
        connection.planned_ns = due.planned_ns;
        if let Some(open) = &mut self.tally.open
            && due.measured
        {
            let own_ns = self.now - idle_ns.clamp(due.planned_ns, self.now);
            open.planned += 1;
            open.sent_in_time += u64::from(self.now < self.control.end_ns());
            open.waited += u64::from(idle_ns > due.planned_ns);
            open.last_sent_ns = self.now;
            open.own_lateness.saturating_record(own_ns);
            for spacing in &mut open.spacing {
                spacing.note(due.planned_ns + own_ns);
            }
        }
        self.begin(index);
    }

    /// Counts what was planned in the window and could not be sent.
    fn count_unsent(&mut self) {
        let (start_ns, end_ns) = (self.control.start_ns(), self.control.end_ns());
        let (Some(pacer), Some(open)) = (&mut self.pacer, &mut self.tally.open) else { return };
        if pacer.part.phase != WINDOW {
            pacer.part.phase = WINDOW;
            pacer.schedule = Schedule::new(&pacer.asked, pacer.part, start_ns);
        }
        open.unsent = pacer.schedule.remaining(end_ns).min(pacer.quota);
        open.planned += open.unsent;
        // A number of requests ends where the one after the last would be due.
        let left_ns = pacer.quota as f64 * pacer.asked.mean_gap_ns(pacer.part.threads);
        open.plan_end_ns = pacer.schedule.next_ns().saturating_add(left_ns as u64).min(end_ns);
    }
}
