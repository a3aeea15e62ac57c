//! The main thread during a run: when each phase begins and ends, and what is read at the edges of
//! the measured window.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime};

use crate::clients::clock::NEVER;
use crate::clients::control::Control;
use crate::clients::counters::Totals;
use crate::clients::intervals::{FinishedInterval, Intervals};
use crate::event::Event;
use crate::progress::{self, Progress};
use crate::run::account::Account;
use crate::run::measure::{Measured, Run};
use crate::run::observer::Observer;
use crate::run::warmup::{self, Warmup, Watch};

/// How long outstanding replies are awaited after a signal.
const PATIENCE_NS: u64 = 500_000_000;

/// How long after the end of an interval it is looked for what the threads counted: they are not
/// to wait for this one.
const THREADS_FIRST: Duration = Duration::from_millis(2);

/// How soon it is looked again for who was not there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long not to look at the clock that stands still: the processor is that of the generator's
/// threads, and another run has its turn.
const WHILE_OTHERS_RUN: Duration = Duration::from_millis(5);

/// How long before an open loop begins the threads are told, so that none of them is late for the
/// first request.
const HEAD_START: Duration = Duration::from_millis(10);

/// How long before the measured window the threads can know when it starts: more than this thread
/// is usually kept from its processor.
const NOTICE: Duration = Duration::from_millis(20);

/// The main thread during a run.
pub(super) struct Conductor<'a> {
    run: &'a Run,
    control: &'a Arc<Control>,
    events: &'a Receiver<Event>,
    progress: Progress,
    server: Account,
    opened: usize,
    finished: usize,
    started: usize,
    signal: Option<i32>,
    intervals: Intervals,
    observer: &'a mut dyn Observer,
    /// When the measured window begins, in the calendar.
    window_started: SystemTime,
}

/// What was read at the edges of the measured window.
pub(super) struct Edges {
    begin_ns: u64,
    start_ns: u64,
    end_ns: u64,
    warmup_end: Option<warmup::End>,
}

impl<'a> Conductor<'a> {
    pub(super) fn new(
        run: &'a Run,
        control: &'a Arc<Control>,
        events: &'a Receiver<Event>,
        observer: &'a mut dyn Observer,
    ) -> Self {
        Self {
            run,
            control,
            events,
            progress: Progress::start(run.progress.as_deref()),
            server: Account::new(run.server),
            opened: 0,
            finished: 0,
            started: 0,
            signal: None,
            intervals: Intervals::new(run.plan.interval_ns, run.plan.open.is_some()),
            observer,
            window_started: SystemTime::now(),
        }
    }

    /// Goes through all phases with so many threads. No connection is closed before `keep` is
    /// dropped.
    pub(super) fn conduct(&mut self, threads: usize, keep: MutexGuard<'_, ()>) -> Edges {
        self.started = threads;
        while self.opened < self.started && self.finished == 0 && self.signal.is_none() {
            self.wait(NEVER);
        }
        let opening = self.control.clock.now();
        self.server.find();
        if self.opened == self.started && self.finished == 0 && self.signal.is_none() {
            self.observer.opened(self.server.processes(), Duration::from_nanos(opening));
        }
        if self.run.plan.slices.is_some() {
            self.control.clock.stop();
        }
        let now = self.control.clock.now();
        let ahead = self.run.plan.open.map_or(Duration::ZERO, |_| HEAD_START);
        let begin_ns = now + ahead.as_nanos() as u64;
        let mut edges = Edges { begin_ns, start_ns: begin_ns, end_ns: NEVER, warmup_end: None };
        let lost = self.opened < self.started || self.finished > 0;
        if lost || self.signal.is_some() {
            self.control.cut(now, now);
        } else {
            self.run.plan.slices.iter().for_each(|slices| slices.join(self.control, self.started));
            self.warm_up(&mut edges);
            self.wait_until(edges.start_ns);
            if self.run.plan.slices.is_some() {
                self.window_started = SystemTime::now(); // the clock has stood still meanwhile
            }
            self.server.begin();
            self.wait_until(edges.end_ns);
        }
        // Now at the latest, also if all threads have ended before their time.
        edges.end_ns = edges.end_ns.min(self.control.clock.now()).min(self.control.end_ns());
        self.server.end();
        drop(keep);
        while self.finished < self.started {
            self.wait(NEVER);
        }
        edges
    }

    /// Begins the loop and sets the window that is measured.
    fn warm_up(&mut self, edges: &mut Edges) {
        match self.run.warmup {
            Warmup::Fixed(length) => {
                self.set_window(edges, edges.begin_ns + length.as_nanos() as u64);
                self.control.begin_loop(edges.begin_ns);
            }
            Warmup::Auto => {
                self.control.begin_loop(edges.begin_ns);
                edges.warmup_end = self.await_steady(edges.begin_ns);
                self.await_others_steady();
                edges.start_ns = self.control.clock.now();
                // What a signal or a lack of connections has ended is not measured.
                if edges.warmup_end.is_some() {
                    self.set_window(edges, edges.start_ns + NOTICE.as_nanos() as u64);
                    // Had this thread no processor meanwhile, then nothing was counted either.
                    edges.start_ns = edges.start_ns.max(self.control.clock.now());
                }
            }
        }
    }

