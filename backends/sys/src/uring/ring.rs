//! Submitting operations and taking completions.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::buffers::{BufferId, Buffers, GROUP};
use super::trial::survive;

/// Slots of the completion queue for each of the submission queue. Completions beyond them wait in
/// the kernel.
const COMPLETIONS_EACH: u32 = 4;

/// Number of calls in a row that may fail because memory is short (`EAGAIN`, `ENOMEM`) or because
/// completions have to be taken first (`EBUSY`): some ten seconds.
const REFUSALS_MAX: u32 = if cfg!(test) { 100 } else { 1000 };

/// Pause after the first such call that brought no completions, and the longest pause.
const RETRY_AFTER: Duration = Duration::from_millis(1);
const RETRY_AFTER_MAX: Duration = Duration::from_millis(10);

/// Time that dropping a ring waits for the kernel, at most.
const QUIESCE_WITHIN: Duration = Duration::from_secs(1);

/// Bits of a key; above them, `user_data` names the operation.
const KEY_BITS: u32 = 56;

/// A key for operations that belong to no connection.
pub const NO_KEY: u64 = (1 << KEY_BITS) - 1;

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Slots of the submission queue. A full queue is submitted.
    pub submissions: u32,
    /// Number of completions that one wait takes, at most.
    pub batch: usize,
    /// Number of receive buffers at first.
    pub buffers: u16,
    /// Number of receive buffers after growing, at most: a power of two up to 2^15.
    pub buffers_max: u16,
    /// Bytes of a receive buffer.
    pub buffer_length: usize,
}

/// Wraps a ring's system calls, in order to trace them. `()` only makes them.
pub trait Observer {
    /// Makes the call; `text` is its name with its arguments.
    fn call(
        &self,
        text: fmt::Arguments<'_>,
        call: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize>;
}

impl Observer for () {
    #[inline(always)]
    fn call(
        &self,
        _text: fmt::Arguments<'_>,
        call: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        call()
    }
}

/// The end of an operation or, with `more`, one of several results of it.
#[derive(Debug)]
pub enum Completion {
    /// A connection has been accepted.
    Accept {
        /// The connection.
        result: Result<OwnedFd, Errno>,
        /// True if the accept goes on.
        more: bool,
    },
    /// Bytes have been received.
    Receive {
        /// The key given with the receive.
        key: u64,
        /// The buffer with the bytes; none at the end of the stream. `ENOBUFS` if no buffer was
        /// left.
        result: Result<Option<BufferId>, Errno>,
        /// True if the receive goes on.
        more: bool,
        /// True if the socket held more than was received.
        nonempty: bool,
    },
    /// A send is over. Of [`Ring::send_buffer`] and [`Ring::send_shared`], only those that failed
    /// or were short.
    Send {
        /// The key given with the send.
        key: u64,
        /// Number of bytes sent.
        result: Result<u32, Errno>,
        /// The bytes that were to be sent; none of [`Ring::send_shared`].
        bytes: Option<Sent>,
    },
    /// A polled descriptor is ready.
    Poll {
        /// The key given with the poll.
        key: u64,
        /// The events, as poll(2) has them.
        result: Result<u32, Errno>,
        /// True if the poll goes on.
        more: bool,
    },
    /// A cancellation is over.
    Cancel {
        /// The key of the receive; [`NO_KEY`] of an accept.
        key: u64,
        /// `ENOENT` or `EALREADY` if the operation may go on.
        result: Result<u32, Errno>,
    },
    /// A close has failed.
    Close {
        /// The error.
        result: Result<u32, Errno>,
    },
}

/// The bytes of a send that is over.
#[derive(Debug)]
pub enum Sent {
    /// The buffer of [`Ring::send_buffer`], and the length that was to be sent.
    Buffer(BufferId, usize),
    /// Those of [`Ring::send_all`].
    Bytes(Box<[u8]>),
}

/// A buffer that is being sent.
struct Sending {
    user_data: u64,
    buffer: BufferId,
    length: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Kind {
    Accept,
    Receive,
    Send,
    Poll,
    Cancel,
    Close,
    /// Cancels everything, when the ring is dropped.
    CancelAll,
}

const fn user_data(kind: Kind, key: u64) -> u64 {
    debug_assert!(key >> KEY_BITS == 0);
    ((kind as u64) << KEY_BITS) | key
}

#[inline]
fn kind_of(user_data: u64) -> Kind {
    match user_data >> KEY_BITS {
        0 => Kind::Accept,
        1 => Kind::Receive,
        2 => Kind::Send,
        3 => Kind::Poll,
        4 => Kind::Cancel,
        5 => Kind::Close,
        6 => Kind::CancelAll,
        kind => unreachable!("a completion of no operation: {kind}"),
    }
}

/// An io_uring for the thread that makes it.
///
/// Operations are queued; [`wait`](Self::wait) submits them, or the next operation if the queue is
/// full. A key, of up to 56 bits, comes back with the completion.
///
/// A descriptor must stay open until the operations on it are over; otherwise they may meet
/// another file that has got its number. Queued operations are submitted in their order, so a
/// [`close`](Self::close) may be queued behind the others.
pub struct Ring<O: Observer = ()> {
    uring: IoUring,
    observer: O,
    buffers: Buffers,
    /// Memory of [`send_shared`](Self::send_shared).
    shared: Arc<[u8]>,
    /// Memory of [`send_all`](Self::send_all), by `user_data`.
    owned: HashMap<u64, Box<[u8]>>,
    /// Memory of [`send_buffer`](Self::send_buffer).
    sending: VecDeque<Sending>,
    /// Number of these that are no longer in flight.
    sent: usize,
    /// Completions taken: those of sends, and the others in their order.
    sends: Vec<cqueue::Entry>,
    others: VecDeque<cqueue::Entry>,
    batch: usize,
    /// Most completions that a wait has taken since the last [`shrink`](Self::shrink).
    busiest: usize,
    settled: bool,
    iteration: u32,
    /// Calls in a row that the kernel refused for want of memory or room.
    refusals: u32,
    enters: u64,
    /// SINGLE_ISSUER: only the thread that made a ring may use it.
    not_send: PhantomData<*mut ()>,
}

impl<O: Observer> Ring<O> {
    /// Makes a ring. `shared` is the memory from which [`send_shared`](Self::send_shared) sends.
    ///
    /// # Errors
    ///
    /// Of io_uring_setup(2) and io_uring_register(2): `EINVAL` before Linux 6.1, `ENOSYS` or
    /// `EPERM` where io_uring is not allowed, `ENOMEM` if memory that may be locked is short.
    /// `Unsupported` where a sandbox kills processes for these calls.
    pub fn new(sizes: Sizes, shared: Arc<[u8]>, observer: O) -> io::Result<Self> {
        survive()?;
        let submissions = sizes.submissions;
        let mut uring = None;
        let set_up = || {
            let made = IoUring::builder()
                .setup_single_issuer()
                .setup_defer_taskrun() // Linux 6.1: completions are posted only by our own calls
                .setup_taskrun_flag()
                .setup_submit_all()
                .setup_clamp()
                .setup_cqsize(COMPLETIONS_EACH * submissions)
                .build(submissions)?;
            Ok(uring.insert(made).as_raw_fd() as usize)
        };
        observer.call(format_args!("io_uring_setup({submissions}, DEFER_TASKRUN)"), set_up)?;
        let uring = uring.expect("the call has set it");
        let Sizes { buffers, buffers_max, buffer_length, batch, .. } = sizes;
        let buffers = Buffers::register(&uring, buffers, buffers_max, buffer_length)?;
        Ok(Self {
            uring,
            observer,
            buffers,
            shared,
            owned: HashMap::new(),
            sending: VecDeque::new(),
            sent: 0,
            sends: Vec::new(),
            others: VecDeque::new(),
            batch,
            busiest: 0,
            settled: true,
            iteration: 0,
            refusals: 0,
            enters: 0,
            not_send: PhantomData,
        })
    }

