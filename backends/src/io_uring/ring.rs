//! Setting up a ring, and putting operations into it.

use std::hint;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::slice;
use std::thread;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring as Uring, cqueue, opcode, squeue};
use lockstep_core::RECV_MAX;

use super::buffers::GROUP;
use crate::slots::Key;
use crate::trace::{NONE, Trace, quoted};

/// Slots of the submission queue; when it is full, what is in it is submitted.
const SUBMISSIONS: u32 = 4096;

/// Slots of the completion queue. What does not fit is kept by the kernel and comes later.
const COMPLETIONS: u32 = 4 * SUBMISSIONS;

/// How often, and after how long, a full queue is submitted again when the kernel took nothing.
const SUBMIT_TRIES: u32 = 100;
const TRY_AGAIN: Duration = Duration::from_millis(1);

/// The flag that decides which kernels will do: Linux 6.1 has it.
pub(super) const FLAG: &str = "DEFER_TASKRUN";

/// Makes a ring. It must be used on the thread that made it (SINGLE_ISSUER).
///
/// # Errors
///
/// Of io_uring_setup(2); `EINVAL` before Linux 6.1.
pub(super) fn set_up(trace: impl Trace) -> io::Result<Uring> {
    let call = format_args!("io_uring_setup({SUBMISSIONS}, {FLAG})");
    let ring = || {
        Uring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
    };
    trace.call_for(NONE, call, ring, AsRawFd::as_raw_fd)
}

/// What a completion is of; with the connection's key it makes up the `user_data`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Kind {
    Accept,
    Receive,
    Send,
    /// The stop signal's descriptor is readable.
    Stop,
    /// The cancelling of a receive.
    Cancel,
    CancelAccept,
    /// Reported only if it fails.
    Close,
}

/// Packs what a completion will be of.
pub(super) const fn user_data(kind: Kind, key: Key) -> u64 {
    ((kind as u64) << 56) | key.pack()
}

/// Unpacks what a completion is of.
pub(super) fn of(completion: &cqueue::Entry) -> (Kind, Key) {
    let data = completion.user_data();
    let kind = match data >> 56 {
        0 => Kind::Accept,
        1 => Kind::Receive,
        2 => Kind::Send,
        3 => Kind::Stop,
        4 => Kind::Cancel,
        5 => Kind::CancelAccept,
        _ => Kind::Close,
    };
    (kind, Key::unpack(data))
}

const NOBODY: Key = Key { index: 0, generation: 0 };

/// A ring and the operations a shard uses. They are queued, and submitted by [`wait`](Self::wait)
/// or when the queue is full.
pub(super) struct Ring<T> {
    ring: Uring,
    trace: T,
    /// Calls of io_uring_enter(2).
    pub(super) enters: u64,
}

impl<T: Trace> Ring<T> {
    pub(super) fn new(ring: Uring, trace: T) -> Self {
        Self { ring, trace, enters: 0 }
    }

    /// Queues operations, all or none: what is linked must not be torn by a submission in between.
    ///
    /// # Safety
    ///
    /// What they point to must stay valid, and unwritten, until their completions are seen.
    unsafe fn push(&mut self, entries: &[squeue::Entry]) -> io::Result<()> {
        // SAFETY: as for the caller.
        while unsafe { self.ring.submission().push_multiple(entries) }.is_err() {
            self.submit()?;
        }
        Ok(())
    }

