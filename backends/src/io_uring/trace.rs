//! Lines of `--trace` about submissions and completions.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use lockstep_sys::errno::name_of;
use lockstep_sys::uring::{Completion, Observer, Ring};
use rustix::io::Errno;

use crate::Tracer;
use crate::trace::{NONE, Trace, quoted};

/// Traces io_uring_setup(2) and io_uring_enter(2).
#[derive(Clone, Copy)]
pub(super) struct Enters<T>(pub(super) T);

impl<T: Trace> Observer for Enters<T> {
    #[inline(always)]
    fn call(
        &self,
        text: fmt::Arguments<'_>,
        call: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.0.call_for(NONE, text, call, usize::clone)
    }
}

/// Traces the submission of a receive.
#[inline(always)]
pub(super) fn note_receive(trace: impl Trace, socket: impl AsFd, how: &str) {
    let fd = socket.as_fd().as_raw_fd();
    trace.note(fd, format_args!("submit RECV fd={fd} {how}"));
}

/// Traces the submission of a send.
#[inline(always)]
pub(super) fn note_send(trace: impl Trace, socket: impl AsFd, bytes: &[u8], flags: &str) {
    if let Some(tracer) = trace.tracer() {
        let (fd, shown, length) = (socket.as_fd().as_raw_fd(), quoted(bytes), bytes.len());
        tracer.note(fd, format_args!("submit SEND fd={fd} {shown} {length}{flags}"));
    }
}

/// Traces a completion of an operation on `fd`. An accepted connection gets its number.
pub(super) fn completion<O: Observer>(
    tracer: &Tracer,
    completion: &Completion,
    fd: Option<RawFd>,
    ring: &Ring<O>,
) {
    let mut connection = fd.unwrap_or(NONE);
    let (name, result, more) = match completion {
        Completion::Receive { result, more, .. } => {
            let result = result.as_ref().map(|buffer| match buffer {
                Some(buffer) => {
                    let bytes = ring.received(buffer);
                    format!("{} {}", bytes.len(), quoted(bytes))
                }
                None => "0".to_owned(),
            });
            ("RECV", result.map_err(|error| *error), *more)
        }
        Completion::Accept { result, more } => {
            if let Ok(socket) = result {
                connection = socket.as_raw_fd();
                tracer.register(connection);
            }
            let result = result.as_ref().map(|socket| socket.as_raw_fd().to_string());
            ("ACCEPT", result.map_err(|error| *error), *more)
        }
        Completion::Send { result, .. } => ("SEND", text_of(*result), false),
        Completion::Poll { result, more, .. } => ("POLL_ADD", text_of(*result), *more),
        Completion::Cancel { result, .. } => ("ASYNC_CANCEL", text_of(*result), false),
        Completion::Close { result } => ("CLOSE", text_of(*result), false),
    };
    let fd = fd.map_or_else(String::new, |fd| format!(" fd={fd}"));
    let result = result.unwrap_or_else(|error| format!("-{}", name_of(&error.into())));
    let more = if more { " F_MORE" } else { "" };
    tracer.note(connection, format_args!("complete {name}{fd} -> {result}{more}"));
}

fn text_of(result: Result<u32, Errno>) -> Result<String, Errno> {
    result.map(|value| value.to_string())
}
