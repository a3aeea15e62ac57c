//! The threads of a shard: starting them, and interrupting their system calls.
//!
//! They are started with pthread_create(3), which returns an error if there is no memory. A thread
//! of std also maps a stack on which it reports an overflow, and aborts the process if it cannot.
//!
//! glibc keeps stacks of threads that have ended for the next ones: 40 MiB of address space at
//! most, some 310 stacks, of which 8 to 12 KiB each are resident. Memory that was allocated for
//! ended threads is returned when most threads of a peak have ended.
//!
//! A thread in accept(2), recv(2) or send(2) returns with EINTR when it gets a signal whose handler
//! was installed without SA_RESTART (signal(7)). shutdown(2) of the receiving side would wake a
//! receiver as well, but then Linux answers a request that is already on its way with a reset
//! (`tcp_rcv_state_process`, net/ipv4/tcp_input.c), and the client would see no orderly end. A
//! signal that arrives just before the system call is lost, so it is sent again until the thread
//! has seen that the server stops.

use std::ffi::{CStr, c_void};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use rustix::thread::set_name;

use crate::slots::{Key, Slots};
use lockstep_sys::memory;

/// Signal that interrupts system calls. Nothing else in the process uses it, and no terminal sends
/// it.
const SIGNAL: libc::c_int = libc::SIGUSR2;

/// A connection needs one buffer and a few frames; a debug build's frames are larger.
const STACK_SIZE: usize = 128 * 1024;

/// Threads below which no memory is returned.
const FEW_THREADS: usize = 256;

/// Returns the heap's unused pages to the kernel.
fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

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

/// Calls `run` with an empty set of threads, whose threads may borrow everything that outlives the
/// call. Returns when all of them have ended.
///
/// # Panics
///
/// If `run` or a thread has panicked.
pub(super) fn scope<'env, R>(
    run: impl for<'scope> FnOnce(&'scope Threads<'scope, 'env>) -> R,
) -> R {
    let table = Table { started: Slots::new(), alive: 0, most: 0, peak: 0, panicked: false };
    let shared = Arc::new(Shared { table: Mutex::new(table), ended: Condvar::new() });
    let threads = Threads { shared, scope: PhantomData, env: PhantomData };
    let result = catch_unwind(AssertUnwindSafe(|| run(&threads)));
    while !threads.wait(Duration::MAX) {}
    assert!(!threads.table().panicked, "a thread panicked");
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The threads of one shard.
pub(super) struct Threads<'scope, 'env: 'scope> {
    shared: Arc<Shared>,
    /// Invariant lifetimes, as those of [`std::thread::Scope`].
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// State that a thread may still use when [`scope`] has returned.
struct Shared {
    table: Mutex<Table>,
    /// Notified when the last thread ends.
    ended: Condvar,
}

struct Table {
    started: Slots<Thread>,
    /// Threads started and not ended, in the table or not.
    alive: usize,
    /// Largest number of them so far.
    most: usize,
    /// Largest number of them since memory was returned.
    peak: usize,
    panicked: bool,
}

struct Thread {
    /// None once the thread need not be interrupted.
    id: Option<libc::pthread_t>,
    socket: Option<RawFd>,
    cut: bool,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the end of a thread.
    fn end(&self, panicked: bool) {
        let mut table = self.table();
        table.panicked |= panicked;
        table.alive -= 1;
        if table.alive == 0 {
            self.ended.notify_all();
        }
        if table.alive < table.peak / 4 && table.peak > FEW_THREADS {
            table.peak = table.alive;
            drop(table);
            return_memory();
        }
    }
}

/// Argument of a thread.
struct Start<F> {
    run: F,
    name: &'static CStr,
    shared: Arc<Shared>,
}

impl<'scope> Threads<'scope, '_> {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table()
    }

    /// Starts a thread that calls `run`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is not enough memory for a thread and what else the process may need,
    /// `EAGAIN` at a limit of threads (pthread_create(3)). `run` is dropped.
    pub(super) fn spawn(
        &'scope self,
        name: &'static CStr,
        run: impl FnOnce() + Send + 'scope,
    ) -> io::Result<()> {
        let mut table = self.table();
        if table.alive == table.most {
            memory::room_for(STACK_SIZE)?; // else the thread may get a stack that was used before
        }
        table.alive += 1;
        table.most = table.most.max(table.alive);
        table.peak = table.peak.max(table.alive);
        drop(table);
        let start = Start { run, name, shared: Arc::clone(&self.shared) };
        // SAFETY: `run` borrows what outlives `scope`, which does not return before that call.
        let started = unsafe { start_thread(start) };
        if started.is_err() {
            self.shared.end(false);
        }
        started
    }

    /// Enters the calling thread in the table, before it first checks the stop signal. The
    /// connection's `socket` must stay open as long as the guard lives.
    pub(super) fn enter(&self, socket: Option<RawFd>) -> ThreadGuard<'_> {
        // SAFETY: no preconditions.
        let id = unsafe { libc::pthread_self() };
        let key = self.table().started.insert(Thread { id: Some(id), socket, cut: false });
        ThreadGuard { shared: &self.shared, key }
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
        let alive = |table: &mut Table| table.alive > 0;
        let table = self.shared.ended.wait_timeout_while(self.table(), timeout, alive);
        table.unwrap_or_else(PoisonError::into_inner).0.alive == 0
    }
}

