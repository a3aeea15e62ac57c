//! The phases of a run, as the main thread conducts them.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use lockstep_results::Interval;

use crate::clients::clock::{Clock, NEVER};
use crate::clients::control::Control;
use crate::clients::failures::with_name;
use crate::clients::laps::{Lap, Laps, Over};
use crate::clients::share::Share;
use crate::clients::tally::Tally;
use crate::clients::turns::Seat;
use crate::clients::worker::{self, Plan};
use crate::exit::{self, Failure};
use crate::machine::placement::{Placement, pin};
use crate::machine::processes::Processes;
use crate::machine::procfs::Usage;
use crate::progress::{self, Progress};
use crate::run::account::{Account, Used};
use crate::run::warmup::{self, Warmup, Watch};
use crate::servers::embedded::Ready;

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

/// What the main thread waits for.
#[derive(Debug)]
pub enum News {
    /// A signal of that number came.
    Signal(i32),
    /// The target's name was resolved, or not.
    Resolved(Result<std::net::SocketAddr, String>),
    /// The embedded server is ready, or has ended.
    Ready(Option<Ready>),
    /// Every connection of a thread has done its first exchange or failed.
    Opened,
    /// A thread has nothing outstanding any more, or one of several runs is over.
    Finished,
}

/// Tells that something has finished, however it does.
pub(super) struct Finish(pub(super) Sender<News>);

impl Drop for Finish {
    fn drop(&mut self) {
        let _nobody_waits = self.0.send(News::Finished);
    }
}

/// What is to be measured, and how long.
#[derive(Debug)]
pub struct Run {
    /// What the threads are to do.
    pub plan: Plan,
    /// Connections in all.
    pub conns: u32,
    /// Measured exchanges in all.
    pub requests: Option<u64>,
    /// The loop before the window.
    pub warmup: Warmup,
    /// The window; without it, as long as `requests` take.
    pub duration: Option<Duration>,
    /// Which thread runs where.
    pub placement: Placement,
    /// The server's processes, if it is on this machine.
    pub server: Option<Processes>,
    /// What the progress line begins with; without it there is none.
    pub progress: Option<String>,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// The counts of all threads.
    pub tally: Tally,
    /// What was counted in the window.
    pub sum: Lap,
    /// The window's intervals.
    pub intervals: Vec<Interval>,
    /// When the window began, in the calendar.
    pub started: SystemTime,
    /// When it began, on the clock of the run.
    pub start_ns: u64,
    /// The window's length.
    pub window: Duration,
    /// How long the loop was before the window.
    pub warmup: Duration,
    /// How that came to its end; `None` if its length was given.
    pub warmup_end: Option<warmup::End>,
    /// What the generator used in the window.
    pub client: Option<Usage>,
    /// What the server used in it.
    pub server: Used,
    /// The signal that cut the run short.
    pub signal: Option<i32>,
}

/// Carries out a run. `over` is told of each interval of the measured window when it is over.
///
/// # Errors
///
/// When threads cannot be started or cannot wait for events.
pub fn measure(
    run: &Run,
    sender: &Sender<News>,
    news: &Receiver<News>,
    over: &mut dyn FnMut(&Over<'_>),
) -> Result<Measured, Failure> {
    let cannot = |what: &str, error: &io::Error| {
        Failure::new(exit::FAILURE, format!("{what}: {}", with_name(error)))
    };
    let open = run.plan.open.is_some();
    let control = Control::new(Clock::start(), run.plan.threads, open)
        .map_err(|error| cannot("cannot wake threads", &error))?;
    let control = Arc::new(control);
    let connections = Mutex::new(());
    thread::scope(|scope| {
        let keep = connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut conductor = Conductor {
            run,
            control: &control,
            news,
            progress: Progress::start(run.progress.as_deref()),
            server: Account::new(run.server),
            opened: 0,
            finished: 0,
            started: 0,
            signal: None,
            laps: Laps::new(run.plan.interval_ns, open),
            over,
            window_started: SystemTime::now(),
        };
        let mut threads = Vec::new();
        for share in Share::divide(run.conns, run.requests, run.plan.threads) {
            let (sender, control, connections) = (sender.clone(), &control, &connections);
            let work = move || work(run, control, share, &sender, connections);
            match thread::Builder::new()
                .name(format!("clients-{}", share.thread))
                .spawn_scoped(scope, work)
            {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    control.cut(0, 0);
                    return Err(cannot("cannot start a thread", &error));
                }
            }
        }
        conductor.started = threads.len();
        let edges = conductor.conduct(keep);
        let mut tally = Tally::new();
        for thread in threads {
            match thread.join() {
                Ok(Ok(counts)) => tally.merge(counts),
                Ok(Err(error)) => return Err(Failure::new(exit::FAILURE, error)),
                Err(_) => return Err(Failure::new(exit::FAILURE, "a client thread panicked")),
            }
        }
        Ok(conductor.into_measured(edges, tally))
    })
}

