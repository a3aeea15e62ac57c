//! The `io-uring` backend: one ring per shard; the kernel does the work and reports it.
//!
//! A turn is one io_uring_enter(2): it submits what the turn before has queued and waits for
//! completions. In lockstep an exchange is one completion, of a receive, since a send is not reported
//! unless it fails. One receive serves all requests of a connection as long as it keeps to lockstep
//! (`multishot.rs`). For clients that pipeline, the next receive is submitted only after the reply
//! has been sent, by a call of its own (`send.rs`).
//!
//! A waiting connection has no buffer: receives take one from a ring of buffers when there is
//! something to receive (`buffers.rs`). It goes back when its reply is sent. What a full socket did
//! not take is copied out, and kept with its connection.

mod buffers;
mod completion;
mod lifecycle;
mod multishot;
mod probe;
mod ring;
mod send;
mod telling;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::cqueue;
use lockstep_core::{Exchange, Service};

use crate::accept::AcceptBackoff;
use crate::deadlines::Deadlines;
use crate::drive::LINGER;
use crate::slots::{Key, Slots};
use crate::trace::{NoTrace, Trace};
use crate::{Backend, ConnectionLimit, Options, ServiceFactory, Shard, Stats, Stop, Unsupported};
use buffers::Buffers;
use lockstep_sys::busy_poll::BusyPoll;
use multishot::{Early, Multishot};
use ring::{Kind, Ring};

/// The backend's value.
#[derive(Clone, Copy, Debug)]
pub struct IoUring {
    /// Receive buffers of a shard, at most; a power of two.
    pub buffers: u16,
}

impl IoUring {
    /// The tuning that `--backend io-uring` means: buffers for as many requests in one turn as
    /// the submission queue has room for pairs, and twice that.
    pub const DEFAULT: Self = Self { buffers: 4096 };
}

impl Backend for IoUring {
    fn name(&self) -> &'static str {
        "io-uring"
    }

    fn probe(&self, shards: usize) -> Result<String, Unsupported> {
        probe::probe(self, shards)
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["io_uring", "uring"]
    }

    fn default_shards(&self, cpus: usize) -> usize {
        cpus
    }

    fn can_busy_poll(&self) -> bool {
        true
    }

    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats> {
        match shard.tracer {
            None => Loop::serve(self, shard, NoTrace),
            tracer => Loop::serve(self, shard, tracer),
        }
    }
}

struct Connection {
    fd: RawFd,
    exchange: Exchange,
    service: Box<dyn Service>,
    flight: Flight,
    /// Whether the conversation has ended and is counted, and only the peer has not closed yet.
    lingering: bool,
    /// Whether the receive in flight is being taken back, because the server stops.
    cancelled: bool,
    multishot: Multishot,
    /// What the socket has not taken of the reply; it ends where the reply ends.
    unsent: Option<Box<[u8]>>,
}

/// What the kernel works on for a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flight {
    /// Nothing: it is in the list of those that found no buffer.
    Starved,
    /// A receive.
    Receive,
    /// A receive that does not wait: the server stops.
    ReceiveNow,
    /// A send of the buffer, queued in that turn, beside the receive for all requests.
    SendBeside { index: u16, turn: u32 },
    /// A send of what the socket did not take at first.
    SendUnsent,
}

struct Loop<'a, T> {
    // The ring is dropped first: nothing it may still read or write is gone before it.
    ring: Ring<T>,
    buffers: Buffers,
    listener: Option<TcpListener>,
    options: &'a Options,
    stop: &'a Stop,
    limit: &'a ConnectionLimit,
    service: &'a ServiceFactory,
    trace: T,
    connections: Slots<Connection>,
    /// Buffers whose sends are submitted with the next wait, and those whose sends were with the
    /// last one.
    sending: Vec<u16>,
    sent: Vec<u16>,
    /// Whose receive found no buffer.
    starved: VecDeque<Key>,
    /// Whose multishot receive may have to end, since they do not keep to lockstep.
    hasty: Vec<Key>,
    early: Early,
    /// Counts the waits after which all that was queued had been submitted, and all there was to
    /// report was in the completions taken.
    turn: u32,
    /// Whether the accept is in flight.
    accepting: bool,
    /// Accepted beyond the limit of open connections, by an accept that took all who waited; they
    /// wait here as they would have in the listen queue.
    parked: VecDeque<RawFd>,
    backoff: AcceptBackoff,
    busy_poll: BusyPoll,
    idle: Deadlines,
    lingering: Deadlines,
    cut: bool,
    stats: Stats,
}

/// The sends' completions, then the others, each in their order.
///
/// Whether a reply has gone out is concluded from a receive's completion (`multishot.rs`), so the
/// one that says otherwise has to be seen before. The kernel promises no such order: a receive may
/// report a request at once, and a submission its failed sends only at its end.
#[inline]
fn sends_first(completions: &[cqueue::Entry]) -> impl Iterator<Item = &cqueue::Entry> {
    let is_send = |completion: &&cqueue::Entry| ring::of(completion).0 == Kind::Send;
    let others = completions.iter().filter(move |completion| !is_send(completion));
    completions.iter().filter(is_send).chain(others)
}

impl<'a, T: Trace> Loop<'a, T> {
    fn serve(backend: &IoUring, shard: Shard<'a>, trace: T) -> io::Result<Stats> {
        let ready = shard.ready;
        let this = Self::new(backend, shard, trace)?;
        ready()?;
        this.run()
    }