    /// Accepts a connection or, with `multi`, one after another until it is cancelled or fails.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait) if the queue is full, as of all operations.
    pub fn accept(&mut self, listener: impl AsFd, multi: bool) -> io::Result<()> {
        let (fd, flags) = (fd_of(listener), libc::SOCK_CLOEXEC);
        let entry = if multi {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        } else {
            let no_address = std::ptr::null_mut();
            opcode::Accept::new(fd, no_address, no_address.cast()).flags(flags).build()
        };
        self.push_plain(entry, Kind::Accept, NO_KEY)
    }

    /// Cancels the accept, if it is in flight.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    pub fn cancel_accept(&mut self) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(user_data(Kind::Accept, NO_KEY)).build();
        self.push_plain(entry, Kind::Cancel, NO_KEY)
    }

    /// Receives once into a buffer of the kernel's choice. With MSG_DONTWAIT as `flags`, fails with
    /// `EAGAIN` if nothing is there.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    pub fn receive(&mut self, key: u64, socket: impl AsFd, flags: i32) -> io::Result<()> {
        let (no_memory, length) = (std::ptr::null_mut(), self.buffers.length() as u32);
        let entry = opcode::Recv::new(fd_of(socket), no_memory, length)
            .flags(flags)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push_plain(entry, Kind::Receive, key)
    }

