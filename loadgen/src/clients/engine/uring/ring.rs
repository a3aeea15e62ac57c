//! The ring of one thread: setting it up, putting operations into it, taking completions out.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::super::driver::EVENTS_MAX;
use super::buffers::GROUP;

/// Slots of the submission queue, at least and at most; when it is full, what is in it is
/// submitted. They are used in turn: the fewer, the better they stay in the processor's cache.
const SUBMISSIONS: (usize, usize) = (64, 1024);

/// Slots of the completion queue for each of the submission queue's. What does not fit is kept by
/// the kernel and comes later.
const COMPLETIONS_EACH: u32 = 4;

/// How long the kernel has for a receive whose bytes are there.
const PROBE_MAX: Duration = Duration::from_secs(5);

type Builder = io_uring::Builder;
type SetFlags = fn(&mut Builder) -> &mut Builder;

/// How to ask for a ring, the best first. What a kernel can do is found by trying, since
/// distributions carry features to older versions (`io_uring_setup(2)`).
const LADDER: [SetFlags; 2] = [
    // Linux 6.1: completions are worked on only when the thread asks for them.
    |builder| builder.setup_single_issuer().setup_defer_taskrun(),
    // Linux 5.19: they do not interrupt it, at least.
    Builder::setup_coop_taskrun,
];

/// What a completion is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Operation {
    /// A descriptor that wakes the thread is readable.
    Wake,
    /// The pacer's timer has expired.
    Timer,
    /// The end of connect(2).
    Connect,
    Receive,
    /// Reported only if it fails.
    Send,
    /// Reported only if it fails.
    Close,
}

/// What comes back with a completion: the operation, and the connection in one of its lives, for
/// a completion can come when the connection has another socket already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Token {
    pub(super) operation: Operation,
    /// [`GENERATION_BITS`] of it.
    pub(super) generation: u32,
    pub(super) index: u32,
}

/// How many bits of `user_data` are left beside the operation and the index.
const GENERATION_BITS: u32 = 24;

/// The generation after this one.
pub(super) const fn generation_after(generation: u32) -> u32 {
    (generation + 1) & ((1 << GENERATION_BITS) - 1)
}

impl Token {
    /// Of what belongs to no connection.
    pub(super) const fn of_nobody(operation: Operation) -> Self {
        Self { operation, generation: 0, index: 0 }
    }

    #[inline]
    const fn pack(self) -> u64 {
        ((self.operation as u64) << 56) | ((self.generation as u64) << 32) | self.index as u64
    }

    #[inline]
    pub(super) fn of(completion: &cqueue::Entry) -> Self {
        Self::unpack(completion.user_data())
    }

    #[inline]
    const fn unpack(data: u64) -> Self {
        let operation = match data >> 56 {
            0 => Operation::Wake,
            1 => Operation::Timer,
            2 => Operation::Connect,
            3 => Operation::Receive,
            4 => Operation::Send,
            _ => Operation::Close,
        };
        let generation = (data >> 32) as u32 & ((1 << GENERATION_BITS) - 1);
        Self { operation, generation, index: data as u32 }
    }
}

/// Makes a ring with the best flags the kernel takes. It must be used on the thread that made it
/// (SINGLE_ISSUER).
///
/// # Errors
///
/// What io_uring_setup(2) says when even the plainest ring is refused.
pub(super) fn set_up(conns: usize) -> io::Result<IoUring> {
    let submissions = conns.next_power_of_two().clamp(SUBMISSIONS.0, SUBMISSIONS.1) as u32;
    let mut refused = None;
    for flags in LADDER {
        let mut builder = IoUring::builder();
        builder.setup_taskrun_flag().setup_submit_all();
        builder.setup_clamp().setup_cqsize(COMPLETIONS_EACH * submissions);
        match flags(&mut builder).build(submissions) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            result => return result,
        }
    }
    Err(refused.expect("the ladder has rungs"))
}

/// A ring. Operations are queued, and submitted by [`wait`](Self::wait) or when the queue is full.
pub(super) struct Ring {
    ring: IoUring,
    /// The errno for which an operation could not be queued; the next wait says so.
    trouble: Option<i32>,
}

impl Ring {
    pub(super) fn new(ring: IoUring) -> Self {
        Self { ring, trouble: None }
    }

