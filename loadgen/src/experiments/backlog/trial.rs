//! One trial, in a process of its own: fill the queue, hold, release, follow everybody to the end.
//!
//! All of it is one thread, for a process that moves into a user namespace must have no other
//! (unshare(2)), and so that nothing but the kernel runs between a connect and the next.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lockstep_results::backlog::{Counters, Depth, Kernel, Outcome, Trial};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::checks::{self, Waiting};
use super::client::Client;
use super::kernel;
use super::model::{self, Plan};
use super::server::{ACCEPTED, LISTENER, Own, Server};
use crate::clients::socket::Target;
use crate::exit::{self, Failure};
use lockstep_sys::counters::NetCounters;
use lockstep_sys::errno::describe;
use lockstep_sys::limits::raise_open_files;
use lockstep_sys::sock_diag::SockDiag;

/// How often the depth of the queue is looked at, at least.
const TICK: Duration = Duration::from_millis(20);

/// How long a connect that does not succeed is waited for before the next, in sequence.
const STEP: Duration = Duration::from_millis(5);

/// Readings of the counters until two in a row agree.
const READINGS_MAX: usize = 20;

/// Descriptors beside those of connections.
const DESCRIPTORS: u64 = 32;

/// Events taken at a time.
const EVENTS: usize = 256;

/// What a trial is told.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Spec {
    /// What to give to listen(2), unless there is a target.
    pub(super) n: u32,
    pub(super) target: Option<SocketAddr>,
    /// The process to send SIGUSR1 after the hold.
    pub(super) release: Option<i32>,
    pub(super) extra: u32,
    pub(super) storm: bool,
    pub(super) hold: Duration,
    pub(super) observe: Duration,
}

/// Carries out a trial in this process's network namespace.
///
/// # Errors
///
/// When the server cannot be had, or the kernel does not tell what is needed.
pub(super) fn run(spec: &Spec, interrupted: Arc<AtomicBool>) -> Result<Trial, Failure> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Failure::new(exit::FAILURE, format!("{what}: {}", describe(&error)))
    };
    let kernel = kernel::settings();
    let server = match spec.target {
        Some(addr) => Server::Target(addr),
        None => Server::Own(Own::listen(spec.n).map_err(failed("cannot listen"))?),
    };
    let mut diag = SockDiag::open().ok();
    let queues = server.queues(diag.as_mut()).map_err(failed("the accept queue"))?;
    let Some(limit) = queues.iter().map(|queue| queue.limit).min() else {
        let addr = server.addr().map_err(failed("the address"))?;
        let error = format!("nobody listens at {addr} in this network namespace");
        return Err(
            Failure::new(exit::ADDRESS, error).hint("its queue can only be seen from there")
        );
    };
    let listeners = queues.len() as u32;
    // What an own listener admits is predicted from `n`, not from what the kernel shows.
    let predicted_limit = match spec.target {
        Some(_) => limit,
        None => model::limit(spec.n, kernel.somaxconn),
    };
    let room = model::capacity(predicted_limit, listeners);
    let conns = room.saturating_add(spec.extra);
    check_descriptors(conns, spec)?;
    let addr = server.addr().map_err(failed("the address"))?;
    let before = NetCounters::read().map_err(failed("the kernel's counters"))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
    let mut lab = Lab {
        epoll: epoll.map_err(|error| failed("epoll")(error.into()))?,
        events: Vec::with_capacity(EVENTS),
        server,
        target: Target::new(addr),
        diag,
        clients: Vec::new(),
        depth: Vec::new(),
        shown: u32::MAX,
        start: Instant::now(),
        interrupted,
    };
    let mut notes = Vec::new();
    if lab.diag.is_none() {
        notes.push("without sock_diag(7) ghosts cannot be told".to_owned());
    }
    let phases = lab.phases(spec, conns, listeners * (limit + 1), &before, &mut notes);
    let phases = phases.map_err(failed("the trial"))?;
    let plan = Plan {
        limit: predicted_limit,
        listeners,
        conns: lab.clients.len() as u32,
        fill: phases.filled - lab.start,
        hold: phases.released - phases.filled,
        end: phases.end - phases.filled,
    };
    let n = if spec.target.is_some() { limit } else { spec.n };
    Ok(lab.into_trial(Facts { n, limit, plan, kernel, phases, notes, known: spec.knows_release() }))
}

