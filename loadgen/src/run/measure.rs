//! One measurement: the clients' threads, and the main thread, which controls their phases.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use lockstep_sys::cpus::allowed;
use lockstep_sys::errno::describe;
use lockstep_sys::memory;
use rustix::process::getpid;

use crate::clients::clock::{Clock, NEVER};
use crate::clients::control::Control;
use crate::clients::counters::Totals;
use crate::clients::intervals::{FinishedInterval, Intervals, interval_at};
use crate::clients::plan::{Plan, ThreadLoad};
use crate::clients::slices::SliceHandle;
use crate::clients::worker;
use crate::event::{Event, FinishGuard};
use crate::exit::{self, Failure};
use crate::machine::neighbours::{NeighbourMeter, Neighbours};
use crate::machine::pauses::{self, Pauses};
use crate::machine::placement::{Placement, pin};
use crate::machine::processes::Processes;
use crate::machine::quota::{QuotaMeter, QuotaUse};
use crate::progress::{self, Progress};
use crate::ranks::{Member, Start};
use crate::run::observer::Observer;
use crate::run::server_page::{PageMeter, ServerPage};
use crate::run::server_usage::{ServerMeter, ServerUsage};
use crate::run::warmup::{self, Warmup, Watch};

/// Time that outstanding replies are awaited after a signal.
const PATIENCE_NS: u64 = 500_000_000;

/// Delay after the end of an interval before its counts are collected, so that the threads have
/// handed them over.
const THREADS_FIRST: Duration = Duration::from_millis(2);

/// Poll interval while threads have not handed over their counts, or other runs are not steady.
const POLL: Duration = Duration::from_millis(10);

/// Poll interval during the time slice of another run, whose threads need the CPU.
const POLL_STOPPED: Duration = Duration::from_millis(5);

/// Time between the start of the threads of an open loop and its first request, so that no thread
/// is late.
const HEAD_START: Duration = Duration::from_millis(10);

/// Time between setting the measured window and its start: longer than this thread usually waits
/// for a CPU.
const NOTICE: Duration = Duration::from_millis(20);

/// Load of a run, its length, and where it runs.
#[derive(Debug)]
pub struct Run {
    /// Plan of the threads.
    pub plan: Plan,
    /// Seed of the whole run, from which a rank derives its own.
    pub seed: u64,
    /// Number of connections.
    pub conns: u32,
    /// Number of measured exchanges.
    pub requests: Option<u64>,
    /// Warm-up before the window.
    pub warmup: Warmup,
    /// Length of the window; `None` is until `requests` are done.
    pub duration: Option<Duration>,
    /// CPUs of both sides.
    pub placement: Placement,
    /// Processes of the server, if it is on this machine.
    pub server: Option<Processes>,
    /// Page that the server's usage is read from, in place of its processes.
    pub page: Option<ServerPage>,
    /// Label of the progress line; `None` shows none.
    pub progress: Option<String>,
}

/// Result of a measurement.
#[derive(Debug)]
pub struct Measured {
    /// Counts of all threads.
    pub totals: Totals,
    /// Start of the load.
    pub start: Start,
    /// True if the load was started; false if the connections were not opened before the end.
    pub looped: bool,
    /// Counts of the measured window, in all and by interval.
    pub intervals: Intervals,
    /// Wall-clock time of the window's start.
    pub started: SystemTime,
    /// The window's start on the clock of the run.
    pub start_ns: u64,
    /// Length of the window.
    pub window: Duration,
    /// Length of the warm-up.
    pub warmup: Duration,
    /// End of a watched warm-up; `None` if its length was given.
    pub warmup_end: Option<warmup::End>,
    /// CPUs that the clients' threads could run on.
    pub client_cpus: Vec<usize>,
    /// Resource usage of the server in the window.
    pub server: ServerUsage,
    /// CPU quota of the generator in the window.
    pub quota: Option<QuotaUse>,
    /// Other programs in the window; `None` without a window.
    pub neighbours: Option<Neighbours>,
    /// Pauses of the generator from the window's start to the last reply.
    pub pauses: Pauses,
    /// Pauses before.
    pub pauses_before: Pauses,
    /// Signal that cut the run short.
    pub signal: Option<i32>,
}

