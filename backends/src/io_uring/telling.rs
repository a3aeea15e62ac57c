//! What is told of a shard's completions, and of the bytes in its submissions.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::cqueue;

use super::Loop;
use super::ring::Kind;
use crate::slots::Key;
use crate::trace::{NONE, Trace, quoted};
use lockstep_sys::errno::name_of;

impl<T: Trace> Loop<'_, T> {
    /// Tells of a completion, before anything is done about it.
    #[inline(always)]
    pub(super) fn tell(&mut self, kind: Kind, key: Key, completion: &cqueue::Entry) {
        let trace = self.trace;
        let Some(tracer) = trace.tracer() else { return };
        let fd = match kind {
            Kind::Receive | Kind::Send | Kind::Cancel => {
                self.connections.get_mut(key).map_or(NONE, |connection| connection.fd)
            }
            Kind::Accept => self.listener.as_ref().map_or(NONE, AsRawFd::as_raw_fd),
            Kind::Stop | Kind::CancelAccept | Kind::Close => NONE,
        };
        let result = completion.result();
        let shown = match cqueue::buffer_select(completion.flags()) {
            Some(index) if result >= 0 => {
                format!(" {}", quoted(&self.buffers.buffer(index)[..result as usize]))
            }
            _ => String::new(),
        };
        let more = if cqueue::more(completion.flags()) { " F_MORE" } else { "" };
        let fd_shown = if fd == NONE { String::new() } else { format!(" fd={fd}") };
        let told_of = match kind {
            Kind::Accept if result >= 0 => {
                tracer.register(result);
                result
            }
            _ => fd,
        };
        let (name, result) = (name(kind), outcome(result));
        tracer.note(told_of, format_args!("complete {name}{fd_shown} -> {result}{shown}{more}"));
    }
}

/// The operation's name, as io_uring_enter(2) has it.
const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Accept => "ACCEPT",
        Kind::Receive => "RECV",
        Kind::Send => "SEND",
        Kind::Stop => "POLL_ADD",
        Kind::Cancel | Kind::CancelAccept => "ASYNC_CANCEL",
        Kind::Close => "CLOSE",
    }
}

/// A completion's result: a number, or an error's.
fn outcome(result: i32) -> String {
    match result {
        0.. => result.to_string(),
        error => format!("-{}", name_of(&io::Error::from_raw_os_error(-error))),
    }
}
