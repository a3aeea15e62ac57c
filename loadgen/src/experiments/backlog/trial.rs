//! One trial, in a process of its own: fill the accept queue, hold, release, and follow every
//! client to its end.
//!
//! The process has one thread. unshare(2) admits no other to a new user namespace, and nothing
//! but the kernel then runs between two connects.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lockstep_results::backlog::{Counters, Depth, Outcome, Trial};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::checks::{self, Waiting};
use super::client::Client;
use super::model::{self, TrialPlan};
use crate::clients::socket::{Target, receive, send};
use crate::exit::{self, Failure};
use crate::experiments::listening::{kernel_settings, record_depth};
use lockstep_sys::counters::NetCounters;
use lockstep_sys::errno::describe;
use lockstep_sys::limits::raise_open_files;
use lockstep_sys::sock_diag::SockDiag;
use lockstep_sys::tcp::AcceptQueue;

/// Longest time between two readings of the queue's depth.
const TICK: Duration = Duration::from_millis(20);

/// Longest wait for a connect before the next one, in sequence.
const STEP: Duration = Duration::from_millis(5);

/// Readings of the counters until two in a row agree, at most.
const READINGS_MAX: usize = 20;

/// Descriptors other than those of connections.
const DESCRIPTORS: u64 = 32;

/// Most events taken at a time.
const EVENTS: usize = 512;

/// Key of the listener's events. Those of a client have its number.
const LISTENER: u64 = u64::MAX;

/// Added to the number of an accepted connection in the key of its events.
const ACCEPTED: u64 = 1 << 32;

/// Parameters of a trial.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Spec {
    /// Argument of listen(2), unless there is a target.
    pub(super) n: u32,
    /// Server of another process.
    pub(super) target: Option<SocketAddr>,
    /// Process that SIGUSR1 makes accept after the hold.
    pub(super) release: Option<i32>,
    pub(super) sources: Vec<IpAddr>,
    pub(super) extra: u32,
    /// Connect one after another instead of all in a burst.
    pub(super) in_sequence: bool,
    pub(super) hold: Duration,
    pub(super) observe: Duration,
}

/// Runs a trial in the network namespace of this process.
///
/// # Errors
///
/// `ADDRESS` if there is no listener at the target, `USAGE` if the limit of open files is too
/// low or this machine lacks a source address, otherwise the error of a system call.
pub(super) fn run(spec: &Spec, interrupted: Arc<AtomicBool>) -> Result<Trial, Failure> {
    let failed = |error: io::Error| {
        Failure::new(exit::FAILURE, format!("cannot run a trial: {}", describe(&error)))
    };
    let kernel = kernel_settings();
    let mut lab = Lab::new(spec, interrupted).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Failure::new(exit::USAGE, error.to_string()),
        _ => failed(error),
    })?;
    let queues = lab.queues().map_err(failed)?;
    let Some(limit) = queues.iter().map(|queue| queue.limit).min() else {
        return Err(no_listener(lab.target.addr));
    };
    let listeners = queues.len() as u32;
    // For a listener of its own, the limit is predicted from `n`, not read from the kernel.
    let predicted_limit = match spec.target {
        Some(_) => limit,
        None => model::limit(spec.n, kernel.somaxconn),
    };
    let conns = model::capacity(predicted_limit, listeners).saturating_add(spec.extra);
    check_descriptors(conns, spec)?;
    let phases = lab.phases(spec, conns, listeners * (limit + 1)).map_err(failed)?;

    let plan = TrialPlan {
        limit: predicted_limit,
        listeners,
        conns: lab.clients.len() as u32,
        fill: phases.filled,
        hold: phases.released - phases.filled,
        end: phases.end - phases.filled,
    };
    let accepted = lab.own.as_ref().map(|own| own.accepted.len() as u64);
    let (length, interrupted) = (lab.now(), lab.is_interrupted());
    let clients: Vec<_> = lab.clients.into_iter().map(Client::into_record).collect();
    let measured = Outcome::of(&clients);
    let mut checks = checks::at_release(&phases.held, &phases.waiting);
    if !interrupted {
        let (held, ended) = (&phases.held, &phases.ended);
        checks.extend(checks::at_end(held, ended, &kernel, &measured, accepted));
    }
    let release_is_known = spec.target.is_none() || spec.release.is_some();
    Ok(Trial {
        n: if spec.target.is_some() { limit } else { spec.n },
        listeners,
        limit,
        conns: plan.conns,
        released_s: (release_is_known && !interrupted).then_some(plan.hold.as_secs_f64()),
        length_s: length.as_secs_f64(),
        predicted: model::predict(&plan, &kernel),
        kernel,
        measured,
        checks,
        depth: lab.depth,
        held: phases.held,
        ended: phases.ended,
        clients,
        notes: lab.notes,
        interrupted,
    })
}