/// Measures a run, and reports its events to `observer`. The load of a `member` starts at the
/// instant that all ranks have agreed on.
///
/// # Errors
///
/// Those of eventfd(2), of starting a thread, of creating an engine, and of waiting for events.
pub fn measure(
    run: &Run,
    member: Option<&Member>,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
    observer: &mut dyn Observer,
) -> Result<Measured, Failure> {
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    let cannot = |what: &str, error: &io::Error| failed(format!("{what}: {}", describe(error)));
    let mut signal = None;
    observer.ready(&run.server.map(|server| server.list(&[])).unwrap_or_default(), &mut |time| {
        if let Ok(Event::Signal(number)) = events.recv_timeout(time) {
            signal = Some(number);
        }
        signal.is_none()
    });
    let control = Control::new(Clock::start(), run.plan.threads, run.plan.open.is_some())
        .map_err(|error| cannot("cannot wake threads", &error))?;
    let control = Arc::new(control);
    let open = Mutex::new(());
    thread::scope(|scope| {
        let keep_open = open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut threads = Vec::new();
        for load in ThreadLoad::divide(run.conns, run.requests, run.plan.threads) {
            let (sender, control, open) = (sender.clone(), &control, &open);
            let work = move || run_thread(run, control, load, &sender, open);
            let thread = memory::thread(format!("clients-{}", load.thread));
            match thread.and_then(|thread| thread.spawn_scoped(scope, work)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    control.cut(0, 0);
                    return Err(cannot("cannot start a thread", &error));
                }
            }
        }
        let channel = (sender, events);
        let mut controller =
            Controller::new(run, member, &control, channel, observer, threads.len());
        controller.signal = signal;
        controller.run(keep_open);
        let (mut totals, mut cpus) = (Totals::new(), Vec::new());
        for thread in threads {
            match thread.join() {
                Ok(ended) => {
                    let (counts, its_cpus) = ended.map_err(failed)?;
                    totals.merge(counts);
                    cpus.extend(its_cpus);
                }
                Err(_) => return Err(failed("a client thread panicked".to_owned())),
            }
        }
        if let Some(failure) = controller.failure {
            return Err(failure);
        }
        cpus.sort_unstable();
        cpus.dedup();
        Ok(controller.into_measured(totals, cpus))
    })
}

/// Runs one thread. However it ends, the main thread and the runs that share time slices learn of
/// it. Its connections stay open until `open` can be locked.
fn run_thread(
    run: &Run,
    control: &Control,
    load: ThreadLoad,
    sender: &Sender<Event>,
    open: &Mutex<()>,
) -> Result<(Totals, Vec<usize>), String> {
    struct LeaveGuard<'a>(Option<&'a SliceHandle>);
    impl Drop for LeaveGuard<'_> {
        fn drop(&mut self) {
            self.0.iter().for_each(|slices| slices.leave());
        }
    }
    let finish = FinishGuard(sender.clone());
    let leave = LeaveGuard(run.plan.slices.as_ref());
    pin(&[run.placement.of_thread(load.thread)])?;
    let opened = |connected| drop(sender.send(Event::Opened(connected)));
    let finished = move || {
        drop(leave);
        drop(finish);
        run.plan.slices.iter().for_each(SliceHandle::wait_for_all);
        drop(open.lock());
    };
    let totals = worker::run(&run.plan, control, load, opened, finished)
        .map_err(|error| format!("cannot wait for events: {}", describe(&error)))?;
    // Not all CPUs that were chosen need have a thread, and a sandbox may forbid the choice.
    let cpus = allowed().map_err(|error| format!("cannot read CPUs: {}", describe(&error)))?;
    Ok((totals, cpus))
}

/// Time until an instant of the realtime clock; zero if it has passed.
fn until(instant: SystemTime) -> Duration {
    instant.duration_since(SystemTime::now()).unwrap_or_default()
}