    fn set_window(&mut self, edges: &mut Edges, start_ns: u64) {
        let length = self.run.duration.map_or(NEVER, |length| length.as_nanos() as u64);
        (edges.start_ns, edges.end_ns) = (start_ns, start_ns.saturating_add(length));
        self.control.set_window(start_ns, edges.end_ns);
        self.window_started = SystemTime::now() + self.control.clock.until(edges.start_ns);
    }

    /// Watches the loop until it is steady or has had its time; `None` when it ended before.
    fn await_steady(&mut self, begin_ns: u64) -> Option<warmup::End> {
        let mut watch = Watch::default();
        let (mut then, mut before) = (begin_ns, self.control.progress().1);
        loop {
            self.wait_until(then + warmup::SLICE.as_nanos() as u64);
            if self.signal.is_some() || self.finished == self.started {
                return None;
            }
            let (now, (_, exchanges)) = (self.control.clock.now(), self.control.progress());
            let end = watch.note(now - then, exchanges - before);
            if end.is_some() {
                return end;
            }
            (then, before) = (now, exchanges);
        }
    }

    /// Goes on until the runs that take turns with this one are steady, too.
    fn await_others_steady(&mut self) {
        let Some(slices) = &self.run.plan.slices else { return };
        slices.set_steady();
        while self.signal.is_none() && self.finished < self.started && !slices.all_are_steady() {
            self.wait(self.control.clock.now() + LOOK_AGAIN.as_nanos() as u64);
        }
    }

    /// Waits until that instant, or a signal, or all threads have ended.
    fn wait_until(&mut self, instant: u64) {
        while self.signal.is_none()
            && self.finished < self.started
            && self.control.clock.now() < instant
        {
            self.wait(instant);
        }
    }

    /// Waits for one piece of news, but no longer than until that instant, nor than until the
    /// progress line is due or an interval is over.
    fn wait(&mut self, instant: u64) {
        let patience = self.control.clock.until(instant).min(progress::INTERVAL);
        let mut patience = patience.min(self.end_laps());
        if self.control.clock.is_stopped() {
            patience = patience.max(WHILE_OTHERS_RUN);
        }
        match self.events.recv_timeout(patience) {
            Ok(Event::Opened) => self.opened += 1,
            Ok(Event::Finished) => self.finished += 1,
            Ok(Event::Signal(signal)) => {
                self.signal = Some(signal);
                let now = self.control.clock.now();
                self.control.cut(now, now + PATIENCE_NS);
            }
            Err(RecvTimeoutError::Timeout) => self.progress.show(self.control, self.run.conns),
            Ok(Event::Resolved(_) | Event::Ready(_)) | Err(RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Tells of the intervals that all threads are through with, and how long until it should be
    /// looked again. The last one is left for the end: its own is not sure before.
    fn end_laps(&mut self) -> Duration {
        let (control, length_ns) = (self.control, self.run.plan.interval_ns);
        let (start_ns, end_ns) = (control.start_ns(), control.end_ns());
        let due_ns = start_ns.saturating_add(self.intervals.next_end_ns());
        if due_ns >= end_ns {
            return Duration::MAX;
        }
        let now = control.clock.now();
        if now < due_ns {
            return control.clock.until(due_ns) + THREADS_FIRST;
        }
        let reached = self.intervals.collect(control.queues());
        let window_ns = now.min(end_ns) - start_ns;
        let before = reached.min(window_ns / length_ns).min((end_ns - start_ns - 1) / length_ns);
        let started = self.window_started;
        self.intervals.end(before, window_ns, control.queues(), |interval, counts| {
            self.observer.interval(&FinishedInterval { interval, counts, started });
        });
        LOOK_AGAIN
    }

    /// What was measured, with what all threads counted.
    pub(super) fn into_measured(mut self, edges: Edges, totals: Totals) -> Measured {
        let (control, mut end_ns) = (self.control, edges.end_ns);
        self.intervals.collect(control.queues());
        if self.run.requests.is_some_and(|requests| self.intervals.exchanges == requests) {
            end_ns = totals.last_reply_ns;
        }
        let window_ns = if control.looping() { end_ns.saturating_sub(edges.start_ns) } else { 0 };
        let started = self.window_started;
        // Where the threads have it from; no window, no intervals.
        let since_ns = control.start_ns().min(end_ns);
        self.intervals.finish(end_ns - since_ns, control.queues(), |interval, counts| {
            self.observer.interval(&FinishedInterval { interval, counts, started });
        });
        Measured {
            intervals: self.intervals,
            started,
            start_ns: edges.start_ns,
            window: Duration::from_nanos(window_ns),
            warmup: Duration::from_nanos(edges.start_ns - edges.begin_ns),
            warmup_end: edges.warmup_end,
            client: totals.usage,
            server: self.server.into_used(),
            signal: self.signal,
            totals,
        }
    }
}