/// The failure that there is no listener at the target.
pub(super) fn no_listener(addr: impl Display) -> Failure {
    let error = format!("no listener at {addr} in this network namespace");
    Failure::new(exit::ADDRESS, error).hint(
        "start one with `lockstep serve --accept-pause`; its queue is only visible from there",
    )
}

/// Checks the limit of open files: one for each client, and one for its other end where that is in
/// this process.
fn check_descriptors(conns: u32, spec: &Spec) -> Result<(), Failure> {
    let ends = if spec.target.is_none() { 2 } else { 1 };
    let needed = ends * u64::from(conns) + DESCRIPTORS;
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

/// Edges of the phases, from the start, and the state at these edges.
struct Phases {
    filled: Duration,
    released: Duration,
    end: Duration,
    held: Counters,
    ended: Counters,
    waiting: Waiting,
}

/// A listener that accepts nothing before its release, and echoes after it.
struct Own {
    listener: Socket,
    accepted: Vec<Socket>,
}

impl Own {
    fn listen(n: u32) -> io::Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(Self { listener, accepted: Vec::new() })
    }

    /// Accepts until the queue is empty.
    fn accept(&mut self, poller: &Poller) -> io::Result<()> {
        loop {
            let connection = match self.listener.accept() {
                Ok((connection, _)) => connection,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client reset it while it was queued.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            connection.set_nonblocking(true)?;
            poller.add(&connection, ACCEPTED + self.accepted.len() as u64)?;
            self.accepted.push(connection);
        }
    }

    /// Echoes the request of an accepted connection, which is too short for a short send.
    fn echo(&self, key: u64) {
        let connection = &self.accepted[(key - ACCEPTED) as usize];
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = receive(connection, &mut buffer) {
            // The client's end shows an error.
            let _ = send(connection, &buffer[..count]);
        }
    }
}

/// An epoll instance (epoll(7)).
struct Poller(OwnedFd);

impl Poller {
    /// Creates an instance.
    ///
    /// # Errors
    ///
    /// `EMFILE` if the process is out of descriptors.
    fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Registers a socket, edge-triggered, for everything. Its events carry `key`.
    ///
    /// # Errors
    ///
    /// `ENOSPC` at the user's limit of registered descriptors (epoll(7)).
    fn add(&self, socket: &Socket, key: u64) -> io::Result<()> {
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.0, socket, EventData::new_u64(key), interest)?)
    }

    /// Waits for events for up to `longest`; returns the key and the flags of each.
    ///
    /// # Errors
    ///
    /// Those of epoll_wait(2) except `EINTR`.
    fn wait(&self, longest: Duration) -> io::Result<Vec<(u64, EventFlags)>> {
        // Every kernel's epoll accepts whole milliseconds; rounded up, the wait is not too short.
        let wait_ms = longest.as_nanos().div_ceil(1_000_000) as i64;
        let timeout = Timespec { tv_sec: wait_ms / 1000, tv_nsec: wait_ms % 1000 * 1_000_000 };
        let mut events = Vec::<epoll::Event>::with_capacity(EVENTS);
        match epoll::wait(&self.0, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events.iter().map(|event| (event.data.u64(), event.flags)).collect())
    }
}