    /// Receives again and again, until it is cancelled, fails, or the kernel ends it.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    pub fn receive_multi(&mut self, key: u64, socket: impl AsFd) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(fd_of(socket), GROUP).build();
        self.push_plain(entry, Kind::Receive, key)
    }

    /// Cancels a receive, if it is in flight. One that the kernel is just working on is not found.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    pub fn cancel_receive(&mut self, key: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(user_data(Kind::Receive, key)).build();
        self.push_plain(entry, Kind::Cancel, key)
    }

    /// Sends the first `length` bytes of a buffer, as far as the socket takes them immediately.
    ///
    /// Only a short or failed send completes, by the time that [`iteration`](Self::iteration) has
    /// changed. Otherwise the buffer is recycled.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    ///
    /// # Panics
    ///
    /// If the buffer is shorter.
    #[inline]
    pub fn send_buffer(
        &mut self,
        key: u64,
        socket: impl AsFd,
        mut buffer: BufferId,
        length: usize,
    ) -> io::Result<()> {
        let bytes = &self.buffers.whole(&mut buffer)[..length];
        let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let data = user_data(Kind::Send, key);
        let entry = opcode::Send::new(fd_of(socket), bytes.as_ptr(), length as u32)
            .flags(flags)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(data);
        // SAFETY: the buffer is in `sending` until the send is over.
        unsafe { self.push(&entry) }?;
        self.sending.push_back(Sending { user_data: data, buffer, length });
        Ok(())
    }

    /// Sends all of the bytes, however long the socket takes.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    ///
    /// # Panics
    ///
    /// If another such send with this key is in flight.
    pub fn send_all(&mut self, key: u64, socket: impl AsFd, bytes: Box<[u8]>) -> io::Result<()> {
        let data = user_data(Kind::Send, key);
        let entry = opcode::Send::new(fd_of(socket), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(data);
        assert!(self.owned.insert(data, bytes).is_none(), "two sends with one key");
        // SAFETY: the bytes are in `owned` until the completion is taken.
        unsafe { self.push(&entry) }
    }

    /// Sends a part of the shared memory, however long the socket takes. Only an error completes;
    /// MSG_WAITALL makes a short send one (io_uring_prep_send(3)).
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    ///
    /// # Panics
    ///
    /// If the bytes are not within the shared memory.
    #[inline]
    pub fn send_shared(&mut self, key: u64, socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
        let (shared, part) = (self.shared.as_ptr_range(), bytes.as_ptr_range());
        assert!(shared.start <= part.start && part.end <= shared.end, "not of the shared memory");
        let entry = opcode::Send::new(fd_of(socket), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(user_data(Kind::Send, key));
        // SAFETY: the bytes are within `shared`, which lives until the ring has been dropped.
        unsafe { self.push(&entry) }
    }

    /// Completes when the descriptor is ready for one of `events` (of poll(2)); with `multi`, each
    /// time that it becomes ready.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    pub fn poll(&mut self, key: u64, fd: impl AsFd, events: u32, multi: bool) -> io::Result<()> {
        let entry = opcode::PollAdd::new(fd_of(fd), events).multi(multi).build();
        self.push_plain(entry, Kind::Poll, key)
    }

    /// Closes a descriptor, after what has been queued for it.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept); then it is closed by close(2).
    pub fn close(&mut self, fd: OwnedFd) -> io::Result<()> {
        let entry = opcode::Close::new(fd_of(&fd)).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push_plain(entry, Kind::Close, NO_KEY)?;
        let _queued = fd.into_raw_fd();
        Ok(())
    }

    fn push_plain(&mut self, entry: squeue::Entry, kind: Kind, key: u64) -> io::Result<()> {
        // SAFETY: the entry refers to no memory.
        unsafe { self.push(&entry.user_data(user_data(kind, key))) }
    }

    /// Queues an operation.
    ///
    /// # Safety
    ///
    /// The memory that it refers to must stay valid, and unwritten, until the operation is over, or
    /// until the ring has been dropped without leaking it.
    #[inline]
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller upholds the contract.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enter(0, None)?;
        }
        Ok(())
    }

    /// Submits what is queued, without waiting for completions.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn submit(&mut self) -> io::Result<()> {
        if self.has_work() { self.enter(0, None) } else { Ok(()) }
    }

    /// Submits what is queued, waits until there is a completion, at most for `timeout`, and takes
    /// the completions there are. The ones taken before must have been used.
    ///
    /// # Errors
    ///
    /// Of io_uring_enter(2): `EAGAIN`, `EBUSY` or `ENOMEM` only if the kernel goes on refusing for
    /// ten seconds, never `EINTR` or `ETIME`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        debug_assert!(!self.has_completions(), "completions are left");
        for Sending { buffer, .. } in self.sending.drain(..self.sent) {
            self.buffers.recycle(buffer);
        }
        self.sent = 0;
        self.buffers.commit();
        let is_look = timeout.is_some_and(|timeout| timeout.is_zero());
        if !is_look && self.uring.completion().is_empty() {
            self.enter(1, timeout)?;
        } else if self.has_work() {
            self.enter(0, None)?;
        }
        let taken = self.take(self.batch);
        self.busiest = self.busiest.max(taken);
        let submission = self.uring.submission();
        self.settled = submission.is_empty() && !submission.cq_overflow();
        drop(submission);
        self.settled &= self.uring.completion().is_empty();
        if self.settled {
            self.iteration = self.iteration.wrapping_add(1);
            self.sent = self.sending.len();
        }
        Ok(())
    }

    /// True if the last wait has submitted all that was queued and taken all completions there
    /// were.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Number of waits after which the ring was settled.
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// True if completions are left of those that the last wait has taken.
    pub fn has_completions(&self) -> bool {
        !self.sends.is_empty() || !self.others.is_empty()
    }

    /// Number of calls of io_uring_enter(2).
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// True if the kernel refused the last call for want of memory or room.
    pub fn is_refused(&self) -> bool {
        self.refusals > 0
    }

    /// True if operations are queued.
    pub fn has_queued(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// True if a wait would find something: completions, or work towards them that the kernel
    /// announces in memory (IORING_SQ_TASKRUN). Makes no system call.
    pub fn has_news(&mut self) -> bool {
        self.uring.submission().taskrun() || !self.uring.completion().is_empty()
    }

    /// True if there is a reason to enter the kernel: operations queued, completions to be worked
    /// on, or some that did not fit into the queue.
    fn has_work(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Calls io_uring_enter(2): submits what is queued and waits for `count` completions.
    fn enter(&mut self, count: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.enters += 1;
        let queued = self.uring.submission().len();
        let submitter = self.uring.submitter();
        let limit = Limit(timeout);
        let text = format_args!("io_uring_enter(submit {queued}, wait {count}{limit})");
        let entered = self.observer.call(text, || match timeout {
            None => submitter.submit_and_wait(count),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                submitter.submit_with_args(count, &SubmitArgs::new().timespec(&timeout))
            }
        });
        match entered.as_ref().map_err(io::Error::raw_os_error) {
            Ok(_) | Err(Some(libc::ETIME | libc::EINTR)) => self.refusals = 0,
            Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
                if self.refusals < REFUSALS_MAX =>
            {
                self.refusals += 1;
                if self.take(usize::MAX) == 0 {
                    thread::sleep((RETRY_AFTER * self.refusals).min(RETRY_AFTER_MAX));
                }
            }
            Err(_) => return entered.map(drop),
        }
        Ok(())
    }

    /// Takes completions, at most so many, and returns their number.
    fn take(&mut self, most: usize) -> usize {
        let mut count = 0;
        for entry in self.uring.completion().take(most) {
            count += 1;
            match kind_of(entry.user_data()) {
                Kind::Send => self.sends.push(entry),
                _ => self.others.push_back(entry),
            }
        }
        count
    }

    /// The next completion taken: first those of sends, then the others in their order.
    ///
    /// The kernel does not promise that a failed send completes before a receive submitted with it.
    /// A caller that concludes from the receive that the send has succeeded has to see the failure
    /// first.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        let entry = match self.sends.pop() {
            Some(entry) => entry,
            None => self.others.pop_front()?,
        };
        let (data, flags) = (entry.user_data(), entry.flags());
        let (key, more) = (data & NO_KEY, cqueue::more(flags));
        let result = match u32::try_from(entry.result()) {
            Ok(result) => Ok(result),
            Err(_) => Err(Errno::from_raw_os_error(-entry.result())),
        };
        Some(match kind_of(data) {
            Kind::Receive => {
                let buffer = cqueue::buffer_select(flags)
                    .map(|index| self.buffers.take(index, result.unwrap_or(0)));
                let result = match (result, buffer) {
                    (Ok(1..), Some(buffer)) => Ok(Some(buffer)),
                    (result, buffer) => {
                        buffer.into_iter().for_each(|buffer| self.buffers.recycle(buffer));
                        result.map(|count| {
                            assert!(count == 0, "{count} bytes received without a buffer");
                            None
                        })
                    }
                };
                let nonempty = cqueue::sock_nonempty(flags);
                Completion::Receive { key, result, more, nonempty }
            }
            Kind::Send => Completion::Send { key, result, bytes: self.take_sent(data) },
            Kind::Accept => {
                // SAFETY: the descriptor is new, and each completion is taken once.
                let own = |fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
                Completion::Accept { result: result.map(own), more }
            }
            Kind::Poll => Completion::Poll { key, result, more },
            Kind::Cancel => Completion::Cancel { key, result },
            Kind::Close => Completion::Close { result },
            Kind::CancelAll => unreachable!("taken in `quiesce`"),
        })
    }

    #[cold]
    fn take_sent(&mut self, data: u64) -> Option<Sent> {
        if let Some(bytes) = self.owned.remove(&data) {
            return Some(Sent::Bytes(bytes));
        }
        let at = self.sending.iter().position(|sending| sending.user_data == data)?;
        self.sent -= usize::from(at < self.sent);
        self.sending.remove(at).map(|Sending { buffer, length, .. }| Sent::Buffer(buffer, length))
    }

    /// The bytes received into a buffer.
    ///
    /// # Panics
    ///
    /// If the buffer is another ring's; so do the next methods.
    pub fn received(&self, buffer: &BufferId) -> &[u8] {
        self.buffers.received(buffer)
    }

    /// A whole buffer, with the bytes received at its start.
    ///
    /// # Panics
    ///
    /// As of [`received`](Self::received).
    #[inline]
    pub fn buffer(&mut self, buffer: &mut BufferId) -> &mut [u8] {
        self.buffers.whole(buffer)
    }

    /// Returns a buffer to the kernel, from the next wait on.
    ///
    /// # Panics
    ///
    /// As of [`received`](Self::received).
    #[inline]
    pub fn recycle(&mut self, buffer: BufferId) {
        self.buffers.recycle(buffer);
    }

    /// Doubles the number of receive buffers, up to the maximum.
    pub fn grow(&mut self) {
        self.buffers.grow();
    }

    /// Gives the memory of buffers back that no wait has needed since the last call. Returns true
    /// if there are still more than at first.
    pub fn shrink(&mut self) -> bool {
        // A wait may need as many as its completions, beside those of the wait before.
        let needed = 2 * std::mem::take(&mut self.busiest);
        let overflow = self.uring.submission().cq_overflow();
        if !overflow && !self.has_completions() && self.uring.completion().is_empty() {
            self.buffers.discard_unused();
        }
        self.buffers.shrink(needed)
    }

    /// Submits what is queued, cancels all that is in flight and takes its completions. Returns
    /// true if nothing is in flight any more.
    fn quiesce(&mut self) -> bool {
        let deadline = Instant::now() + QUIESCE_WITHIN;
        loop {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            if self.push_plain(cancel, Kind::CancelAll, NO_KEY).is_err() {
                return false;
            }
            let mut cancelled = None;
            while cancelled.is_none() || self.has_work() || !self.uring.completion().is_empty() {
                if Instant::now() >= deadline || self.enter(0, None).is_err() {
                    return false;
                }
                self.take(usize::MAX);
                self.others.retain(|entry| {
                    let is_cancel = kind_of(entry.user_data()) == Kind::CancelAll;
                    if is_cancel {
                        cancelled = Some(entry.result());
                    }
                    !is_cancel
                });
                // Accepted connections are closed.
                while let Some(completion) = self.next_completion() {
                    drop(completion);
                }
            }
            // The number of operations found.
            if cancelled == Some(0) {
                return true;
            }
        }
    }
}