impl Spec {
    /// Whether accepting begins when the trial says so.
    fn knows_release(&self) -> bool {
        self.target.is_none() || self.release.is_some()
    }
}

/// Checks whether there are descriptors enough: one a client, and one more for its other side where
/// that is this process too.
fn check_descriptors(conns: u32, spec: &Spec) -> Result<(), Failure> {
    let sides = if spec.target.is_none() { 2 } else { 1 };
    let needed = sides * u64::from(conns) + DESCRIPTORS;
    let limit = raise_open_files();
    if limit < needed {
        let error = format!(
            "{conns} connects need {needed} open files, and the limit of this process is {limit}"
        );
        let hint = "raise it with `ulimit -n`, or take a smaller n";
        return Err(Failure::new(exit::USAGE, error).hint(hint));
    }
    Ok(())
}

/// What the phases leave.
struct Phases {
    filled: Instant,
    released: Instant,
    end: Instant,
    held: Counters,
    ended: Counters,
    waiting: Waiting,
}

/// What a trial's record needs beside the clients.
struct Facts {
    n: u32,
    limit: u32,
    plan: Plan,
    kernel: Kernel,
    phases: Phases,
    notes: Vec<String>,
    known: bool,
}

struct Lab {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    server: Server,
    target: Target,
    diag: Option<SockDiag>,
    clients: Vec<Client>,
    depth: Vec<Depth>,
    /// The depth that was recorded last.
    shown: u32,
    start: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Lab {
    fn phases(
        &mut self,
        spec: &Spec,
        conns: u32,
        room: u32,
        before: &NetCounters,
        notes: &mut Vec<String>,
    ) -> io::Result<Phases> {
        self.start = Instant::now();
        self.fill(conns, spec)?;
        let filled = Instant::now();
        self.until(filled + spec.hold, |_| false)?;
        if self.depth.iter().map(|sample| sample.depth).max() > self.depth.last().map(|s| s.depth) {
            notes.push("connections were accepted before the hold was over".to_owned());
        }
        let (held, waiting) = self.take_stock(before)?;
        let released = self.release(spec, room, notes)?;
        let end = released + spec.observe;
        self.until(end, |lab| lab.clients.iter().all(Client::is_done))?;
        let ended = NetCounters::read()?.since(before);
        Ok(Phases { filled, released, end, held, ended, waiting })
    }

    /// Connects until all queues are full and some more wait. Connections to several listeners are
    /// spread over them by chance, so it takes some more to fill the last.
    fn fill(&mut self, conns: u32, spec: &Spec) -> io::Result<()> {
        for _ in 0..conns {
            self.connect(!spec.storm)?;
        }
        self.turn(Duration::ZERO)?;
        let most = conns.saturating_mul(4);
        while (self.clients.len() as u32) < most && !self.stopped() {
            let queues = self.server.queues(self.diag.as_mut())?;
            if queues.len() < 2 || queues.iter().all(|queue| queue.waiting > queue.limit) {
                break;
            }
            self.connect(true)?;
        }
        Ok(())
    }

    fn connect(&mut self, in_sequence: bool) -> io::Result<()> {
        if self.stopped() {
            return Ok(());
        }
        let number = self.clients.len();
        let started = Instant::now();
        let socket = self.target.connect(number as u32)?;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(number as u64), interest)?;
        let mut client = Client::new(socket, started);
        client.look(Instant::now());
        self.clients.push(client);
        if in_sequence {
            self.until(started + STEP, |lab| !lab.clients[number].is_connecting())?;
        }
        Ok(())
    }

    /// Reads the counters and the clients at one and the same moment: no SYN was sent between.
    fn take_stock(&mut self, before: &NetCounters) -> io::Result<(Counters, Waiting)> {
        let mut reading = NetCounters::read()?;
        let mut waiting = Waiting::default();
        for _ in 0..READINGS_MAX {
            waiting = Waiting {
                conns: self.clients.len() as u64,
                connected: self.clients.iter().filter(|client| client.is_connected()).count()
                    as u64,
                retrans: self.clients.iter().map(|client| u64::from(client.syn_retrans())).sum(),
            };
            let again = NetCounters::read()?;
            if again == reading {
                break;
            }
            reading = again;
        }
        Ok((reading.since(before), waiting))
    }

