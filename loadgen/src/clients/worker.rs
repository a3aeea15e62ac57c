//! One load-generating thread: its connections, from the first connect to the last reply.
//!
//! The thread waits for events and handles them one by one. For a request and its reply this is
//! `Worker::on_event` with the reply, `Counters::replied`, `Worker::next`,
//! `Worker::send_request`, and the engine's `Driver::send`. An exchange takes one reading of
//! the clock: the instant at which a reply is whole is the instant at which the next exchange
//! begins. Threads share only the [`Control`], which is read once an exchange and written once an
//! iteration.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use lockstep_sys::busy_poll::BusyPoll;

use crate::clients::connection::{Connection, Service, State};
use crate::clients::control::Control;
use crate::clients::counters::{Counters, Totals};
use crate::clients::engine::driver::{Driver, EVENTS_MAX, End, Event};
use crate::clients::engine::{Engine, Epoll, Uring};
use crate::clients::failures::Kind;
use crate::clients::pacer::{Due, Pacer};
use crate::clients::plan::{Plan, ThreadLoad};

/// Connections of a run that are opened concurrently, at most: enough to keep a server busy, few
/// enough not to flood its listen queue.
const OPENING_MAX: usize = 256;

/// Time that a connection counts towards [`OPENING_MAX`]. A slower one delays no other.
const OPENING_NS: u64 = 100_000_000;

/// Time after the window for which replies to requests from before it are awaited.
const GRACE_NS: u64 = 500_000_000;

/// Requests sent in one go before events are handled.
const BURST_MAX: usize = 64;

/// Timeout while waiting for the next time slice. Its begin wakes the thread.
const UNTIL_SLICE: Duration = Duration::from_secs(1);

/// One load-generating thread.
struct Worker<'a, D> {
    plan: &'a Plan,
    control: &'a Control,
    load: ThreadLoad,
    driver: D,
    connections: Vec<Connection>,
    counters: Counters<'a>,
    /// Pacing of an open loop.
    pacer: Option<Pacer<'a>>,
    busy_poll: BusyPoll,
    /// Last reading of the clock.
    now: u64,
    /// Measured exchanges of a closed loop that may still begin.
    quota: u64,
    /// True if failed exchanges have been added to the quota again.
    quota_returned: bool,
    /// True once the loop has begun.
    looping: bool,
    /// Connections with something outstanding.
    busy: usize,
    /// Connections with nothing outstanding.
    resting: usize,
    /// Connections that count towards [`OPENING_MAX`].
    opening: usize,
    next_scan_ns: u64,
}

/// Runs one thread through all phases. `opened` is called once every connection has done its first
/// exchange or has failed, with the number of those that were established; `finished` once nothing
/// is outstanding any more.
///
/// # Errors
///
/// Those of creating an engine and of waiting for events. Failures of connections are counted
/// instead.
pub fn run(
    plan: &Plan,
    control: &Control,
    load: ThreadLoad,
    opened: impl FnOnce(u64),
    finished: impl FnOnce(),
) -> io::Result<Totals> {
    match plan.engine {
        Engine::Epoll => Worker::<Epoll<'_>>::new(plan, control, load)?.run(opened, finished),
        Engine::IoUring => Worker::<Uring<'_>>::new(plan, control, load)?.run(opened, finished),
    }
}

