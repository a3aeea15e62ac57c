//! One load-generating thread: its connections, and the phases it goes through.
//!
//! The event handling is in `engine.rs`. Sharing between threads is limited to
//! [`Control`], which is read once an exchange and written once a turn.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::clients::clock::NEVER;
use crate::clients::connection::{Connection, Service, State};
use crate::clients::control::Control;
use crate::clients::engine::{Engine, Epoll, Sockets, Uring};
use crate::clients::failures::Kind;
use crate::clients::laps::Lap;
use crate::clients::pacer::{self, Pacer};
use crate::clients::pattern::Pattern;
use crate::clients::schedule::OpenLoop;
use crate::clients::share::Share;
use crate::clients::socket::Target;
use crate::clients::spin::Spin;
use crate::clients::tally::Tally;
use crate::clients::turns::Seat;
use crate::clients::window::ProcessorTime;

/// What a receive can take at once, at most.
const SCRATCH: usize = 64 << 10;

/// Connections of a run that are being opened at once, at most: enough to keep a server busy, few
/// enough not to flood its listen queue.
const OPENING_MAX: usize = 256;

/// How long a connection counts towards [`OPENING_MAX`]; one that waits longer hinders no other.
const OPENING_NS: u64 = 100_000_000;

/// Connections set going at once before replies are looked at.
pub(crate) const KICK_OFF: usize = 64;

/// How long to wait for the next turn before looking again; whoever begins it wakes the thread.
const UNTIL_TURN: Duration = Duration::from_secs(1);

/// What all threads of a run are to do.
#[derive(Debug)]
pub struct Plan {
    /// With which system calls.
    pub engine: Engine,
    /// Where to connect.
    pub target: Target,
    /// What to expect there.
    pub service: Service,
    /// What to send.
    pub pattern: Pattern,
    /// How long a connect or an exchange may take.
    pub timeout: Duration,
    /// New connections a second, over all threads; none is as fast as possible.
    pub connect_rate: Option<u64>,
    /// Threads.
    pub threads: usize,
    /// When requests are due; without it, as soon as the reply to the last is here.
    pub open: Option<OpenLoop>,
    /// How long a closed loop looks for replies before it sleeps.
    pub spin: Duration,
    /// How long the intervals of the measured window are.
    pub interval_ns: u64,
    /// The place among runs that are under load in turn; for a closed loop that lasts so long.
    pub seat: Option<Seat>,
}

/// One load-generating thread.
pub(crate) struct Worker<'a, S> {
    pub(crate) plan: &'a Plan,
    pub(crate) control: &'a Control,
    pub(crate) share: Share,
    pub(crate) sockets: S,
    spin: Spin,
    /// Whether the last wait was for something.
    pub(crate) found: bool,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) tally: Tally,
    /// What is counted in the present interval.
    pub(crate) lap: Lap,
    /// Which that is.
    pub(crate) lap_number: u64,
    /// Where it ends.
    pub(crate) lap_end_ns: u64,
    /// The last reading of the clock.
    pub(crate) now: u64,
    /// Measured exchanges that may still begin.
    pub(crate) quota: u64,
    /// Whether some of them came back from a failure.
    pub(crate) quota_returned: bool,
    /// Whether the loop has begun.
    pub(crate) looping: bool,
    /// In an open loop, what is due when.
    pub(crate) pacer: Option<Pacer>,
    /// Connections with something outstanding.
    pub(crate) busy: usize,
    /// Connections with nothing outstanding.
    pub(crate) resting: usize,
    /// Connections that count towards the limit of those being opened.
    pub(crate) opening: usize,
    next_scan_ns: u64,
    pub(crate) processor_time: ProcessorTime,
}

/// Goes through all phases of one thread. `opened` is called once every connection has done its
/// first exchange or failed, `finished` once nothing is outstanding any more.
///
/// # Errors
///
/// When events cannot be waited for. A connection's trouble is counted, not returned.
pub fn work(
    plan: &Plan,
    control: &Control,
    share: Share,
    opened: impl FnOnce(),
    finished: impl FnOnce(),
) -> io::Result<Tally> {
    match plan.engine {
        Engine::Epoll => Worker::<Epoll>::new(plan, control, share)?.run(opened, finished),
        Engine::IoUring => Worker::<Uring>::new(plan, control, share)?.run(opened, finished),
    }
}