    /// Begins to accept, has the server begin, or waits until it does.
    fn release(&mut self, spec: &Spec, room: u32, notes: &mut Vec<String>) -> io::Result<Instant> {
        let now = Instant::now();
        if self.stopped() {
            return Ok(now);
        }
        if let Server::Own(own) = &mut self.server {
            own.release(&self.epoll)?;
        } else if let Some(pid) = spec.release.and_then(Pid::from_raw) {
            kill_process(pid, Signal::USR1)?;
        } else {
            self.until(now + spec.observe, |lab| lab.shown < room)?;
            if self.shown >= room && !self.stopped() {
                notes.push("the target has not begun to accept".to_owned());
            }
            return Ok(Instant::now());
        }
        self.look(now)?;
        Ok(now)
    }

    /// Takes turns until an instant, or until something is so, or a signal came.
    fn until(&mut self, end: Instant, is_so: impl Fn(&Self) -> bool) -> io::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || is_so(self) || self.stopped() {
                return Ok(());
            }
            self.turn(left.min(TICK))?;
        }
    }

    fn stopped(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// Waits for events no longer than this and handles them.
    fn turn(&mut self, longest: Duration) -> io::Result<()> {
        // Whole milliseconds, rounded up, are what every kernel's epoll understands.
        let longest = longest.as_nanos().div_ceil(1_000_000) as i64;
        let timeout = rustix::event::Timespec {
            tv_sec: longest / 1000,
            tv_nsec: (longest % 1000) * 1_000_000,
        };
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        // Before anything is accepted: the queue at its shown.
        self.look(now)?;
        for event in std::mem::take(&mut self.events) {
            match event.data.u64() {
                LISTENER => {
                    if let Server::Own(own) = &mut self.server {
                        own.accept(&self.epoll)?;
                    }
                }
                key if key >= ACCEPTED => {
                    if let Server::Own(own) = &self.server {
                        own.echo(key);
                    }
                }
                key => self.clients[key as usize].on_event(event.flags, now),
            }
        }
        self.events.reserve(EVENTS);
        let server = self.target.addr;
        for client in &mut self.clients {
            if client.speaks_at().is_some_and(|at| at <= now) {
                client.speak(server, self.diag.as_mut());
            }
        }
        self.look(now)
    }

    /// Records the depth of the queues if it has changed.
    fn look(&mut self, now: Instant) -> io::Result<()> {
        let queues = self.server.queues(self.diag.as_mut())?;
        let depth = queues.iter().map(|queue| queue.waiting).sum();
        if depth != self.shown {
            self.shown = depth;
            self.depth.push(Depth { at_s: (now - self.start).as_secs_f64(), depth });
        }
        Ok(())
    }

    fn into_trial(self, facts: Facts) -> Trial {
        let Facts { n, limit, plan, kernel, phases, notes, known } = facts;
        let interrupted = self.stopped();
        let length_s = self.start.elapsed().as_secs_f64();
        let accepted = match &self.server {
            Server::Own(own) => Some(own.accepted()),
            Server::Target(_) => None,
        };
        let start = self.start;
        let clients: Vec<_> =
            self.clients.into_iter().map(|client| client.into_record(start)).collect();
        let measured = Outcome::of(&clients);
        let mut checks = checks::at_release(&phases.held, &phases.waiting);
        if !interrupted {
            let (held, ended) = (&phases.held, &phases.ended);
            checks.extend(checks::at_end(held, ended, &kernel, &measured, accepted));
        }
        Trial {
            n,
            listeners: plan.listeners,
            limit,
            conns: plan.conns,
            released_s: (known && !interrupted).then_some(plan.hold.as_secs_f64()),
            length_s,
            predicted: model::predict(&plan, &kernel),
            kernel,
            measured,
            checks,
            depth: self.depth,
            held: phases.held,
            ended: phases.ended,
            clients,
            notes,
            interrupted,
        }
    }
}