    /// Makes room in the queue.
    ///
    /// # Errors
    ///
    /// What io_uring_enter(2) says; that memory is short only if it stays so for a while.
    fn submit(&mut self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            self.enters += 1;
            let (trace, queued) = (self.trace, self.queued());
            let span = trace.begin(NONE);
            let submitted = self.ring.submit();
            if let Some(span) = span {
                let call = format_args!("io_uring_enter(submit {queued})");
                span.returned(call, submitted.as_ref());
            }
            match submitted {
                Err(error) if tries < SUBMIT_TRIES => passing(error)?,
                result => return result.map(drop),
            };
            tries += 1;
            thread::sleep(TRY_AGAIN);
        }
    }

    /// How many operations are queued, if anybody is told.
    #[inline(always)]
    fn queued(&mut self) -> usize {
        if self.trace.tracer().is_some() { self.ring.submission().len() } else { 0 }
    }

    /// Tells of a send that is queued.
    ///
    /// # Safety
    ///
    /// The bytes must be valid and unwritten.
    #[inline(always)]
    unsafe fn tell_send(&self, fd: RawFd, bytes: *const u8, length: u16, flags: &str) {
        if let Some(tracer) = self.trace.tracer() {
            // SAFETY: as for the caller.
            let bytes = unsafe { slice::from_raw_parts(bytes, length.into()) };
            let shown = quoted(bytes);
            tracer.note(fd, format_args!("submit SEND fd={fd} {shown} {length}{flags}"));
        }
    }

    fn push_plain(&mut self, entry: squeue::Entry, kind: Kind, key: Key) -> io::Result<()> {
        // SAFETY: the entry points to nothing.
        unsafe { self.push(&[entry.user_data(user_data(kind, key))]) }
    }

    /// Accepts a connection or, with `many`, one after the other until it is cancelled or fails.
    pub(super) fn accept(&mut self, listener: RawFd, many: bool) -> io::Result<()> {
        let multishot = if many { " MULTISHOT" } else { "" };
        self.trace.note(listener, format_args!("submit ACCEPT fd={listener}{multishot}"));
        let entry = if many {
            opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build()
        } else {
            let nobody = std::ptr::null_mut(); // nobody asks for the peer's address
            opcode::Accept::new(Fd(listener), nobody, nobody.cast())
                .flags(libc::SOCK_CLOEXEC)
                .build()
        };
        self.push_plain(entry, Kind::Accept, NOBODY)
    }

    pub(super) fn cancel_accept(&mut self) -> io::Result<()> {
        self.trace.note(NONE, format_args!("submit ASYNC_CANCEL of ACCEPT"));
        let entry = opcode::AsyncCancel::new(user_data(Kind::Accept, NOBODY)).build();
        self.push_plain(entry, Kind::CancelAccept, NOBODY)
    }

    /// Receives into a buffer of the kernel's choice.
    pub(super) fn receive(&mut self, key: Key, fd: RawFd) -> io::Result<()> {
        self.trace.note(fd, format_args!("submit RECV fd={fd} {RECV_MAX}"));
        self.push_plain(receive(fd, 0), Kind::Receive, key)
    }

    /// As [`receive`](Self::receive), one request after the other until it is cancelled or fails.
    pub(super) fn receive_all(&mut self, key: Key, fd: RawFd) -> io::Result<()> {
        self.trace.note(fd, format_args!("submit RECV fd={fd} MULTISHOT"));
        let entry = opcode::RecvMulti::new(Fd(fd), GROUP).build();
        self.push_plain(entry, Kind::Receive, key)
    }

    /// As [`receive`](Self::receive), but only what is there already: else it fails with EAGAIN.
    pub(super) fn receive_now(&mut self, key: Key, fd: RawFd) -> io::Result<()> {
        self.trace.note(fd, format_args!("submit RECV fd={fd} {RECV_MAX} MSG_DONTWAIT"));
        self.push_plain(receive(fd, libc::MSG_DONTWAIT), Kind::Receive, key)
    }

    /// Takes a receive back, if it waits. One that does not wait yet, or no longer, is not found.
    pub(super) fn cancel_receive(&mut self, key: Key, fd: RawFd) -> io::Result<()> {
        self.trace.note(fd, format_args!("submit ASYNC_CANCEL of RECV fd={fd}"));
        let entry = opcode::AsyncCancel::new(user_data(Kind::Receive, key)).build();
        self.push_plain(entry, Kind::Cancel, key)
    }

    /// Sends what the socket takes at once. There is a completion only if that was not all.
    ///
    /// # Safety
    ///
    /// The bytes must stay valid and unwritten until the next [`wait`](Self::wait) has returned.
    pub(super) unsafe fn send_unreported(
        &mut self,
        key: Key,
        fd: RawFd,
        bytes: *const u8,
        length: u16,
    ) -> io::Result<()> {
        // SAFETY: as for the caller.
        unsafe { self.tell_send(fd, bytes, length, " CQE_SKIP_SUCCESS") };
        let entry = send(fd, bytes, length, libc::MSG_WAITALL | libc::MSG_DONTWAIT)
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(user_data(Kind::Send, key));
        // SAFETY: as for the caller.
        unsafe { self.push(&[entry]) }
    }

    /// Sends all of the bytes, however long that takes.
    ///
    /// # Safety
    ///
    /// The bytes must stay valid and unwritten until the completion is seen.
    pub(super) unsafe fn send(
        &mut self,
        key: Key,
        fd: RawFd,
        bytes: *const u8,
        length: u16,
    ) -> io::Result<()> {
        // SAFETY: as for the caller.
        unsafe { self.tell_send(fd, bytes, length, "") };
        let entry =
            send(fd, bytes, length, libc::MSG_WAITALL).user_data(user_data(Kind::Send, key));
        // SAFETY: as for the caller.
        unsafe { self.push(&[entry]) }
    }

    /// close(2); nothing of the socket may be in flight.
    pub(super) fn close(&mut self, fd: RawFd) -> io::Result<()> {
        self.trace.note(fd, format_args!("submit CLOSE fd={fd} CQE_SKIP_SUCCESS"));
        let entry = opcode::Close::new(Fd(fd)).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push_plain(entry, Kind::Close, NOBODY)
    }

    /// Completes when the descriptor becomes readable.
    pub(super) fn poll_stop(&mut self, fd: RawFd) -> io::Result<()> {
        self.trace.note(NONE, format_args!("submit POLL_ADD fd={fd} (the stop signal)"));
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).build();
        self.push_plain(entry, Kind::Stop, NOBODY)
    }

    /// Looks for completions until there are some, or until `is_over`; says whether there are.
    ///
    /// No call is needed for it: the kernel shows a completion, or that there is work to be done
    /// for one (IORING_SQ_TASKRUN), in memory.
    pub(super) fn look(&mut self, mut is_over: impl FnMut() -> bool) -> bool {
        let span = self.trace.begin(NONE);
        let found = loop {
            if self.ring.submission().taskrun() || !self.ring.completion().is_empty() {
                break true;
            }
            if is_over() {
                break false;
            }
            hint::spin_loop();
        };
        if let Some(span) = span {
            let what = if found { "something" } else { "nothing" };
            span.done(format_args!("look for completions -> {what}"));
        }
        found
    }

    /// Submits what is queued and waits for `count` completions, at most for `timeout`; moves all
    /// there are to `completions`. Says whether the kernel holds something back: completions that
    /// did not fit, or what it did not take when memory was short.
    pub(super) fn wait(
        &mut self,
        count: usize,
        timeout: Option<Duration>,
        completions: &mut Vec<cqueue::Entry>,
    ) -> io::Result<bool> {
        self.enters += 1;
        let (trace, queued) = (self.trace, self.queued());
        let span = trace.begin(NONE);
        let submitter = self.ring.submitter();
        let submitted = match timeout {
            None => submitter.submit_and_wait(count),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                submitter.submit_with_args(count, &SubmitArgs::new().timespec(&timeout))
            }
        };
        if let Some(span) = span {
            let limit = timeout.map_or_else(String::new, |it| format!(", at most {it:.1?}"));
            let call = format_args!("io_uring_enter(submit {queued}, wait {count}{limit})");
            span.returned(call, submitted.as_ref());
        }
        submitted.or_else(passing)?;
        completions.extend(self.ring.completion());
        let submission = self.ring.submission();
        Ok(submission.cq_overflow() || !submission.is_empty())
    }
}

/// The errors of io_uring_enter(2) after which one just goes on: the time is over, a signal came,
/// memory is short, or completions have to be taken first.
fn passing(error: io::Error) -> io::Result<usize> {
    match error.raw_os_error() {
        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(0),
        _ => Err(error),
    }
}

fn receive(fd: RawFd, flags: libc::c_int) -> squeue::Entry {
    opcode::Recv::new(Fd(fd), std::ptr::null_mut(), RECV_MAX as u32)
        .flags(flags)
        .buf_group(GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}

fn send(fd: RawFd, bytes: *const u8, length: u16, flags: libc::c_int) -> squeue::Entry {
    opcode::Send::new(Fd(fd), bytes, length.into()).flags(flags | libc::MSG_NOSIGNAL).build()
}