impl<'a, S: Sockets> Worker<'a, S> {
    /// Takes all descriptors and memory that do not depend on how the run goes.
    fn new(plan: &'a Plan, control: &'a Control, share: Share) -> io::Result<Self> {
        let wake = control.wake(share.thread).as_fd();
        let mut sockets = S::new(plan, share.connections as usize, wake)?;
        let numbers = share.first..share.first + share.connections;
        let mut tally = Tally::new();
        let pacer = match &plan.open {
            Some(asked) => {
                tally.open = Some(pacer::tally(asked, plan.threads, share));
                let pacer = Pacer::new(*asked, plan.threads, share, control.clock.clone())?;
                sockets.watch_timer(pacer.timer())?;
                Some(pacer)
            }
            None => None,
        };
        Ok(Self {
            plan,
            control,
            share,
            sockets,
            spin: Spin::new(plan.spin),
            found: false,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            connections: numbers.map(Connection::new).collect(),
            tally,
            lap: Lap::new(plan.open.is_some()),
            lap_number: 0,
            lap_end_ns: NEVER,
            now: control.clock.now(),
            quota: share.requests,
            quota_returned: false,
            looping: false,
            pacer,
            busy: 0,
            resting: 0,
            opening: 0,
            next_scan_ns: 0,
            processor_time: ProcessorTime::Ahead,
        })
    }

    fn run(mut self, opened: impl FnOnce(), finished: impl FnOnce()) -> io::Result<Tally> {
        self.open()?;
        opened();
        while !self.control.looping() && self.now < self.control.end_ns() {
            self.turn(self.until_scan())?;
        }
        if self.control.looping() {
            match self.pacer {
                None => self.run_closed_loop()?,
                Some(_) => self.run_open_loop()?,
            }
        }
        self.note_window_end();
        self.hand_over_lap(NEVER);
        finished();
        Ok(self.into_tally())
    }

    /// Opens every connection, each when its time has come, and looks at events in between, so
    /// that no connect waits for our own loop.
    fn open(&mut self) -> io::Result<()> {
        let begin = self.control.clock.now();
        let opening_max = (OPENING_MAX / self.plan.threads).max(1);
        let interval_ns =
            self.plan.connect_rate.map_or(0.0, |rate| 1e9 * self.plan.threads as f64 / rate as f64);
        let mut next = 0;
        while next < self.connections.len() || self.busy > 0 {
            self.now = self.control.clock.now();
            if self.now >= self.control.end_ns() {
                break;
            }
            let due = begin + (next as f64 * interval_ns) as u64;
            if next < self.connections.len() && self.opening < opening_max && self.now >= due {
                self.open_connection(next);
                next += 1;
                self.turn(Duration::ZERO)?;
            } else if next < self.connections.len() && self.opening < opening_max {
                self.turn(self.until_scan().min(Duration::from_nanos(due - self.now)))?;
            } else {
                self.turn(self.until_scan())?;
            }
        }
        Ok(())
    }

    fn run_closed_loop(&mut self) -> io::Result<()> {
        self.looping = true;
        for turn in 1.. {
            self.await_turn(turn)?;
            for index in 0..self.connections.len() {
                self.resume(index);
                if index % KICK_OFF == KICK_OFF - 1 {
                    self.turn(Duration::ZERO)?;
                }
            }
            while self.busy > 0 && self.now < self.control.abandon_ns() {
                self.spin_or_turn()?;
            }
            match &self.plan.seat {
                Some(seat) if self.resting > 0 && self.now < self.control.end_ns() => seat.done(),
                _ => break,
            }
        }
        Ok(())
    }

    /// Lets the other runs have their turns, until this run's turn of that number, from 1, begins.
    fn await_turn(&mut self, turn: u64) -> io::Result<()> {
        while self.plan.seat.is_some() && self.control.turns() < turn {
            self.turn(UNTIL_TURN)?;
        }
        self.now = self.control.clock.now();
        Ok(())
    }

