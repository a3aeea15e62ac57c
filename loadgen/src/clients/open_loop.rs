//! Sending requests when they are due.
//!
//! A request that is due goes to the connection that has been idle longest: so all connections
//! take part at any rate, as so many users would; the one used last would find its state in every
//! cache, and a few connections would do all the work at a low rate. When none is idle, the
//! request waits with its planned instant and goes to the first that gets its reply. Nothing is
//! left out and nothing is moved: what is late is sent late.
//!
//! Lateness has two causes. The wait for an idle connection is the server's doing, whose replies
//! were not here; all else is our own. A reply may have been here before we saw it, so a
//! connection counts as idle from the earliest instant that is possible: when the thread was woken
//! by it, or else when it last looked.

use std::io;
use std::time::Duration;

use crate::clients::clock::NEVER;
use crate::clients::connection::State;
use crate::clients::engine::Sockets;
use crate::clients::pacer::Due;
use crate::clients::worker::{KICK_OFF, Worker};

impl<S: Sockets> Worker<'_, S> {
    /// Sends what is due when it is due, and what could not be sent then as soon as it can, up to
    /// `--timeout` after the window.
    pub(crate) fn run_open_loop(&mut self) -> io::Result<()> {
        self.looping = true;
        let Some(pacer) = &mut self.pacer else { return Ok(()) };
        let resting = (0..).zip(&self.connections).filter(|(_, c)| c.state == State::Resting);
        pacer.begin(self.control.begin_ns(), resting.map(|(index, _)| index));
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
        (next_ns <= self.now).then(|| pacer.take())
    }

    /// When the next request is due, if there is one that may still be sent.
    #[inline]
    fn next_planned_ns(&mut self) -> Option<u64> {
        let control = self.control;
        let (start_ns, end_ns) = (control.start_ns(), control.end_ns());
        let pacer = self.pacer.as_mut()?;
        let next_ns = pacer.next_ns(start_ns);
        let last_send_ns = end_ns.saturating_add(self.plan.timeout.as_nanos() as u64);
        let cut = control.abandon_ns() != NEVER;
        (next_ns < end_ns && pacer.has_more() && self.now < last_send_ns && !cut).then_some(next_ns)
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
            let index = pacer.pop_idle()?;
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
        let wake_ns = instant_ns.saturating_sub(pacer.spin_ns());
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
        pacer.push_idle(index);
        let here_ns = pacer.here_ns();
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
        (open.unsent, open.plan_end_ns) = pacer.rest(start_ns, end_ns);
        open.planned += open.unsent;
    }
}
