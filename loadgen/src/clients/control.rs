//! Shared state of a run: instants that the main thread sets, and the progress of the threads.
//!
//! A run has four phases. *Opening*: connections are opened and each does its first exchange.
//! *Warm-up* and *measured window*: the closed or the open loop. *Finish*: nothing new is begun,
//! and outstanding replies are awaited. There is no barrier between the phases of the loop: the
//! window is a pair of instants on one clock, and every exchange is judged by its own two instants.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Release;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed};

use rustix::event::{EventfdFlags, eventfd};

use crate::clients::clock::{Clock, NEVER};
use crate::clients::intervals::IntervalQueue;

/// Shared by the main thread, which writes, and the load-generating threads, which read.
#[derive(Debug)]
pub struct Control {
    /// Clock of the run.
    pub clock: Clock,
    looping: AtomicBool,
    begin_ns: AtomicU64,
    start_ns: AtomicU64,
    end_ns: AtomicU64,
    abandon_ns: AtomicU64,
    slices: AtomicU64,
    slice_end_ns: AtomicU64,
    threads: Vec<Thread>,
    queues: Vec<IntervalQueue>,
}

/// State of one load-generating thread, which writes it once an iteration. On cache lines of its
/// own.
#[derive(Debug)]
#[repr(align(128))]
struct Thread {
    wake: OwnedFd,
    opened: AtomicU64,
    exchanges: AtomicU64,
}

impl Control {
    /// Returns the state of a closed or an open loop that has not begun.
    ///
    /// # Errors
    ///
    /// Those of eventfd(2); each thread has one.
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
            slices: AtomicU64::new(0),
            slice_end_ns: AtomicU64::new(NEVER),
            threads: (0..threads).map(|_| thread()).collect::<io::Result<_>>()?,
            queues: (0..threads).map(|_| IntervalQueue::new(open)).collect(),
        })
    }

    /// Begins the loop. The schedule of an open loop begins at `begin_ns`, and its window has to be
    /// set before. A closed loop warms up until its window is set.
    pub fn begin_loop(&self, begin_ns: u64) {
        self.begin_ns.store(begin_ns, Relaxed);
        self.looping.store(true, Release);
        self.wake_all();
    }

    /// Sets the measured window. It has to lie ahead: an exchange that was judged before the window
    /// was set lies outside of it.
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

    /// Ends the run's time slice: stops the clock.
    pub fn end_slice(&self) {
        self.clock.stop();
        self.slice_end_ns.store(0, Relaxed);
    }

    /// Begins a time slice: resumes the clock, and lets requests be sent for `length_ns`.
    pub fn begin_slice(&self, length_ns: u64) {
        self.clock.resume();
        self.slice_end_ns.store(self.clock.now() + length_ns, Relaxed);
        self.slices.fetch_add(1, Release);
        self.wake_all();
    }

    /// True once the loop has begun.
    pub fn looping(&self) -> bool {
        self.looping.load(Acquire)
    }

    /// Earliest instant of a request of an open loop.
    pub fn begin_ns(&self) -> u64 {
        self.begin_ns.load(Relaxed)
    }

    /// Start of the measured window.
    #[inline]
    pub fn start_ns(&self) -> u64 {
        self.start_ns.load(Relaxed)
    }

    /// End of the measured window, and of all sending except of requests that were due by then.
    #[inline]
    pub fn end_ns(&self) -> u64 {
        self.end_ns.load(Relaxed)
    }

    /// Number of time slices that have begun.
    pub fn slices(&self) -> u64 {
        self.slices.load(Acquire)
    }

    /// Instant at which sending ends in this time slice; [`NEVER`] for a run without slices.
    #[inline]
    pub fn slice_end_ns(&self) -> u64 {
        self.slice_end_ns.load(Relaxed)
    }

    /// Instant after which no reply is awaited, however young the exchange.
    pub fn abandon_ns(&self) -> u64 {
        self.abandon_ns.load(Relaxed)
    }

    /// Queues by which the threads hand over their counts of each interval.
    pub fn queues(&self) -> &[IntervalQueue] {
        &self.queues
    }

    /// Descriptor that becomes readable when a thread is to read this state.
    pub fn wake(&self, thread: usize) -> &OwnedFd {
        &self.threads[thread].wake
    }

    /// Publishes the progress of a thread.
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
            // It fails only if the counter is full, and then it is readable anyway.
            let _ = rustix::io::write(&thread.wake, &1u64.to_ne_bytes());
        }
    }
}
