//! A measured run: what is asked, the threads that do it, and what comes of it.

use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use lockstep_results::Interval;

use crate::clients::clock::Clock;
use crate::clients::control::Control;
use crate::clients::laps::Lap;
use crate::clients::share::Share;
use crate::clients::tally::Tally;
use crate::clients::turns::Seat;
use crate::clients::worker::{self, Plan};
use crate::event::{Event, FinishGuard};
use crate::exit::{self, Failure};
use crate::machine::placement::{Placement, pin};
use crate::machine::processes::Processes;
use crate::machine::procfs::Usage;
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
        let edges = conductor.conduct(threads.len(), keep);
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
    sender: &Sender<Event>,
    connections: &Mutex<()>,
) -> Result<Tally, String> {
    struct Leave<'a>(Option<&'a Seat>);
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            self.0.iter().for_each(|seat| seat.leave());
        }
    }
    let finish = FinishGuard(sender.clone());
    let leave = Leave(run.plan.seat.as_ref());
    pin(&[run.placement.of_thread(share.thread)])?;
    let events = |error: io::Error| format!("cannot wait for events: {}", describe(&error));
    let opened = || drop(sender.send(Event::Opened));
    let finished = move || {
        drop(leave);
        drop(finish);
        run.plan.seat.iter().for_each(Seat::await_all);
        drop(connections.lock());
    };
    worker::work(&run.plan, control, share, opened, finished).map_err(events)
}