/// The main thread during a run: begins and ends the phases, and reads the server's usage at the
/// edges of the measured window.
struct Controller<'a> {
    run: &'a Run,
    member: Option<&'a Member>,
    control: &'a Arc<Control>,
    sender: &'a Sender<Event>,
    events: &'a Receiver<Event>,
    observer: &'a mut dyn Observer,
    progress: Progress,
    server: ServerMeter,
    /// CPU quota of the generator.
    quota: QuotaMeter,
    quota_use: Option<QuotaUse>,
    neighbour_meter: NeighbourMeter,
    neighbours: Option<Neighbours>,
    intervals: Intervals,
    threads: usize,
    /// Threads whose connections are open or have failed.
    opened: usize,
    /// Connections that were established by the threads that have opened theirs.
    connected: u64,
    /// Threads that have nothing outstanding any more.
    finished: usize,
    signal: Option<i32>,
    /// Agreement of the ranks, once there is one.
    agreed: Option<Result<Option<SystemTime>, Failure>>,
    /// Reason why the ranks cannot start.
    failure: Option<Failure>,
    /// Begin of the run, start of the window, and last reply, as [`pauses::now`].
    instants: [Duration; 3],
    /// Begin of the loop.
    begin_ns: u64,
    start: Start,
    /// Start and end of the measured window.
    start_ns: u64,
    end_ns: u64,
    /// Wall-clock time of the window's start.
    started: SystemTime,
    warmup_end: Option<warmup::End>,
}

impl<'a> Controller<'a> {
    fn new(
        run: &'a Run,
        member: Option<&'a Member>,
        control: &'a Arc<Control>,
        (sender, events): (&'a Sender<Event>, &'a Receiver<Event>),
        observer: &'a mut dyn Observer,
        threads: usize,
    ) -> Self {
        let size = run.plan.pattern.size();
        let alone = !member.is_some_and(Member::is_one_of_several);
        let meter = |page| PageMeter::new(page, run.conns, size, alone, control.clone());
        let page = run.page.clone().map(meter);
        Self {
            run,
            member,
            control,
            sender,
            events,
            observer,
            progress: Progress::start(run.progress.as_deref()),
            server: ServerMeter::new(run.server, run.plan.target.addr, page),
            quota: QuotaMeter::find(&[getpid()]),
            quota_use: None,
            neighbour_meter: NeighbourMeter::default(),
            neighbours: None,
            intervals: Intervals::new(run.plan.interval_ns, run.plan.open.is_some()),
            threads,
            opened: 0,
            connected: 0,
            finished: 0,
            signal: None,
            agreed: None,
            failure: None,
            instants: [pauses::now(); 3],
            begin_ns: 0,
            start: Start {
                agreed: None,
                unix: SystemTime::now(),
                monotonic: pauses::now(),
                delay: Duration::ZERO,
            },
            start_ns: 0,
            end_ns: NEVER,
            started: SystemTime::now(),
            warmup_end: None,
        }
    }

    /// Runs all phases. Connections are not closed before `keep_open` is dropped.
    fn run(&mut self, keep_open: MutexGuard<'_, ()>) {
        let slices = self.run.plan.slices.as_ref();
        while self.opened < self.threads && self.finished == 0 && self.signal.is_none() {
            self.wait(NEVER);
        }
        let complete = self.opened == self.threads && self.finished == 0 && self.signal.is_none();
        let opening = Duration::from_nanos(self.control.clock.now());
        self.server.find();
        self.neighbour_meter.find();
        if complete {
            self.observer.opened(self.server.processes(), opening);
        }
        if slices.is_some() {
            self.control.clock.stop();
        }
        // The other ranks do not start without this one.
        let complete = complete && (self.member.is_none() || self.connected > 0);
        if complete {
            self.await_start();
            if matches!(self.run.warmup, Warmup::Fixed(length) if length < NOTICE) {
                // Ranks do not wait any more.
                self.server.read_page(self.member.is_none());
            }
        }
        let now = self.set_begin();
        if complete && self.signal.is_none() && self.failure.is_none() {
            slices.iter().for_each(|slices| slices.join(self.control, self.threads));
            self.warm_up();
            self.wait_until(self.start_ns);
            if slices.is_some() {
                self.started = SystemTime::now(); // The clock has stood still meanwhile.
            }
            let late_ns = self.control.clock.now().saturating_sub(self.start_ns);
            self.instants[1] = pauses::now().saturating_sub(Duration::from_nanos(late_ns));
            self.server.begin();
            self.quota.begin();
            self.neighbour_meter.begin();
            self.wait_until(self.end_ns);
        } else {
            self.control.cut(now, now);
        }
        // Now at the latest, also if all threads have ended early.
        self.end_ns = self.end_ns.min(self.control.clock.now()).min(self.control.end_ns());
        self.server.end();
        self.quota_use = self.quota.end();
        self.neighbours = self.neighbour_meter.end(self.server.processes());
        drop(keep_open);
        while self.finished < self.threads {
            self.wait(NEVER);
        }
        self.instants[2] = pauses::now();
    }