/// Starts a detached thread with its argument.
///
/// # Safety
///
/// What `F` borrows must outlive the thread's call of [`Shared::end`].
unsafe fn start_thread<F: FnOnce() + Send>(start: Start<F>) -> io::Result<()> {
    extern "C" fn main<F: FnOnce()>(argument: *mut c_void) -> *mut c_void {
        // SAFETY: the argument is the pointer below, which nothing else uses.
        let Start { run, name, shared } = *unsafe { Box::from_raw(argument.cast::<Start<F>>()) };
        let _for_top = set_name(name);
        let result = catch_unwind(AssertUnwindSafe(run)); // which has dropped what it borrowed
        shared.end(result.is_err());
        ptr::null_mut()
    }
    let argument = Box::into_raw(Box::new(start));
    let (mut id, mut attributes) = (0, MaybeUninit::uninit());
    let attributes = attributes.as_mut_ptr();
    // SAFETY: `attributes` points to memory for them, which this call initialises.
    unsafe { libc::pthread_attr_init(attributes) };
    // SAFETY: the attributes are initialised.
    unsafe { libc::pthread_attr_setstacksize(attributes, STACK_SIZE) };
    // SAFETY: the attributes are initialised.
    unsafe { libc::pthread_attr_setdetachstate(attributes, libc::PTHREAD_CREATE_DETACHED) };
    // SAFETY: the attributes are initialised. `main` takes the argument that it is given, and uses
    // nothing else that the caller owns after `Shared::end`.
    let result =
        unsafe { libc::pthread_create(&raw mut id, attributes, main::<F>, argument.cast()) };
    // SAFETY: the attributes are initialised, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes) };
    if result == 0 {
        return Ok(());
    }
    // SAFETY: no thread was started, so the pointer is still this function's.
    drop(unsafe { Box::from_raw(argument) });
    Err(io::Error::from_raw_os_error(result))
}

/// Membership of a thread in the table, ended by dropping it.
pub(super) struct ThreadGuard<'a> {
    shared: &'a Shared,
    key: Key,
}

impl ThreadGuard<'_> {
    /// Stops interrupting the thread, whose remaining waits are short.
    pub(super) fn stop_interrupts(&self) {
        if let Some(thread) = self.shared.table().started.get_mut(self.key) {
            thread.id = None;
        }
    }

    /// True if the connection was cut.
    pub(super) fn was_cut(&self) -> bool {
        self.shared.table().started.get_mut(self.key).is_some_and(|thread| thread.cut)
    }
}

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        self.shared.table().started.remove(self.key);
    }
}