impl<O: Observer> Drop for Ring<O> {
    /// Closing a ring does not end its operations: the kernel does that later, in a worker
    /// (`io_ring_exit_work`, io_uring/io_uring.c). What they refer to outlives them nevertheless:
    /// they have been cancelled and are over, or their memory is never freed.
    fn drop(&mut self) {
        if !self.quiesce() {
            self.buffers.leak();
            std::mem::forget(std::mem::take(&mut self.owned));
            std::mem::forget(Arc::clone(&self.shared));
        }
    }
}

impl<O: Observer> fmt::Debug for Ring<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("uring", &self.uring.as_raw_fd()).finish_non_exhaustive()
    }
}

#[inline]
fn fd_of(fd: impl AsFd) -> Fd {
    Fd(fd.as_fd().as_raw_fd())
}

/// A timeout as the last argument of a traced call.
struct Limit(Option<Duration>);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |limit| write!(f, ", at most {limit:.1?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::OnceLock;

    use super::*;

    const SIZES: Sizes =
        Sizes { submissions: 8, batch: usize::MAX, buffers: 1, buffers_max: 4, buffer_length: 64 };

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    /// None, with a message, if io_uring is not available here and need not be.
    fn ring_with<O: Observer>(sizes: Sizes, observer: O) -> Option<Ring<O>> {
        match Ring::new(sizes, Arc::from(&b"shared memory"[..]), observer) {
            Ok(ring) => Some(ring),
            Err(error) => {
                let required = std::env::var("LOCKSTEP_REQUIRE").unwrap_or_default();
                assert!(!required.contains("io-uring"), "no io_uring: {error}");
                eprintln!("SKIPPED: no io_uring: {error}");
                None
            }
        }
    }

    fn ring() -> Option<Ring> {
        ring_with(SIZES, ())
    }

    /// Waits until there is a completion, and returns the next.
    fn next<O: Observer>(ring: &mut Ring<O>) -> Completion {
        loop {
            if let Some(completion) = ring.next_completion() {
                return completion;
            }
            ring.wait(SECOND).unwrap();
        }
    }

    fn next_buffer(ring: &mut Ring) -> BufferId {
        match next(ring) {
            Completion::Receive { result: Ok(Some(buffer)), .. } => buffer,
            other => panic!("{other:?}"),
        }
    }

    fn is_at_end(mut stream: &UnixStream) -> bool {
        stream.set_read_timeout(SECOND).unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    }

    #[test]
    fn user_data_holds_kind_and_key() {
        let kinds = [
            Kind::Accept,
            Kind::Receive,
            Kind::Send,
            Kind::Poll,
            Kind::Cancel,
            Kind::Close,
            Kind::CancelAll,
        ];
        for kind in kinds {
            for key in [0, 0x1234_5678_9abc, NO_KEY] {
                let data = user_data(kind, key);
                assert_eq!((kind_of(data), data & NO_KEY), (kind, key));
            }
        }
    }

    /// Each operation completes when it is submitted, and so in the order of submission.
    #[test]
    fn completions_of_sends_come_first() {
        let Some(mut ring) = ring() else { return };
        for (kind, key) in
            [(Kind::Poll, 1), (Kind::Send, 2), (Kind::Cancel, 3), (Kind::Poll, 4), (Kind::Send, 5)]
        {
            ring.push_plain(opcode::Nop::new().build(), kind, key).unwrap();
        }
        ring.wait(SECOND).unwrap();
        let mut keys = Vec::new();
        while let Some(completion) = ring.next_completion() {
            keys.push(match completion {
                Completion::Send { key, .. } => (true, key),
                Completion::Poll { key, .. } | Completion::Cancel { key, .. } => (false, key),
                other => panic!("{other:?}"),
            });
        }
        keys[..2].sort_unstable();
        assert_eq!(keys, [(true, 2), (true, 5), (false, 1), (false, 3), (false, 4)]);
    }

    #[test]
    fn full_queue_is_submitted() {
        let Some(mut ring) = ring() else { return };
        for key in 0..100 {
            ring.push_plain(opcode::Nop::new().build(), Kind::Poll, key).unwrap();
        }
        assert!(ring.enters() >= 100 / 8 - 1, "{}", ring.enters());
        for expected in 0..100 {
            let Completion::Poll { key, .. } = next(&mut ring) else { panic!() };
            assert_eq!(key, expected, "completions beyond the queue come in their order");
        }
    }

    #[test]
    fn batch_limits_the_completions_of_a_wait() {
        let Some(mut ring) = ring_with(Sizes { batch: 3, ..SIZES }, ()) else { return };
        for key in 0..7 {
            ring.push_plain(opcode::Nop::new().build(), Kind::Poll, key).unwrap();
        }
        let batches = [(3, false), (3, false), (1, true)];
        for (count, settled) in batches {
            ring.wait(SECOND).unwrap();
            let taken = std::iter::from_fn(|| ring.next_completion()).count();
            assert_eq!((taken, ring.is_settled()), (count, settled));
        }
        assert_eq!(ring.enters(), 1, "no call while completions are there");
    }

    #[test]
    fn receives_fill_buffers_and_recycled_buffers_are_filled_again() {
        let Some(mut ring) = ring() else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ring.receive_multi(7, &ours).unwrap();
        for byte in 0..10 {
            theirs.write_all(&[byte; 5]).unwrap();
            let mut buffer = next_buffer(&mut ring);
            assert_eq!((ring.received(&buffer), buffer.length()), (&[byte; 5][..], 5));
            assert_eq!(ring.buffer(&mut buffer).len(), 64);
            ring.recycle(buffer);
        }
        drop(theirs);
        let end = next(&mut ring);
        assert!(
            matches!(end, Completion::Receive { key: 7, result: Ok(None), more: false, .. }),
            "{end:?}"
        );
    }

    #[test]
    fn without_a_buffer_a_receive_fails_until_the_ring_grows() {
        let Some(mut ring) = ring() else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[1; 100]).unwrap();
        ring.receive(0, &ours, 0).unwrap();
        let first = next_buffer(&mut ring);
        ring.receive(0, &ours, 0).unwrap();
        let none = next(&mut ring);
        assert!(matches!(none, Completion::Receive { result: Err(Errno::NOBUFS), .. }), "{none:?}");
        ring.grow();
        ring.receive(0, &ours, 0).unwrap();
        let second = next_buffer(&mut ring);
        assert_eq!((first.length(), second.length()), (64, 36));
        ring.grow();
        ring.grow();
    }

    #[test]
    fn grown_ring_retires_buffers_that_are_not_needed_and_grows_again() {
        let Some(mut ring) = ring() else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut receive = |ring: &mut Ring, byte| {
            theirs.write_all(&[byte; 5]).unwrap();
            ring.receive(0, &ours, 0).unwrap();
            match next(ring) {
                Completion::Receive { result: Ok(Some(buffer)), .. } => {
                    assert_eq!(ring.received(&buffer), [byte; 5]);
                    Ok(buffer)
                }
                other => Err(other),
            }
        };
        ring.grow();
        ring.grow();
        // The kernel has all four, and no wait has needed one; then they are retired one by one.
        assert!(ring.shrink());
        for byte in 0..20 {
            let buffer = receive(&mut ring, byte).unwrap();
            ring.recycle(buffer);
        }
        assert!(!ring.shrink(), "more than at first");
        let _held = receive(&mut ring, 1).unwrap();
        assert!(receive(&mut ring, 2).is_err(), "one buffer is left of four");
        (&ours).read_exact(&mut [0; 5]).unwrap();
        ring.grow();
        let _held = receive(&mut ring, 3).unwrap();
        assert!(receive(&mut ring, 4).is_err(), "more than two");
    }

    #[test]
    #[should_panic(expected = "a buffer of another ring")]
    fn buffer_goes_back_to_its_own_ring_only() {
        let (Some(mut ring), Some(mut other)) = (ring(), ring()) else {
            panic!("a buffer of another ring cannot be had here");
        };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        ring.receive(0, &ours, 0).unwrap();
        let buffer = next_buffer(&mut ring);
        other.recycle(buffer);
    }

    #[test]
    fn sent_buffer_comes_back_by_itself() {
        let Some(mut ring) = ring_with(Sizes { buffers_max: 1, ..SIZES }, ()) else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ring.receive_multi(0, &ours).unwrap();
        for byte in 0..10 {
            theirs.write_all(&[byte; 9]).unwrap();
            let buffer = next_buffer(&mut ring);
            ring.send_buffer(0, &ours, buffer, 9).unwrap();
            ring.wait(Some(Duration::ZERO)).unwrap();
            assert!(ring.next_completion().is_none(), "a whole send is not reported");
            ring.wait(Some(Duration::ZERO)).unwrap();
            let mut reply = [0; 9];
            theirs.read_exact(&mut reply).unwrap();
            assert_eq!(reply, [byte; 9]);
        }
    }

    /// Fills a socket's send buffer.
    fn fill(mut stream: &UnixStream) {
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 4096]).is_ok() {}
    }

    #[test]
    fn failed_send_is_reported_with_its_buffer_before_the_iteration_changes_twice() {
        let Some(mut ring) = ring() else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"request").unwrap();
        ring.receive(0, &ours, 0).unwrap();
        let buffer = next_buffer(&mut ring);
        fill(&ours);
        let iteration = ring.iteration();
        ring.send_buffer(3, &ours, buffer, 7).unwrap();
        ring.wait(Some(Duration::ZERO)).unwrap();
        assert_eq!(ring.iteration(), iteration + 1);
        let Some(Completion::Send { key: 3, result, bytes: Some(Sent::Buffer(buffer, 7)) }) =
            ring.next_completion()
        else {
            panic!("not reported")
        };
        assert_eq!((result, ring.received(&buffer)), (Err(Errno::AGAIN), &b"request"[..]));
        ring.recycle(buffer);
        ring.wait(Some(Duration::ZERO)).unwrap();
    }

    #[test]
    fn send_all_waits_for_room_and_returns_the_bytes() {
        let Some(mut ring) = ring() else { return };
        let (ours, theirs) = UnixStream::pair().unwrap();
        fill(&ours);
        ring.send_all(5, &ours, Box::from(&b"the rest"[..])).unwrap();
        ring.wait(Some(Duration::ZERO)).unwrap();
        assert!(ring.next_completion().is_none());
        theirs.set_nonblocking(true).unwrap();
        let mut received = Vec::new();
        let _would_block = (&theirs).read_to_end(&mut received);
        let Completion::Send { key: 5, result: Ok(8), bytes: Some(Sent::Bytes(bytes)) } =
            next(&mut ring)
        else {
            panic!("not sent")
        };
        assert_eq!(*bytes, *b"the rest");
    }

    #[test]
    #[should_panic(expected = "not of the shared memory")]
    fn send_shared_takes_shared_memory_only() {
        let Some(mut ring) = ring() else { panic!("not of the shared memory: no ring") };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let shared = Arc::clone(&ring.shared);
        ring.send_shared(0, &ours, &shared[7..]).unwrap();
        ring.wait(Some(Duration::ZERO)).unwrap();
        let mut sent = [0; 6];
        theirs.read_exact(&mut sent).unwrap();
        assert_eq!(sent, *b"memory");
        let _refused = ring.send_shared(0, &ours, b"private");
    }

    /// Leaves a receive, a poll and a send in flight and a close in the queue, and then calls `end`
    /// with the ring.
    fn end_in_flight(end: impl FnOnce(Ring)) {
        let Some(mut ring) = ring() else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (closed, their_closed) = UnixStream::pair().unwrap();
        ring.receive_multi(0, &ours).unwrap();
        ring.poll(0, &closed, libc::POLLIN as u32, true).unwrap();
        fill(&ours);
        ring.send_all(0, &ours, vec![7; 1 << 16].into()).unwrap();
        ring.wait(Some(Duration::ZERO)).unwrap();
        ring.close(closed.into()).unwrap();
        end(ring);
        assert!(is_at_end(&their_closed), "the queued close was not submitted");
        // A receive still in flight would take these bytes.
        theirs.write_all(b"after the end").unwrap();
        let mut received = [0; 64];
        assert_eq!((&ours).read(&mut received).unwrap(), 13);
    }

    #[test]
    fn nothing_is_in_flight_after_a_drop() {
        end_in_flight(drop);
    }

    #[test]
    fn nothing_is_in_flight_after_a_panic() {
        end_in_flight(|ring| {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _ring = ring;
                panic!("as the test wants it");
            }));
            assert!(panicked.is_err());
        });
    }

    #[test]
    fn many_operations_are_cancelled_by_a_drop() {
        let Some(mut ring) = ring() else { return };
        let pairs: Vec<_> = (0..200).map(|_| UnixStream::pair().unwrap()).collect();
        for (ours, _) in &pairs {
            ring.receive_multi(0, ours).unwrap();
        }
        ring.wait(Some(Duration::ZERO)).unwrap();
        assert!(ring.quiesce());
        let start = Instant::now();
        drop(ring);
        assert!(start.elapsed() < QUIESCE_WITHIN, "it waited for too long: {:?}", start.elapsed());
        for (ours, mut theirs) in pairs {
            theirs.write_all(b"x").unwrap();
            assert_eq!((&ours).read(&mut [0; 2]).unwrap(), 1);
        }
    }

    #[test]
    fn accepted_connection_that_is_not_taken_is_closed_by_a_drop() {
        let Some(mut ring) = ring() else { return };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ring.accept(&listener, true).unwrap();
        ring.wait(SECOND).unwrap();
        drop(ring);
        client.set_read_timeout(SECOND).unwrap();
        assert!(matches!(client.read(&mut [0]), Ok(0)), "still open");
    }

    /// Fails the next so many calls.
    struct Failing<'a>(&'a Cell<u32>, i32);

    impl Observer for Failing<'_> {
        fn call(
            &self,
            text: fmt::Arguments<'_>,
            call: impl FnOnce() -> io::Result<usize>,
        ) -> io::Result<usize> {
            if self.0.get() > 0 && text.to_string().starts_with("io_uring_enter") {
                self.0.set(self.0.get() - 1);
                return Err(io::Error::from_raw_os_error(self.1));
            }
            call()
        }
    }

    #[test]
    fn refused_call_is_repeated_and_nothing_is_lost() {
        for errno in [libc::EAGAIN, libc::EBUSY, libc::EINTR, libc::ENOMEM] {
            let failures = Cell::new(0);
            let Some(mut ring) = ring_with(SIZES, Failing(&failures, errno)) else { return };
            failures.set(5);
            for key in 0..20 {
                ring.push_plain(opcode::Nop::new().build(), Kind::Poll, key).unwrap();
            }
            failures.set(2);
            for expected in 0..20 {
                let Completion::Poll { key, .. } = next(&mut ring) else { panic!() };
                assert_eq!(key, expected);
            }
        }
    }

    #[test]
    fn refusals_without_end_are_an_error() {
        for errno in [libc::EAGAIN, libc::EBUSY, libc::ENOMEM] {
            let failures = Cell::new(0);
            let Some(mut ring) = ring_with(SIZES, Failing(&failures, errno)) else { return };
            failures.set(u32::MAX);
            let error = (0..).find_map(|_| {
                let push = ring.push_plain(opcode::Nop::new().build(), Kind::Poll, 0);
                push.and_then(|()| ring.wait(SECOND)).err()
            });
            assert_eq!(error.unwrap().raw_os_error(), Some(errno));
            failures.set(0);
        }
    }

    #[test]
    fn ring_that_cannot_be_quiesced_keeps_its_memory() {
        let failures = Cell::new(0);
        let Some(mut ring) = ring_with(SIZES, Failing(&failures, libc::EBADF)) else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ring.receive_multi(0, &ours).unwrap();
        ring.wait(Some(Duration::ZERO)).unwrap();
        // Reachable for a leak checker.
        static SHARED: OnceLock<Arc<[u8]>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Arc::clone(&ring.shared));
        failures.set(u32::MAX);
        assert_eq!(ring.submit().and_then(|()| ring.wait(SECOND)).map_err(|e| e.kind()).ok(), None);
        drop(ring);
        assert_eq!(Arc::strong_count(shared), 2, "memory that the kernel may read was freed");
        theirs.write_all(b"into the buffer that was kept").unwrap();
    }
}