    /// Looks for events for a while if that is asked for, then waits for them, and handles them.
    fn spin_or_turn(&mut self) -> io::Result<()> {
        let looked = self.spin.spin(self.until_scan(), || self.sockets.wait(Duration::ZERO))?;
        if (self.control.start_ns()..self.control.end_ns()).contains(&self.now) {
            self.tally.spun_ns += looked.spun.as_nanos() as u64;
        }
        if !looked.found {
            return self.turn(self.until_scan());
        }
        self.handle();
        Ok(())
    }

    /// Waits for events, at most that long, and handles them.
    pub(crate) fn turn(&mut self, wait: Duration) -> io::Result<()> {
        if let Some(pacer) = &mut self.pacer {
            pacer.before_wait();
        }
        self.found = self.sockets.wait(wait)?;
        if let Some(pacer) = &mut self.pacer {
            pacer.after_wait();
        }
        self.handle();
        Ok(())
    }

    /// Handles the events that were waited for, and what is due.
    fn handle(&mut self) {
        let before = self.now;
        S::handle(self);
        if self.now == before {
            self.now = self.control.clock.now();
        }
        if std::mem::take(&mut self.quota_returned) {
            self.hand_over_quota();
        }
        if self.now >= self.next_scan_ns {
            self.scan();
        }
        self.note_window_edges();
        self.control.publish(
            self.share.thread,
            self.tally.attempted - self.opening as u64,
            self.tally.total,
        );
    }

    /// Clears the main thread's wake-up call; what it had to say is read where it matters.
    pub(crate) fn hear(&self) {
        let mut counter = [0; 8];
        // It can only fail for a counter that is zero already.
        let _ = rustix::io::read(self.control.wake(self.share.thread), &mut counter);
    }

    /// The pacer's timer has expired. What is due is looked at after every turn.
    pub(crate) fn on_timer(&mut self) {
        self.pacer.iter_mut().for_each(Pacer::disarm);
    }

    /// Gives measured exchanges that failed to connections that have nothing to do.
    fn hand_over_quota(&mut self) {
        for index in 0..self.connections.len() {
            if self.quota == 0 || self.resting == 0 {
                break;
            }
            self.resume(index);
        }
    }

    /// How long until connections must be looked at for their age.
    pub(crate) fn until_scan(&self) -> Duration {
        Duration::from_nanos(self.next_scan_ns.saturating_sub(self.now))
    }

    /// Ends what has taken too long. A timer for each connection would cost more than looking at
    /// all of them now and then.
    fn scan(&mut self) {
        let timeout_ns = self.plan.timeout.as_nanos() as u64;
        self.next_scan_ns = self.now + (timeout_ns / 20).clamp(1_000_000, OPENING_NS);
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let age_ns = self.now.saturating_sub(connection.since_ns);
            if connection.opening && age_ns >= OPENING_NS {
                self.release_opening(index);
            }
            if age_ns < timeout_ns || !self.connections[index].state.is_busy() {
                continue;
            }
            let before = self.connections[index].progress();
            S::look(self, index);
            if self.connections[index].progress() != before {
                continue; // The reply was here; we were late, not the server.
            }
            let timeout = humantime::format_duration(self.plan.timeout);
            match self.connections[index].state {
                State::Connecting => self.fail(index, Kind::Connect, None, |_| {
                    format!("not established within {timeout}")
                }),
                State::AwaitingEnd => self.fail(index, Kind::Timeout, None, |_| {
                    format!("the conversation was not ended within {timeout}")
                }),
                _ => self.fail(index, Kind::Timeout, None, |connection| {
                    format!("{} bytes of the reply within {timeout}", connection.received())
                }),
            }
        }
    }

    fn into_tally(mut self) -> Tally {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if let Some(socket) = connection.socket.take() {
                self.sockets.close(index, socket);
            }
            let tried = connection.state != State::New;
            self.tally.unserved += u64::from(tried && !connection.served);
            if tried {
                self.tally.per_connection.push(connection.exchanges);
            }
        }
        self.tally
    }
}