    /// Waits until the ranks have agreed on their start, and then until shortly before it. The
    /// realtime clock is read again and again, since it may be set meanwhile.
    fn await_start(&mut self) {
        let Some(member) = self.member else { return };
        member.agree(self.sender);
        while self.signal.is_none() && self.agreed.is_none() {
            self.wait(NEVER);
        }
        match self.agreed.take() {
            Some(Ok(start)) => self.start.agreed = start,
            Some(Err(failure)) => self.failure = Some(failure),
            None => {}
        }
        let Some(agreed) = self.start.agreed else { return };
        while self.signal.is_none() && self.finished < self.threads {
            let left = until(agreed).saturating_sub(self.head_start());
            if left.is_zero() {
                return;
            }
            self.wait(self.control.clock.now() + left.min(POLL).as_nanos() as u64);
        }
    }

    /// Sets the begin of the loop: the agreed instant, or as soon as possible if it has passed.
    /// Returns the present time of the run's clock.
    fn set_begin(&mut self) -> u64 {
        let left = self.start.agreed.map(until).filter(|left| !left.is_zero());
        let ahead = left.unwrap_or(self.head_start());
        let now = self.control.clock.now();
        self.start.unix = SystemTime::now() + ahead;
        self.start.monotonic = pauses::now() + ahead;
        self.begin_ns = now + ahead.as_nanos() as u64;
        self.start_ns = self.begin_ns;
        now
    }

    fn head_start(&self) -> Duration {
        self.run.plan.open.map_or(Duration::ZERO, |_| HEAD_START)
    }

    /// Begins the loop and sets the measured window.
    fn warm_up(&mut self) {
        match self.run.warmup {
            Warmup::Fixed(length) => {
                self.set_window(self.begin_ns + length.as_nanos() as u64);
                self.control.begin_loop(self.begin_ns);
                if length >= NOTICE {
                    self.wait_until(self.start_ns - NOTICE.as_nanos() as u64);
                    self.server.read_page(false);
                }
            }
            Warmup::Auto => {
                self.control.begin_loop(self.begin_ns);
                self.warmup_end = self.wait_steady();
                self.wait_others_steady();
                self.start_ns = self.control.clock.now();
                // A loop that a signal or a lack of connections has ended is not measured.
                if self.warmup_end.is_some() {
                    self.set_window(self.start_ns + NOTICE.as_nanos() as u64);
                    self.server.read_page(false);
                    // If this thread had no CPU meanwhile, nothing was counted before now.
                    self.start_ns = self.start_ns.max(self.control.clock.now());
                }
            }
        }
    }

    fn set_window(&mut self, start_ns: u64) {
        let length_ns = self.run.duration.map_or(NEVER, |length| length.as_nanos() as u64);
        (self.start_ns, self.end_ns) = (start_ns, start_ns.saturating_add(length_ns));
        self.control.set_window(start_ns, self.end_ns);
        self.started = SystemTime::now() + self.control.clock.until(start_ns);
    }

    /// Waits until the loop is steady or has had the longest warm-up; `None` if it ended before.
    fn wait_steady(&mut self) -> Option<warmup::End> {
        let mut watch = Watch::default();
        let (mut then, mut before) = (self.begin_ns, self.control.progress().1);
        loop {
            self.wait_until(then + warmup::SAMPLE.as_nanos() as u64);
            if self.signal.is_some() || self.finished == self.threads {
                return None;
            }
            let (now, (_, exchanges)) = (self.control.clock.now(), self.control.progress());
            let end = watch.add(now - then, exchanges - before);
            if end.is_some() {
                return end;
            }
            (then, before) = (now, exchanges);
        }
    }