/// One thread's part. Whatever happens, the main thread hears that it is over, and so do those that
/// wait for their turns.
fn work(
    run: &Run,
    control: &Control,
    share: Share,
    sender: &Sender<News>,
    connections: &Mutex<()>,
) -> Result<Tally, String> {
    struct Leave<'a>(Option<&'a Seat>);
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            self.0.iter().for_each(|seat| seat.leave());
        }
    }
    let finish = Finish(sender.clone());
    let leave = Leave(run.plan.seat.as_ref());
    pin(&[run.placement.of_thread(share.thread)])?;
    let events = |error: io::Error| format!("cannot wait for events: {}", with_name(&error));
    let opened = || drop(sender.send(News::Opened));
    let finished = move || {
        drop(leave);
        drop(finish);
        run.plan.seat.iter().for_each(Seat::await_all);
        drop(connections.lock());
    };
    worker::work(&run.plan, control, share, opened, finished).map_err(events)
}

/// The main thread during a run.
struct Conductor<'a> {
    run: &'a Run,
    control: &'a Arc<Control>,
    news: &'a Receiver<News>,
    progress: Progress,
    server: Account,
    opened: usize,
    finished: usize,
    started: usize,
    signal: Option<i32>,
    laps: Laps,
    over: &'a mut dyn FnMut(&Over<'_>),
    /// When the measured window begins, in the calendar.
    window_started: SystemTime,
}

/// What was read at the edges of the measured window.
struct Edges {
    begin_ns: u64,
    start_ns: u64,
    end_ns: u64,
    warmup_end: Option<warmup::End>,
}

impl Conductor<'_> {
    /// Goes through all phases. No connection is closed before `keep` is dropped.
    fn conduct(&mut self, keep: MutexGuard<'_, ()>) -> Edges {
        while self.opened < self.started && self.finished == 0 && self.signal.is_none() {
            self.wait(NEVER);
        }
        self.server.find();
        if self.run.plan.seat.is_some() {
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
            self.run.plan.seat.iter().for_each(|seat| seat.take(self.control, self.started));
            self.warm_up(&mut edges);
            self.wait_until(edges.start_ns);
            if self.run.plan.seat.is_some() {
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
        let Some(seat) = &self.run.plan.seat else { return };
        seat.steady();
        while self.signal.is_none() && self.finished < self.started && !seat.all_are_steady() {
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
        match self.news.recv_timeout(patience) {
            Ok(News::Opened) => self.opened += 1,
            Ok(News::Finished) => self.finished += 1,
            Ok(News::Signal(signal)) => {
                self.signal = Some(signal);
                let now = self.control.clock.now();
                self.control.cut(now, now + PATIENCE_NS);
            }
            Err(RecvTimeoutError::Timeout) => self.progress.show(self.control, self.run.conns),
            Ok(News::Resolved(_) | News::Ready(_)) | Err(RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Tells of the intervals that all threads are through with, and how long until it should be
    /// looked again. The last one is left for the end: its own is not sure before.
    fn end_laps(&mut self) -> Duration {
        let (control, length_ns) = (self.control, self.run.plan.interval_ns);
        let (start_ns, end_ns) = (control.start_ns(), control.end_ns());
        let due_ns = start_ns.saturating_add(self.laps.next_end_ns());
        if due_ns >= end_ns {
            return Duration::MAX;
        }
        let now = control.clock.now();
        if now < due_ns {
            return control.clock.until(due_ns) + THREADS_FIRST;
        }
        let reached = self.laps.collect(control.mailboxes());
        let window_ns = now.min(end_ns) - start_ns;
        let before = reached.min(window_ns / length_ns).min((end_ns - start_ns - 1) / length_ns);
        let started = self.window_started;
        self.laps.end(before, window_ns, control.mailboxes(), |interval, lap| {
            (self.over)(&Over { interval, lap, started });
        });
        LOOK_AGAIN
    }

    fn into_measured(mut self, edges: Edges, tally: Tally) -> Measured {
        let (control, mut end_ns) = (self.control, edges.end_ns);
        self.laps.collect(control.mailboxes());
        if self.run.requests.is_some_and(|requests| self.laps.exchanges == requests) {
            end_ns = tally.last_reply_ns;
        }
        let window_ns = if control.looping() { end_ns.saturating_sub(edges.start_ns) } else { 0 };
        let started = self.window_started;
        // Where the threads have it from; no window, no intervals.
        let since_ns = control.start_ns().min(end_ns);
        self.laps.finish(end_ns - since_ns, control.mailboxes(), |interval, lap| {
            (self.over)(&Over { interval, lap, started });
        });
        Measured {
            sum: self.laps.sum,
            intervals: self.laps.intervals,
            started,
            start_ns: edges.start_ns,
            window: Duration::from_nanos(window_ns),
            warmup: Duration::from_nanos(edges.start_ns - edges.begin_ns),
            warmup_end: edges.warmup_end,
            client: tally.usage,
            server: self.server.into_used(),
            signal: self.signal,
            tally,
        }
    }
}
