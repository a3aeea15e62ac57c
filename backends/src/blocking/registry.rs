//! The threads that may be waiting in a system call, and how to get them out of it.
//!
//! A thread in accept(2), recv(2) or send(2) comes back with EINTR when it gets a signal whose
//! handler was installed without SA_RESTART (signal(7)). shutdown(2) of the receiving side would
//! wake a receiver, too, but then Linux answers a request that is already on its way with a reset
//! (`tcp_rcv_state_process`, net/ipv4/tcp_input.c), and a conversation has to end with EOF. A
//! signal that comes just before the system call is lost, so it is sent again until the thread has
//! noticed.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{Shutdown, shutdown};

use crate::slots::{Key, Slots};

/// Not used by anything else in the process, ignored by nobody, and no terminal sends it.
const SIGNAL: libc::c_int = libc::SIGUSR2;

/// Makes [`SIGNAL`] interrupt system calls and do nothing else.
pub(super) fn prepare_interrupts() -> io::Result<()> {
    extern "C" fn ignore(_signal: libc::c_int) {}
    // SAFETY: a zeroed sigaction is a valid one: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as libc::sighandler_t;
    // SAFETY: the handler is async-signal-safe: it does nothing.
    match unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The threads of one shard.
pub(super) struct Registry(Mutex<Threads>);

struct Threads {
    entered: Slots<Thread>,
    /// Announced and not yet ended, entered or not.
    alive: usize,
}

struct Thread {
    /// Whom to interrupt; nobody, once it has seen that it has to stop.
    id: Option<libc::pthread_t>,
    fd: Option<RawFd>,
    cut: bool,
}

impl Registry {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Threads { entered: Slots::new(), alive: 0 }))
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a thread that is about to be started, so that it cannot be overlooked.
    pub(super) fn announce(&self) -> Ticket<'_> {
        self.threads().alive += 1;
        Ticket { registry: self, key: None }
    }

    /// Interrupts every thread that needs it; says how many have not ended yet.
    pub(super) fn interrupt(&self) -> usize {
        let mut threads = self.threads();
        for key in threads.entered.keys() {
            if let Some(id) = threads.entered.get_mut(key).and_then(|thread| thread.id) {
                // SAFETY: the thread runs: it leaves the registry, whose lock we hold, before it
                // ends.
                unsafe { libc::pthread_kill(id, SIGNAL) };
            }
        }
        threads.alive
    }

    /// Shuts down every conversation's socket: whatever its thread waits for fails.
    pub(super) fn cut(&self) {
        let mut threads = self.threads();
        for key in threads.entered.keys() {
            let Some(thread) = threads.entered.get_mut(key) else { continue };
            if let (Some(fd), false) = (thread.fd, thread.cut) {
                thread.cut = true;
                // SAFETY: the descriptor is open: the thread leaves the registry, whose lock we
                // hold, before it closes it.
                let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                let _gone = shutdown(fd, Shutdown::Both);
            }
        }
    }
}

/// A thread's place in the registry, until it is dropped.
pub(super) struct Ticket<'a> {
    registry: &'a Registry,
    key: Option<Key>,
}

impl Ticket<'_> {
    /// Called by the thread itself, before it first looks at the stop signal; `fd` is its
    /// conversation's and stays open as long as the ticket lives.
    pub(super) fn enter(&mut self, fd: Option<RawFd>) {
        // SAFETY: it has no preconditions.
        let id = unsafe { libc::pthread_self() };
        let thread = Thread { id: Some(id), fd, cut: false };
        self.key = Some(self.registry.threads().entered.insert(thread));
    }

    /// Whatever the thread waits for from here on, it does not wait for long.
    pub(super) fn need_not_be_interrupted(&self) {
        let mut threads = self.registry.threads();
        if let Some(thread) = self.key.and_then(|key| threads.entered.get_mut(key)) {
            thread.id = None;
        }
    }

    /// Whether the conversation was cut.
    pub(super) fn was_cut(&self) -> bool {
        let mut threads = self.registry.threads();
        self.key.and_then(|key| threads.entered.get_mut(key)).is_some_and(|thread| thread.cut)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut threads = self.registry.threads();
        if let Some(key) = self.key {
            threads.entered.remove(key);
        }
        threads.alive -= 1;
    }
}
