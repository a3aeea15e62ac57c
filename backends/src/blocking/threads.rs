//! The threads of a shard, and how to interrupt their system calls.
//!
//! A thread in accept(2), recv(2) or send(2) returns with EINTR when it gets a signal whose handler
//! was installed without SA_RESTART (signal(7)). shutdown(2) of the receiving side would wake a
//! receiver as well, but then Linux answers a request that is already on its way with a reset
//! (`tcp_rcv_state_process`, net/ipv4/tcp_input.c), and the client would see no orderly end. A
//! signal that arrives just before the system call is lost, so it is sent again until the thread
//! has seen that the server stops.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};

use crate::slots::{Key, Slots};

/// Signal that interrupts system calls. Nothing else in the process uses it, and no terminal sends
/// it.
const SIGNAL: libc::c_int = libc::SIGUSR2;

/// Makes [`SIGNAL`] interrupt system calls and do nothing else, in the whole process and for good:
/// a signal still pending when the last shard ends must not kill the process.
pub(super) fn install_handler() -> io::Result<()> {
    extern "C" fn ignore(_signal: libc::c_int) {}
    // SAFETY: a zeroed sigaction is valid: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as libc::sighandler_t;
    // SAFETY: the handler is async-signal-safe: it does nothing.
    match unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The threads of one shard.
pub(super) struct Threads {
    table: Mutex<Table>,
    /// Notified when the last thread ends.
    ended: Condvar,
}

struct Table {
    started: Slots<Thread>,
    /// Threads registered and not ended, started or not.
    alive: usize,
}

struct Thread {
    /// None once the thread need not be interrupted.
    id: Option<libc::pthread_t>,
    socket: Option<RawFd>,
    cut: bool,
}

impl Threads {
    pub(super) const fn new() -> Self {
        let table = Mutex::new(Table { started: Slots::new(), alive: 0 });
        Self { table, ended: Condvar::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a thread that is about to be started, so that [`wait`](Self::wait) waits for it.
    pub(super) fn register(&self) -> ThreadGuard<'_> {
        self.table().alive += 1;
        ThreadGuard { threads: self, key: None }
    }

    /// Interrupts the system call of every thread.
    pub(super) fn interrupt(&self) {
        let mut table = self.table();
        for key in table.started.keys() {
            if let Some(id) = table.started.get_mut(key).and_then(|thread| thread.id) {
                // SAFETY: the thread runs: it leaves the table, whose lock is held, before it ends.
                unsafe { libc::pthread_kill(id, SIGNAL) };
            }
        }
    }

    /// Shuts down the socket of every connection, at which its thread's system call fails.
    pub(super) fn cut(&self) {
        let mut table = self.table();
        for key in table.started.keys() {
            let Some(thread) = table.started.get_mut(key) else { continue };
            if let (Some(socket), false) = (thread.socket, thread.cut) {
                thread.cut = true;
                // SAFETY: the descriptor is open: its thread leaves the table, whose lock is held,
                // before it closes it.
                let socket = unsafe { BorrowedFd::borrow_raw(socket) };
                let _reset = shutdown(socket, Shutdown::Both);
            }
        }
    }

    /// Waits until all threads have ended; returns false after the timeout.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let table = self.ended.wait_timeout_while(self.table(), timeout, |table| table.alive > 0);
        table.unwrap_or_else(PoisonError::into_inner).0.alive == 0
    }
}

/// Membership of a thread, ended by dropping it.
pub(super) struct ThreadGuard<'a> {
    threads: &'a Threads,
    key: Option<Key>,
}

impl ThreadGuard<'_> {
    /// Enters the calling thread in the table, before it first checks the stop signal. The
    /// connection's `socket` must stay open as long as the guard lives.
    pub(super) fn start(&mut self, socket: Option<RawFd>) {
        // SAFETY: no preconditions.
        let id = unsafe { libc::pthread_self() };
        let thread = Thread { id: Some(id), socket, cut: false };
        self.key = Some(self.threads.table().started.insert(thread));
    }

    /// Stops interrupting the thread, whose remaining waits are short.
    pub(super) fn stop_interrupts(&self) {
        let mut table = self.threads.table();
        if let Some(thread) = self.key.and_then(|key| table.started.get_mut(key)) {
            thread.id = None;
        }
    }

    /// True if the connection was cut.
    pub(super) fn was_cut(&self) -> bool {
        let mut table = self.threads.table();
        self.key.and_then(|key| table.started.get_mut(key)).is_some_and(|thread| thread.cut)
    }
}

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        let mut table = self.threads.table();
        if let Some(key) = self.key {
            table.started.remove(key);
        }
        table.alive -= 1;
        if table.alive == 0 {
            self.threads.ended.notify_all();
        }
    }
}