    fn new(backend: &IoUring, shard: Shard<'a>, trace: T) -> io::Result<Self> {
        let Shard { listener, options, stop, limit, ready: _, service, tracer: _ } = shard;
        let (ring, buffers) = probe::set_up(backend, trace).map_err(io::Error::other)?;
        let mut ring = Ring::new(ring, trace);
        ring.poll_stop(stop.as_fd().as_raw_fd())?;
        Ok(Self {
            ring,
            buffers,
            listener: Some(listener),
            options,
            stop,
            limit,
            service,
            trace,
            connections: Slots::new(),
            sending: Vec::new(),
            sent: Vec::new(),
            starved: VecDeque::new(),
            hasty: Vec::new(),
            early: Early::new(),
            turn: 0,
            accepting: false,
            parked: VecDeque::new(),
            backoff: AcceptBackoff::new(options.accept_delay),
            busy_poll: BusyPoll::new(options.spin),
            idle: Deadlines::new(options.idle_timeout),
            lingering: Deadlines::new(Some(LINGER)),
            cut: false,
            stats: Stats::new(),
        })
    }

    fn run(mut self) -> io::Result<Stats> {
        let mut completions = Vec::new();
        let mut held_back = false;
        self.arm_accept()?;
        while self.listener.is_some() || self.connections.len() > 0 {
            let accepted = self.stats.accepted;
            // A starved connection waits for buffers that come back in this turn.
            let at_once = held_back || !self.starved.is_empty();
            held_back = self.wait(at_once, &mut completions)?;
            if !held_back {
                self.turn = self.turn.wrapping_add(1);
            }
            for completion in sends_first(&completions) {
                let (kind, key) = ring::of(completion);
                self.tell(kind, key, completion);
                match kind {
                    Kind::Receive => self.on_received(key, completion)?,
                    Kind::Send => self.on_sent(key, completion.result())?,
                    Kind::Accept => self.on_accepted(completion)?,
                    Kind::Stop => self.drain()?,
                    Kind::Cancel => self.on_cancelled(key, completion.result())?,
                    Kind::CancelAccept | Kind::Close => {}
                }
            }
            completions.clear();
            if !held_back {
                self.give_back_sent();
            }
            self.buffers.commit();
            self.feed_starved()?;
            self.slow_hasty()?;
            self.expire()?;
            self.admit_parked()?;
            if self.stats.accepted > accepted {
                self.look_at_queue(); // who came while these were let in
            }
            self.arm_accept()?;
        }
        self.stats.syscalls += self.ring.enters;
        self.stats.spun_us = self.busy_poll.spun.as_micros() as u64;
        Ok(self.stats)
    }

    /// Submits what is queued and waits for a completion, unless something is to be done `at_once`.
    fn wait(&mut self, at_once: bool, completions: &mut Vec<cqueue::Entry>) -> io::Result<bool> {
        if at_once {
            return self.ring.wait(0, None, completions);
        }
        if self.busy_poll.is_enabled() {
            let held_back = self.busy_poll(completions)?;
            if held_back || !completions.is_empty() {
                return Ok(held_back);
            }
        }
        let left = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        self.ring.wait(1, left, completions)
    }

    /// Submits what is queued, and looks for completions for a while.
    #[cold]
    fn busy_poll(&mut self, completions: &mut Vec<cqueue::Entry>) -> io::Result<bool> {
        let until_deadline = |at: Instant| at.saturating_duration_since(Instant::now());
        let longest = self.deadline().map_or(Duration::MAX, until_deadline);
        let Some(mut attempt) = self.busy_poll.begin(longest) else { return Ok(false) };
        let mut held_back = self.ring.wait(0, None, completions)?;
        if !held_back && completions.is_empty() && self.ring.look(|| attempt.is_over()) {
            held_back = self.ring.wait(0, None, completions)?;
        }
        self.busy_poll.end(attempt, held_back || !completions.is_empty());
        Ok(held_back)
    }

    fn deadline(&self) -> Option<Instant> {
        let cut = self.stop.deadline().filter(|_| !self.cut);
        let paused = self.backoff.until().filter(|_| !self.stop.is_draining());
        let next = [paused, self.idle.next(), self.lingering.next(), cut];
        next.into_iter().flatten().min()
    }

    /// Lets those that found no buffer try again.
    fn feed_starved(&mut self) -> io::Result<()> {
        for _ in 0..self.starved.len() {
            let Some(key) = self.starved.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(key) else { continue };
            if connection.flight == Flight::Starved {
                self.receive(key)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use io_uring::{IoUring as Uring, opcode};

    use super::ring::Kind::{Accept, Receive, Send};
    use super::*;

    /// Each operation completes at once, and so in the order in which it was queued.
    #[test]
    fn the_completions_of_sends_are_seen_first() {
        let Ok(mut ring) = Uring::new(8) else { return eprintln!("skipped: no io_uring") };
        let queued = [(Receive, 1), (Send, 2), (Accept, 3), (Receive, 2), (Send, 1)];
        for (kind, index) in queued {
            let key = Key { index, generation: 0 };
            let entry = opcode::Nop::new().build().user_data(ring::user_data(kind, key));
            // SAFETY: it points to nothing.
            unsafe { ring.submission().push(&entry) }.unwrap();
        }
        ring.submit_and_wait(queued.len()).unwrap();
        let completions: Vec<_> = ring.completion().collect();
        let seen: Vec<_> =
            sends_first(&completions).map(ring::of).map(|(kind, key)| (kind, key.index)).collect();
        assert_eq!(seen, [(Send, 2), (Send, 1), (Receive, 1), (Accept, 3), (Receive, 2)]);
    }
}