impl<'a, D: Driver<'a>> Worker<'a, D> {
    /// Allocates all descriptors and memory that do not depend on the course of the run.
    fn new(plan: &'a Plan, control: &'a Control, load: ThreadLoad) -> io::Result<Self> {
        let wake = control.wake(load.thread).as_fd();
        let mut driver = D::new(load.connections as usize, plan.service, &plan.pattern, wake)?;
        let pacer = match plan.open {
            Some(open) => {
                let pacer = Pacer::new(open, plan, control, load)?;
                driver.watch_timer(pacer.timer())?;
                Some(pacer)
            }
            None => None,
        };
        let numbers = load.first..load.first + load.connections;
        Ok(Self {
            plan,
            control,
            load,
            driver,
            connections: numbers.map(Connection::new).collect(),
            counters: Counters::new(plan, control, load),
            pacer,
            busy_poll: BusyPoll::new(plan.spin),
            now: control.clock.now(),
            quota: load.requests,
            quota_returned: false,
            looping: false,
            busy: 0,
            resting: 0,
            opening: 0,
            next_scan_ns: 0,
        })
    }

    // Phases.

    fn run(mut self, opened: impl FnOnce(u64), finished: impl FnOnce()) -> io::Result<Totals> {
        self.open()?;
        opened(self.counters.totals.connected);
        while !self.control.looping() && self.now < self.control.end_ns() {
            self.iterate(self.until_scan())?;
        }
        if self.control.looping() {
            self.looping = true;
            self.counters.totals.begun_ns = self.control.clock.now();
            match self.pacer.is_some() {
                true => self.run_open_loop()?,
                false => self.run_closed_loop()?,
            }
            for connection in self.connections.iter().filter(|it| it.state.is_busy()) {
                self.counters.outstanding(connection, self.now);
            }
        }
        self.counters.finish();
        finished();
        Ok(self.into_totals())
    }

    /// Opens every connection when its time has come, and handles events in between, so that no
    /// connect waits for this loop.
    fn open(&mut self) -> io::Result<()> {
        let begin = self.control.clock.now();
        let of_rank = OPENING_MAX / self.plan.share.count as usize;
        let opening_max = (of_rank / self.plan.threads).max(1);
        let interval_ns =
            self.plan.connect_rate.map_or(0.0, |rate| 1e9 * self.plan.threads as f64 / rate);
        let mut next = 0;
        while next < self.connections.len() || self.busy > 0 {
            self.now = self.control.clock.now();
            if self.now >= self.control.end_ns() {
                break;
            }
            let due = begin + (next as f64 * interval_ns) as u64;
            let wait = if next == self.connections.len() || self.opening >= opening_max {
                self.until_scan()
            } else if self.now < due {
                self.until_scan().min(Duration::from_nanos(due - self.now))
            } else {
                self.counters.totals.attempted += 1;
                self.busy += 1;
                self.opening += 1;
                self.connections[next].opening = true;
                self.connect(next);
                next += 1;
                Duration::ZERO
            };
            self.iterate(wait)?;
        }
        Ok(())
    }

    /// Sends on every connection as soon as its reply is here, in every time slice of this run.
    fn run_closed_loop(&mut self) -> io::Result<()> {
        for slice in 1.. {
            while self.plan.slices.is_some() && self.control.slices() < slice {
                self.iterate(UNTIL_SLICE)?;
            }
            self.now = self.control.clock.now();
            for index in 0..self.connections.len() {
                self.resume(index);
                if index % BURST_MAX == BURST_MAX - 1 {
                    self.iterate(Duration::ZERO)?;
                }
            }
            while self.awaits_replies() && self.now < self.control.abandon_ns() {
                self.poll_or_iterate()?;
            }
            match &self.plan.slices {
                Some(slices) if self.resting > 0 && self.now < self.control.end_ns() => {
                    slices.done();
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Sends requests when they are due, and those that could not be sent then as soon as
    /// possible, up to `--timeout` after the window.
    fn run_open_loop(&mut self) -> io::Result<()> {
        if let Some(pacer) = &mut self.pacer {
            pacer.begin(&self.connections);
        }
        loop {
            self.send_due();
            let Some(pacer) = &mut self.pacer else { return Ok(()) };
            let instant_ns = pacer.next_instant(self.now);
            if self.busy + self.resting == 0
                || self.now >= self.control.abandon_ns()
                || (instant_ns.is_none() && !self.awaits_replies())
            {
                let Some(pacer) = &mut self.pacer else { return Ok(()) };
                let (unsent, plan_end_ns) = pacer.unsent();
                self.counters.unsent(unsent, plan_end_ns);
                return Ok(());
            }
            match instant_ns {
                Some(instant_ns) if self.resting > 0 => self.wait_for_due(instant_ns)?,
                _ => {
                    self.iterate(self.until_scan())?;
                }
            }
        }
    }

    /// Sends due requests as long as there are idle connections, up to [`BURST_MAX`].
    fn send_due(&mut self) {
        for _ in 0..BURST_MAX {
            self.now = self.control.clock.now();
            let Some(pacer) = self.pacer.as_mut().filter(|_| self.resting > 0) else { return };
            let Some(due) = pacer.take_due(self.now) else { return };
            self.send_planned(due, due.planned_ns);
        }
    }

    /// Waits for events, but not beyond the instant at which the next request is due.
    fn wait_for_due(&mut self, instant_ns: u64) -> io::Result<()> {
        if let Some(pacer) = &mut self.pacer
            && pacer.arm(instant_ns, self.now)?
        {
            return self.iterate(self.until_scan()).map(drop);
        }
        let (from_ns, sends) = (self.now, self.driver.has_queued());
        let found = self.iterate(Duration::ZERO)?;
        if !found && !sends && from_ns < instant_ns {
            self.counters.spun(from_ns, self.now - from_ns);
        }
        Ok(())
    }

    /// True while replies are awaited: after the window, those to requests that were sent in it,
    /// and for [`GRACE_NS`] those to earlier ones.
    fn awaits_replies(&self) -> bool {
        let sending = self.now < self.control.end_ns() && self.quota > 0;
        let in_grace = self.now.saturating_sub(GRACE_NS) < self.control.end_ns();
        let awaited = |connection: &Connection| connection.measured && connection.state.is_busy();
        self.busy > 0
            && (sending || (in_grace && self.quota > 0) || self.connections.iter().any(awaited))
    }

    fn into_totals(mut self) -> Totals {
        let mut totals = self.counters.totals;
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if let Some(socket) = connection.socket.take() {
                self.driver.close(index, socket);
            }
            if connection.state != State::New {
                totals.unserved += u64::from(!connection.served);
                totals.per_connection.push(connection.exchanges);
            }
        }
        totals
    }

    // Iterations.

    /// Waits for events, at most `timeout`, and handles them. True if there were any.
    fn iterate(&mut self, timeout: Duration) -> io::Result<bool> {
        self.pacer.iter_mut().for_each(Pacer::before_wait);
        let found = self.driver.wait(timeout)?;
        self.pacer.iter_mut().for_each(Pacer::after_wait);
        self.handle()?;
        Ok(found)
    }

    /// Polls for events for a while if that is asked for, then waits for them, and handles them.
    fn poll_or_iterate(&mut self) -> io::Result<()> {
        if let Some(mut attempt) = self.busy_poll.begin(self.until_scan()) {
            let mut found = self.driver.wait(Duration::ZERO)?;
            while !found && !attempt.is_over() {
                std::hint::spin_loop();
                found = self.driver.wait(Duration::ZERO)?;
            }
            let spun = self.busy_poll.end(attempt, found);
            self.counters.spun(self.now, spun.as_nanos() as u64);
            if found {
                return self.handle();
            }
        }
        self.iterate(self.until_scan()).map(drop)
    }

    /// Handles the current batch of events, and all else that is to be done once an iteration.
    fn handle(&mut self) -> io::Result<()> {
        let before = self.now;
        self.handle_events();
        if self.now == before {
            self.now = self.control.clock.now();
        }
        if std::mem::take(&mut self.quota_returned) {
            // Connections that rest do the measured exchanges that have failed.
            for index in 0..self.connections.len() {
                if self.quota == 0 || self.resting == 0 {
                    break;
                }
                self.resume(index);
            }
        }
        if self.now >= self.next_scan_ns {
            self.scan()?;
        }
        self.counters.publish(self.opening, self.now);
        Ok(())
    }

    fn handle_events(&mut self) {
        while let Some((index, event)) = self.driver.next_event(&mut self.connections) {
            self.on_event(index, event);
        }
    }

    fn until_scan(&self) -> Duration {
        Duration::from_nanos(self.next_scan_ns.saturating_sub(self.now))
    }

    /// Ends connections whose timeout is over. A timer for each connection would cost more than
    /// this pass over all of them now and then.
    fn scan(&mut self) -> io::Result<()> {
        let timeout_ns = self.plan.timeout.as_nanos() as u64;
        self.next_scan_ns = self.now + (timeout_ns / 20).clamp(1_000_000, OPENING_NS);
        let mut up_to_date = false;
        for index in 0..self.connections.len() {
            if self.connections[index].opening && self.age_ns(index) >= OPENING_NS {
                self.release_opening(index);
            }
            let overdue = |worker: &Self| {
                worker.connections[index].state.is_busy() && worker.age_ns(index) >= timeout_ns
            };
            if overdue(self) && !std::mem::replace(&mut up_to_date, true) {
                // The reply may be here: then this thread is late, not the server.
                self.catch_up()?;
            }
            if overdue(self) {
                self.fail(index, &End::TimedOut(self.plan.timeout));
            }
        }
        Ok(())
    }

    /// Time since a connection's outstanding connect or exchange began.
    fn age_ns(&self, index: usize) -> u64 {
        self.now.saturating_sub(self.connections[index].since_ns)
    }

    /// Handles the events of all connections that there are by now.
    fn catch_up(&mut self) -> io::Result<()> {
        for _ in 0..=self.connections.len() / EVENTS_MAX {
            if !self.driver.wait(Duration::ZERO)? {
                break;
            }
            self.handle_events();
        }
        Ok(())
    }

    // Events of connections.

    #[inline]
    fn on_event(&mut self, index: usize, event: Event) {
        match event {
            Event::Replied(end) => {
                self.now = self.control.clock.now();
                if self.plan.service == Service::Hi {
                    self.connections[index].replied_ns = self.now;
                    self.connections[index].state = State::AwaitingEnd;
                    return end.into_iter().for_each(|end| self.on_end(index, end));
                }
                self.complete(index, self.now);
                match end {
                    // After the window it does not matter any more.
                    Some(end) if self.now < self.control.end_ns() => {
                        self.rest(index);
                        self.fail(index, &end);
                    }
                    _ => self.next(index),
                }
            }
            Event::Connected(end) => {
                self.now = self.control.clock.now();
                self.counters.connected(self.now - self.connections[index].since_ns);
                match end {
                    Some(end) => self.fail(index, &end),
                    None => self.send_request(index),
                }
            }
            Event::Ended(end) => self.on_end(index, end),
        }
    }

    #[cold]
    fn on_end(&mut self, index: usize, end: End) {
        match (self.connections[index].state, end) {
            (State::AwaitingEnd, End::Closed) => {
                self.close(index);
                self.now = self.control.clock.now();
                self.complete(index, self.connections[index].replied_ns);
                self.next(index);
            }
            (State::Resting, end) => {
                self.now = self.control.clock.now();
                // After the window it does not matter any more.
                if self.now < self.control.end_ns() {
                    self.fail(index, &end);
                }
            }
            (_, end) => self.fail(index, &end),
        }
    }

    /// Counts an exchange whose whole reply was here at `replied_ns`.
    #[inline]
    fn complete(&mut self, index: usize, replied_ns: u64) {
        let connection = &mut self.connections[index];
        self.counters.replied(connection, replied_ns);
        if connection.opening {
            self.release_opening(index);
        }
    }

    /// Begins the next exchange of a connection that has none outstanding, or lets it rest.
    #[inline]
    fn next(&mut self, index: usize) {
        if self.pacer.is_some() {
            return self.next_planned(index);
        }
        let sending_ends_ns = self.control.end_ns().min(self.control.slice_end_ns());
        let may_begin = self.looping && self.now < sending_ends_ns;
        let measured = self.now >= self.control.start_ns();
        let connection = &mut self.connections[index];
        if !may_begin || (measured && self.quota == 0) {
            return self.rest(index);
        }
        connection.measured = measured;
        if measured && self.quota < u64::MAX {
            self.quota -= 1;
        }
        self.begin(index);
    }

    #[inline]
    fn rest(&mut self, index: usize) {
        self.connections[index].state = State::Resting;
        self.resting += 1;
        self.busy -= 1;
    }

    /// Begins the next exchange of a resting connection, if there is one.
    fn resume(&mut self, index: usize) {
        if self.connections[index].state == State::Resting {
            self.resting -= 1;
            self.busy += 1;
            self.now = self.control.clock.now();
            self.next(index);
        }
    }

    /// Lets a connection of an open loop rest, or sends the request that waits for it.
    #[inline]
    fn next_planned(&mut self, index: usize) {
        let others_idle = self.resting > 0;
        self.rest(index);
        let Some(pacer) = self.pacer.as_mut().filter(|_| self.looping) else { return };
        let here_ns = pacer.push_idle(index);
        if let Some(due) = pacer.take_due(self.now) {
            self.send_planned(due, if others_idle { due.planned_ns } else { here_ns });
        }
    }

    /// Sends a due request on the connection that has been idle longest. There has been an idle
    /// one since `idle_ns`.
    #[inline]
    fn send_planned(&mut self, due: Due, idle_ns: u64) {
        let Some(pacer) = &mut self.pacer else { return };
        let Some(index) = pacer.pop_idle(&self.connections) else { return };
        self.resting -= 1;
        self.busy += 1;
        let connection = &mut self.connections[index];
        connection.measured = due.measured;
        connection.planned_ns = due.planned_ns;
        self.counters.planned(due, idle_ns, self.now);
        self.begin(index);
    }

    /// Begins an exchange, on a new connection if the service closes it after each.
    #[inline]
    fn begin(&mut self, index: usize) {
        match self.connections[index].socket {
            Some(_) => self.send_request(index),
            None => self.connect(index),
        }
    }

    #[inline]
    fn send_request(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.begin(self.now);
        self.counters.sent(connection);
        if let Err(error) = self.driver.send(index, connection) {
            self.fail(index, &End::Failed(Kind::Send, error));
        }
    }

    fn connect(&mut self, index: usize) {
        let number = self.load.first + index as u32;
        let opened = self.plan.target.open(number);
        let connection = &mut self.connections[index];
        self.now = self.control.clock.now();
        connection.state = State::Connecting;
        connection.since_ns = self.now;
        let opened = opened.and_then(|socket| {
            self.plan.target.connect(&socket)?;
            self.driver.connect(index, &socket)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => connection.socket = Some(socket),
            Err(error) => self.fail(index, &End::Failed(Kind::Connect, error)),
        }
    }

    fn release_opening(&mut self, index: usize) {
        self.connections[index].opening = false;
        self.opening -= 1;
    }

    fn close(&mut self, index: usize) {
        if let Some(socket) = self.connections[index].socket.take() {
            self.driver.close(index, socket);
        }
    }

    // Failures.

    /// Counts the failure of a connection and takes it out of the run.
    #[cold]
    fn fail(&mut self, index: usize, end: &End) {
        let number = self.load.first as usize + index;
        let connection = &mut self.connections[index];
        let (kind, errno) = (end.kind(connection.state), end.errno());
        self.counters.failed(connection, kind, errno, self.now, || {
            format!("connection {number}: {}", end.describe(connection))
        });
        let state = std::mem::replace(&mut connection.state, State::Out);
        if state == State::Resting {
            self.resting -= 1;
        } else {
            self.busy -= 1;
            // Another connection does the exchange in its place, unless it had an instant of its
            // own.
            if connection.measured && self.load.requests < u64::MAX && self.pacer.is_none() {
                self.quota += 1;
                self.quota_returned = true;
            }
        }
        if connection.opening {
            self.release_opening(index);
        }
        self.close(index);
    }
}