    /// Queues an operation.
    ///
    /// # Safety
    ///
    /// What the operation points to must stay valid, and unwritten, until it is over.
    #[inline]
    unsafe fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.pack());
        // SAFETY: as for the caller.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            if !self.submit() {
                return;
            }
        }
    }

    /// Submits what is queued; says whether the kernel took it.
    #[cold]
    pub(super) fn submit(&mut self) -> bool {
        match self.ring.submit() {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => true,
            Err(error) => {
                self.trouble = error.raw_os_error();
                false
            }
        }
    }

    /// Completes each time that the descriptor becomes readable, until it says otherwise.
    pub(super) fn watch(&mut self, fd: RawFd, operation: Operation) {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build();
        // SAFETY: the operation points to nothing.
        unsafe { self.push(entry, Token::of_nobody(operation)) }
    }

    /// Completes once with what of these events is so.
    pub(super) fn poll(&mut self, fd: RawFd, events: u32, token: Token) {
        let entry = opcode::PollAdd::new(Fd(fd), events).build();
        // SAFETY: the operation points to nothing.
        unsafe { self.push(entry, token) }
    }

    /// Receives into buffers of the kernel's choice, whenever something comes, until it says
    /// otherwise.
    pub(super) fn receive(&mut self, fd: RawFd, token: Token) {
        let entry = opcode::RecvMulti::new(Fd(fd), GROUP).build();
        // SAFETY: the operation points to nothing.
        unsafe { self.push(entry, token) }
    }

    /// Sends all of the bytes, however long the socket takes; MSG_WAITALL is what makes less than
    /// all an error (`io_uring_prep_send(3)`), and only errors are reported.
    ///
    /// # Safety
    ///
    /// The bytes must stay valid and unwritten as long as the ring is there.
    #[inline]
    pub(super) unsafe fn send(&mut self, fd: RawFd, bytes: &[u8], token: Token) {
        let entry = opcode::Send::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: as for the caller.
        unsafe { self.push(entry, token) }
    }

    /// Closes a descriptor after what was queued for it before: so it is nobody else's until then.
    pub(super) fn close(&mut self, fd: RawFd) {
        let entry = opcode::Close::new(Fd(fd)).build().flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the operation points to nothing.
        unsafe { self.push(entry, Token::of_nobody(Operation::Close)) }
    }

    /// Submits what is queued and waits for a completion, at most that long; then takes those
    /// there are.
    ///
    /// # Errors
    ///
    /// Of io_uring_enter(2), also what it said when the queue was full.
    pub(super) fn wait(
        &mut self,
        longest: Duration,
        completions: &mut Vec<cqueue::Entry>,
    ) -> io::Result<()> {
        if let Some(trouble) = self.trouble {
            return Err(io::Error::from_raw_os_error(trouble));
        }
        let there = !self.ring.completion().is_empty();
        let submitter = self.ring.submitter();
        let entered = if !there && !longest.is_zero() {
            let timeout = Timespec::from(longest);
            submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
        } else if self.has_work() {
            self.ring.submitter().submit()
        } else {
            Ok(0)
        };
        entered.or_else(passing)?;
        completions.extend(self.ring.completion().take(EVENTS_MAX));
        Ok(())
    }

    /// Tries a receive that goes on after the first bytes.
    pub(super) fn probe_receive(&mut self) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        (&theirs).write_all(b"1")?;
        self.receive(ours.as_raw_fd(), Token::of_nobody(Operation::Receive));
        let mut completions = Vec::new();
        self.wait(PROBE_MAX, &mut completions)?;
        match completions.first().map(cqueue::Entry::result) {
            Some(1) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Whether operations are queued.
    pub(super) fn has_queued(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether the kernel has something to do for us: what is queued, completions to be worked on
    /// (IORING_SQ_TASKRUN), or some that did not fit. It shows that in memory.
    fn has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }
}

/// The errors of io_uring_enter(2) after which one just goes on: the time is over, a signal came,
/// or completions have to be taken first.
fn passing(error: io::Error) -> io::Result<usize> {
    match error.raw_os_error() {
        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(0),
        _ => Err(error),
    }
}

impl Drop for Ring {
    /// Closes what is to be closed.
    fn drop(&mut self) {
        self.submit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was() {
        assert_eq!(generation_after((1 << 24) - 1), 0);
        for operation in [
            Operation::Wake,
            Operation::Timer,
            Operation::Connect,
            Operation::Receive,
            Operation::Send,
            Operation::Close,
        ] {
            let token = Token { operation, generation: (1 << 24) - 1, index: u32::MAX - 1 };
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