    /// Waits until the runs that share time slices with this one are steady, too.
    fn wait_others_steady(&mut self) {
        let Some(slices) = &self.run.plan.slices else { return };
        slices.set_steady();
        while self.signal.is_none() && self.finished < self.threads && !slices.all_are_steady() {
            self.wait(self.control.clock.now() + POLL.as_nanos() as u64);
        }
    }

    /// Waits until that instant, or a signal, or the end of all threads.
    fn wait_until(&mut self, instant: u64) {
        while self.signal.is_none()
            && self.finished < self.threads
            && self.control.clock.now() < instant
        {
            self.wait(instant);
        }
    }

    /// Waits for one event, until that instant or until something else is due at the latest: an
    /// update of the progress line, or the end of an interval.
    fn wait(&mut self, instant: u64) {
        let timeout = self.control.clock.until(instant).min(progress::INTERVAL);
        let mut timeout = timeout.min(self.end_intervals());
        if self.control.clock.is_stopped() {
            timeout = timeout.max(POLL_STOPPED);
        }
        match self.events.recv_timeout(timeout) {
            Ok(Event::Opened(connected)) => {
                self.opened += 1;
                self.connected += connected;
            }
            Ok(Event::Finished) => self.finished += 1,
            Ok(Event::Agreed(agreed)) => self.agreed = Some(agreed),
            Ok(Event::Signal(signal)) => {
                self.signal = Some(signal);
                let now = self.control.clock.now();
                self.control.cut(now, now + PATIENCE_NS);
            }
            Err(RecvTimeoutError::Timeout) => {
                self.progress.show(self.control, self.run.conns);
                if self.opened < self.threads {
                    self.observer.opening(self.control.progress().0);
                }
            }
            Ok(Event::Resolved(_) | Event::Ready(_)) | Err(RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Reports the intervals that all threads have left, and returns the time until the next look.
    /// The last interval is left to the end of the run: its own end may come early.
    fn end_intervals(&mut self) -> Duration {
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
        let before =
            reached.min(interval_at(window_ns, length_ns)).min((end_ns - start_ns - 1) / length_ns);
        let started = self.started;
        self.intervals.end(before, window_ns, control.queues(), |interval, counts| {
            self.observer.interval(&FinishedInterval { interval, counts, started });
        });
        POLL
    }

    /// Ends the last intervals, and returns the result with the counts of all threads.
    fn into_measured(mut self, totals: Totals, client_cpus: Vec<usize>) -> Measured {
        let (control, started) = (self.control, self.started);
        let mut end_ns = self.end_ns;
        self.intervals.collect(control.queues());
        if self.run.requests.is_some_and(|requests| self.intervals.exchanges == requests) {
            end_ns = totals.last_reply_ns;
        }
        let window_ns = if control.looping() { end_ns.saturating_sub(self.start_ns) } else { 0 };
        // The threads count from the start that was set; without a window there are no intervals.
        let since_ns = control.start_ns().min(end_ns);
        self.intervals.finish(end_ns - since_ns, control.queues(), |interval, counts| {
            self.observer.interval(&FinishedInterval { interval, counts, started });
        });
        let [begin, start, end] = self.instants;
        Measured {
            pauses: pauses::between(start, end),
            pauses_before: pauses::between(begin, start),
            intervals: self.intervals,
            start: Start {
                delay: Duration::from_nanos(totals.begun_ns.saturating_sub(self.begin_ns)),
                ..self.start
            },
            looped: control.looping(),
            started,
            start_ns: self.start_ns,
            window: Duration::from_nanos(window_ns),
            warmup: Duration::from_nanos(self.start_ns - self.begin_ns),
            warmup_end: self.warmup_end,
            server: self.server.usage,
            quota: self.quota_use,
            neighbours: self.neighbours,
            signal: self.signal,
            totals,
            client_cpus,
        }
    }
}
