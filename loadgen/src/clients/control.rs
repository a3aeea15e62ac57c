//! What the main thread tells the load-generating threads, and how far they are.
//!
//! A run goes through four phases. *Opening*: connections are made and each does its first
//! exchange. *Warm-up* and *measured window*: the closed loop, or the open one. *Finish*: nothing
//! new is begun and outstanding replies are awaited. Between the loop's phases there is no barrier: the window is a
//! pair of instants on one clock, and every exchange is judged by its own two instants.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Release;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed};

use rustix::event::{EventfdFlags, eventfd};

use crate::clients::clock::{Clock, NEVER};
use crate::clients::laps::Mailbox;

/// Shared by the main thread, which writes, and the load-generating threads, which read.
#[derive(Debug)]
pub struct Control {
    /// The one clock of the run.
    pub clock: Clock,
    looping: AtomicBool,
    begin_ns: AtomicU64,
    start_ns: AtomicU64,
    end_ns: AtomicU64,
    abandon_ns: AtomicU64,
    turns: AtomicU64,
    turn_end_ns: AtomicU64,
    threads: Vec<Thread>,
    mailboxes: Vec<Mailbox>,
}

/// What belongs to one load-generating thread. On cache lines of its own: one thread writes them
/// once a turn.
#[derive(Debug)]
#[repr(align(128))]
struct Thread {
    wake: OwnedFd,
    opened: AtomicU64,
    exchanges: AtomicU64,
}

impl Control {
    /// For `threads` threads of a closed or an open loop, none of which has been told anything.
    ///
    /// # Errors
    ///
    /// When the descriptors that wake the threads cannot be had (eventfd(2)).
    pub fn new(clock: Clock, threads: usize, open: bool) -> io::Result<Self> {
        let thread = || {
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Thread { wake, opened: AtomicU64::new(0), exchanges: AtomicU64::new(0) })
        };
        Ok(Self {
            clock,
            looping: AtomicBool::new(false),
            begin_ns: AtomicU64::new(NEVER),
            start_ns: AtomicU64::new(NEVER),
            end_ns: AtomicU64::new(NEVER),
            abandon_ns: AtomicU64::new(NEVER),
            turns: AtomicU64::new(0),
            turn_end_ns: AtomicU64::new(NEVER),
            threads: (0..threads).map(|_| thread()).collect::<io::Result<_>>()?,
            mailboxes: (0..threads).map(|_| Mailbox::new(open)).collect(),
        })
    }

    /// Begins the loop. An open loop's schedule begins at the instant given, and its window has to
    /// be set before; a closed loop does without, and warms up until it is.
    pub fn begin_loop(&self, begin_ns: u64) {
        self.begin_ns.store(begin_ns, Relaxed);
        self.looping.store(true, Release);
        self.wake_all();
    }

    /// Sets the instants between which the loop is measured. They have to lie ahead: an exchange
    /// that was judged before the window was known lies outside of it.
    pub fn set_window(&self, start_ns: u64, end_ns: u64) {
        self.end_ns.fetch_min(end_ns, Relaxed);
        self.start_ns.store(start_ns, Relaxed);
    }

    /// Ends the run early: nothing is sent after `end_ns`, nothing awaited after `abandon_ns`.
    pub fn cut(&self, end_ns: u64, abandon_ns: u64) {
        self.abandon_ns.store(abandon_ns, Relaxed);
        self.end_ns.fetch_min(end_ns, Relaxed);
        self.wake_all();
    }

    /// It is the turn of others: the clock stands still.
    pub fn end_turn(&self) {
        self.clock.stop();
        self.turn_end_ns.store(0, Relaxed);
    }

    /// The clock goes on, and requests may be sent for so long.
    pub fn begin_turn(&self, length_ns: u64) {
        self.clock.resume();
        self.turn_end_ns.store(self.clock.now() + length_ns, Relaxed);
        self.turns.fetch_add(1, Release);
        self.wake_all();
    }

    /// Whether the loop has begun.
    pub fn looping(&self) -> bool {
        self.looping.load(Acquire)
    }

    /// When the first request of an open loop may be due.
    pub fn begin_ns(&self) -> u64 {
        self.begin_ns.load(Relaxed)
    }

    /// When the measured window starts.
    #[inline]
    pub fn start_ns(&self) -> u64 {
        self.start_ns.load(Relaxed)
    }

    /// When it ends, and with it all sending; of an open loop, except what was due by then.
    #[inline]
    pub fn end_ns(&self) -> u64 {
        self.end_ns.load(Relaxed)
    }

    /// How many turns have begun.
    pub fn turns(&self) -> u64 {
        self.turns.load(Acquire)
    }

    /// When sending ends for the time being; never for a run that takes no turns with others.
    #[inline]
    pub fn turn_end_ns(&self) -> u64 {
        self.turn_end_ns.load(Relaxed)
    }

    /// When replies are no longer waited for, however young.
    pub fn abandon_ns(&self) -> u64 {
        self.abandon_ns.load(Relaxed)
    }

    /// Where each thread leaves what it counted in an interval.
    pub fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// The descriptor that becomes readable when a thread should look at what it was told.
    pub fn wake(&self, thread: usize) -> &OwnedFd {
        &self.threads[thread].wake
    }

    /// A thread says how far it is.
    #[inline]
    pub fn publish(&self, thread: usize, opened: u64, exchanges: u64) {
        self.threads[thread].opened.store(opened, Relaxed);
        self.threads[thread].exchanges.store(exchanges, Relaxed);
    }

    /// Connections opened or failed, and exchanges done, by all threads.
    pub fn progress(&self) -> (u64, u64) {
        let sum = |field: fn(&Thread) -> &AtomicU64| {
            self.threads.iter().map(|thread| field(thread).load(Relaxed)).sum()
        };
        (sum(|thread| &thread.opened), sum(|thread| &thread.exchanges))
    }

    fn wake_all(&self) {
        for thread in &self.threads {
            // It can only fail for a full counter, which is readable anyway.
            let _ = rustix::io::write(&thread.wake, &1u64.to_ne_bytes());
        }
    }
}