/// The state of a trial.
struct Lab {
    poller: Poller,
    /// The listener, unless it is another process's.
    own: Option<Own>,
    target: Target,
    diag: Option<SockDiag>,
    clients: Vec<Client>,
    depth: Vec<Depth>,
    notes: Vec<String>,
    start: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Lab {
    fn new(spec: &Spec, interrupted: Arc<AtomicBool>) -> io::Result<Self> {
        let (own, addr) = match spec.target {
            Some(addr) => (None, addr),
            None => {
                let own = Own::listen(spec.n)?;
                let addr = own.listener.local_addr()?;
                (Some(own), addr.as_socket().ok_or(io::ErrorKind::InvalidData)?)
            }
        };
        let diag = SockDiag::open().ok();
        let note = diag.is_none().then(|| "ghosts are unknown without sock_diag(7)".to_owned());
        Ok(Self {
            poller: Poller::new()?,
            own,
            target: Target::from_sources(addr, &spec.sources)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
            diag,
            clients: Vec::new(),
            depth: Vec::new(),
            notes: note.into_iter().collect(),
            start: Instant::now(),
            interrupted,
        })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// The accept queue of each listener.
    fn queues(&mut self) -> io::Result<Vec<AcceptQueue>> {
        match (&self.own, &mut self.diag) {
            (Some(own), _) => Ok(vec![AcceptQueue::of(&own.listener)?]),
            (None, Some(diag)) => diag.listeners(self.target.addr),
            (None, None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Depth of the accept queues at the last reading.
    fn last_depth(&self) -> u32 {
        self.depth.last().map_or(u32::MAX, |last| last.depth)
    }

    /// Runs all phases; the accept queues have room for `room` connections.
    fn phases(&mut self, spec: &Spec, conns: u32, room: u32) -> io::Result<Phases> {
        let before = NetCounters::read()?;
        self.start = Instant::now();
        self.fill(conns, spec)?;
        let filled = self.now();
        self.poll_until(filled + spec.hold, |_| false)?;
        if self.depth.iter().any(|sample| sample.depth > self.last_depth()) {
            self.notes.push("connections were accepted before the hold was over".to_owned());
        }
        let (held, waiting) = self.snapshot(&before)?;
        let released = self.release(spec, room)?;
        let end = released + spec.observe;
        self.poll_until(end, |lab| lab.clients.iter().all(Client::is_done))?;
        let ended = NetCounters::read()?.since(&before);
        Ok(Phases { filled, released, end, held, ended, waiting })
    }

    /// Connects until all queues are full and some connects wait. The kernel spreads connections
    /// over several listeners at random, so more connects are needed to fill the last queue.
    fn fill(&mut self, conns: u32, spec: &Spec) -> io::Result<()> {
        for _ in 0..conns {
            self.connect(spec.in_sequence)?;
        }
        self.poll(Duration::ZERO)?;
        let most = conns.saturating_mul(4);
        while (self.clients.len() as u32) < most && !self.is_interrupted() {
            let queues = self.queues()?;
            if queues.len() < 2 || queues.iter().all(|queue| queue.waiting > queue.limit) {
                break;
            }
            self.connect(true)?;
        }
        Ok(())
    }

    fn connect(&mut self, in_sequence: bool) -> io::Result<()> {
        if self.is_interrupted() {
            return Ok(());
        }
        let number = self.clients.len();
        let socket = self.target.open(number as u32)?;
        let started = self.now();
        self.target.connect(&socket)?;
        self.poller.add(&socket, number as u64)?;
        let mut client = Client::new(socket, started);
        client.check_connected(self.now());
        self.clients.push(client);
        if in_sequence {
            self.poll_until(started + STEP, |lab| !lab.clients[number].is_connecting())?;
        }
        Ok(())
    }

    /// Reads the counters and the clients' state at one instant: no SYN is sent between the two.
    fn snapshot(&self, before: &NetCounters) -> io::Result<(Counters, Waiting)> {
        let mut reading = NetCounters::read()?;
        let mut waiting = Waiting::default();
        for _ in 0..READINGS_MAX {
            let connected = self.clients.iter().filter(|client| client.is_connected()).count();
            waiting = Waiting {
                conns: self.clients.len() as u64,
                connected: connected as u64,
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

    /// Starts to accept, makes the target start, or waits until it does. Returns the time of it.
    fn release(&mut self, spec: &Spec, room: u32) -> io::Result<Duration> {
        let now = self.now();
        if self.is_interrupted() {
            return Ok(now);
        }
        if let Some(own) = &mut self.own {
            self.poller.add(&own.listener, LISTENER)?;
            own.accept(&self.poller)?;
        } else if let Some(pid) = spec.release.and_then(Pid::from_raw) {
            kill_process(pid, Signal::USR1)?;
        } else {
            self.poll_until(now + spec.observe, |lab| lab.last_depth() < room)?;
            if self.last_depth() >= room && !self.is_interrupted() {
                self.notes.push("the target has not started to accept".to_owned());
            }
            return Ok(self.now());
        }
        self.read_depth()?;
        Ok(now)
    }

    /// Handles events until `end`, until `is_so`, or until a signal arrives.
    fn poll_until(&mut self, end: Duration, is_so: impl Fn(&Self) -> bool) -> io::Result<()> {
        loop {
            let left = end.saturating_sub(self.now());
            if left.is_zero() || is_so(self) || self.is_interrupted() {
                return Ok(());
            }
            self.poll(left.min(TICK))?;
        }
    }

    /// Waits for events for up to `longest` and handles them.
    fn poll(&mut self, longest: Duration) -> io::Result<()> {
        let events = self.poller.wait(longest)?;
        // The queue is deepest before anything is accepted.
        self.read_depth()?;
        let now = self.now();
        for (key, flags) in events {
            match (key, &mut self.own) {
                (LISTENER, Some(own)) => own.accept(&self.poller)?,
                (ACCEPTED.., Some(own)) => own.echo(key),
                _ => self.clients[key as usize].on_event(flags, now),
            }
        }
        for client in &mut self.clients {
            client.send_if_due(now, self.target.addr, self.diag.as_mut());
        }
        self.read_depth()
    }

    /// Records the depth of the accept queues.
    fn read_depth(&mut self) -> io::Result<()> {
        let depth = self.queues()?.iter().map(|queue| queue.waiting).sum();
        record_depth(&mut self.depth, self.start.elapsed(), depth);
        Ok(())
    }
}
