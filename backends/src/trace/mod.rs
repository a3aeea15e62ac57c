//! Telling what system calls are made, for who wants to see what a server does.
//!
//! A loop takes its [`Trace`] as a type, and so is compiled twice: with [`Silent`], for which
//! nothing of this is left in the code, and with a [`Narrator`]. What is told is what the call
//! itself was given and has returned; nothing is told that was not done.

use std::fmt::{self, Display};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};

mod narrator;

pub use narrator::Narrator;
pub(crate) use narrator::{Told, quoted};

/// Stands for a descriptor where a call has none.
pub(crate) const NONE: RawFd = -1;

/// Who is told of system calls.
pub(crate) trait Trace: Copy + Send + Sync {
    /// The one who is told; none for [`Silent`], which the compiler knows.
    fn narrator(&self) -> Option<&Narrator>;

    /// Begins to tell of a call on `fd`, just before it is made.
    #[inline(always)]
    fn begin(&self, fd: RawFd) -> Option<Told<'_>> {
        self.narrator().map(|narrator| narrator.begin(fd))
    }

    /// Tells of something on `fd` that is no call by itself.
    #[inline(always)]
    fn note(&self, fd: RawFd, what: fmt::Arguments<'_>) {
        if let Some(narrator) = self.narrator() {
            narrator.note(fd, what);
        }
    }

    /// Makes a call on `fd` that returns nothing but success.
    #[inline(always)]
    fn call(
        &self,
        fd: RawFd,
        name_and_args: fmt::Arguments<'_>,
        call: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.call_for(fd, name_and_args, call, |()| 0)
    }

    /// Makes a call on `fd` that returns what `value` makes of its result.
    #[inline(always)]
    fn call_for<R, V: Display>(
        &self,
        fd: RawFd,
        name_and_args: fmt::Arguments<'_>,
        call: impl FnOnce() -> io::Result<R>,
        value: impl FnOnce(&R) -> V,
    ) -> io::Result<R> {
        let told = self.begin(fd);
        let result = call();
        if let Some(told) = told {
            told.returned(name_and_args, result.as_ref().map(value));
        }
        result
    }

    /// Makes a call that accepts a connection; `socket` is the descriptor in its result.
    #[inline(always)]
    fn accept<R>(
        &self,
        listener: impl AsFd,
        call: impl FnOnce() -> io::Result<R>,
        socket: impl FnOnce(&R) -> RawFd,
    ) -> io::Result<R> {
        let fd = listener.as_fd().as_raw_fd();
        let told = self.begin(fd);
        let result = call();
        if let Some(told) = told {
            let value = result.as_ref().map(socket);
            let told = match value {
                Ok(socket) => told.of_new(socket),
                Err(_) => told,
            };
            told.returned(format_args!("accept({fd})"), value);
        }
        result
    }

    /// close(2): drops the socket, which does not say how that went.
    #[inline(always)]
    fn close(&self, socket: impl AsFd) {
        let fd = socket.as_fd().as_raw_fd();
        let told = self.begin(fd);
        drop(socket);
        if let Some(told) = told {
            told.done(format_args!("close({fd})"));
        }
    }
}

/// Nobody is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silent;

impl Trace for Silent {
    #[inline(always)]
    fn narrator(&self) -> Option<&Narrator> {
        None
    }
}

impl Trace for Option<&Narrator> {
    fn narrator(&self) -> Option<&Narrator> {
        *self
    }
}

/// A socket whose receives and sends are told.
pub(crate) struct Traced<S, T> {
    pub(crate) socket: S,
    pub(crate) trace: T,
}

impl<S: AsFd, T: Trace> Traced<S, T> {
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }

    /// Makes another call on the socket; `call` formats as its name and the arguments after the
    /// descriptor.
    pub(crate) fn call(
        &self,
        name: &str,
        args: impl Display,
        call: impl FnOnce(&S) -> io::Result<()>,
    ) -> io::Result<()> {
        let fd = self.fd();
        self.trace.call(fd, format_args!("{name}({fd}, {args})"), || call(&self.socket))
    }
}

impl<S: AsFd + Read, T: Trace> Read for Traced<S, T> {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fd = self.fd();
        let told = self.trace.begin(fd);
        let result = self.socket.read(buffer);
        if let Some(told) = told {
            let value = |count: &usize| format!("{count} {}", quoted(&buffer[..*count]));
            told.returned(format_args!("recv({fd}, {})", buffer.len()), result.as_ref().map(value));
        }
        result
    }
}

impl<S: AsFd + Write, T: Trace> Write for Traced<S, T> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.fd();
        let told = self.trace.begin(fd);
        let result = self.socket.write(bytes);
        if let Some(told) = told {
            let call = format_args!("send({fd}, {}, {})", quoted(bytes), bytes.len());
            told.returned(call, result.as_ref());
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // a socket has nothing to flush
    }
}
