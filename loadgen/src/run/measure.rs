//! A measured run: what is asked, the threads that do it, and what comes of it.

use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::clients::clock::Clock;
use crate::clients::control::Control;
use crate::clients::counters::Totals;
use crate::clients::intervals::Intervals;
use crate::clients::plan::{Plan, ThreadLoad};
use crate::clients::slices::SliceHandle;
use crate::clients::worker;
use crate::event::{Event, FinishGuard};
use crate::exit::{self, Failure};
use crate::machine::placement::{Placement, pin};
use crate::machine::processes::Processes;
use crate::machine::usage::Usage;
use crate::run::account::Used;
use crate::run::conductor::Conductor;
use crate::run::observer::Observer;
use crate::run::warmup::{self, Warmup};
use lockstep_sys::errno::describe;

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
    pub totals: Totals,
    /// Counts of the measured window, in all and by interval.
    pub intervals: Intervals,
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

/// Carries out a run, and reports its events to `observer`.
///
/// # Errors
///
/// When threads cannot be started or cannot wait for events.
pub fn measure(
    run: &Run,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
    observer: &mut dyn Observer,
) -> Result<Measured, Failure> {
    let cannot = |what: &str, error: &io::Error| {
        Failure::new(exit::FAILURE, format!("{what}: {}", describe(error)))
    };
    observer.ready(&run.server.map(Processes::list).unwrap_or_default());
    let open = run.plan.open.is_some();
    let control = Control::new(Clock::start(), run.plan.threads, open)
        .map_err(|error| cannot("cannot wake threads", &error))?;
    let control = Arc::new(control);
    let connections = Mutex::new(());
    thread::scope(|scope| {
        let keep = connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut conductor = Conductor::new(run, &control, events, observer);
        let mut threads = Vec::new();
        for load in ThreadLoad::divide(run.conns, run.requests, run.plan.threads) {
            let (sender, control, connections) = (sender.clone(), &control, &connections);
            let work = move || work(run, control, load, &sender, connections);
            match thread::Builder::new()
                .name(format!("clients-{}", load.thread))
                .spawn_scoped(scope, work)
            {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    control.cut(0, 0);
                    return Err(cannot("cannot start a thread", &error));
                }
            }
        }
        let edges = conductor.conduct(threads.len(), keep);
        let mut totals = Totals::new();
        for thread in threads {
            match thread.join() {
                Ok(Ok(counts)) => totals.merge(counts),
                Ok(Err(error)) => return Err(Failure::new(exit::FAILURE, error)),
                Err(_) => return Err(Failure::new(exit::FAILURE, "a client thread panicked")),
            }
        }
        Ok(conductor.into_measured(edges, totals))
    })
}

/// One thread's part. Whatever happens, the main thread hears that it is over, and so do those that
/// wait for their turns.
fn work(
    run: &Run,
    control: &Control,
    load: ThreadLoad,
    sender: &Sender<Event>,
    connections: &Mutex<()>,
) -> Result<Totals, String> {
    struct Leave<'a>(Option<&'a SliceHandle>);
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            self.0.iter().for_each(|slices| slices.leave());
        }
    }
    let finish = FinishGuard(sender.clone());
    let leave = Leave(run.plan.slices.as_ref());
    pin(&[run.placement.of_thread(load.thread)])?;
    let events = |error: io::Error| format!("cannot wait for events: {}", describe(&error));
    let opened = || drop(sender.send(Event::Opened));
    let finished = move || {
        drop(leave);
        drop(finish);
        run.plan.slices.iter().for_each(SliceHandle::wait_for_all);
        drop(connections.lock());
    };
    worker::run(&run.plan, control, load, opened, finished).map_err(events)
}
