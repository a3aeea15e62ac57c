//! Tracing of system calls (`--trace`): one line for each call, on standard error.
//!
//! A loop takes its [`Trace`] as a type, and so is compiled twice: with [`NoTrace`], which leaves
//! nothing of it in the code, and with a [`Tracer`]. A traced call is the call itself with its
//! arguments and its result; nothing is printed that was not done.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lockstep_sys::errno::name_of;

use crate::output::{Stream, print};
use crate::terminal::escaped;

/// Stands for the descriptor of a call that has none.
pub(crate) const NONE: RawFd = -1;

/// Characters shown of a request or a reply.
const SHOWN: usize = 40;

/// Prints system calls, one line each: the time when the call returned, since the tracer was made;
/// the connection, numbered in the order of accepting; the call, its arguments and its result; and
/// its duration.
///
/// ```
/// # use std::os::fd::AsRawFd;
/// # use std::io::Read;
/// # use lockstep_backends::Tracer;
/// # fn traced_read(
/// #     socket: &mut std::net::TcpStream,
/// #     buffer: &mut [u8],
/// #     tracer: Option<&Tracer>, // Shard::tracer
/// # ) -> std::io::Result<usize> {
/// let fd = socket.as_raw_fd();
/// let span = tracer.map(|tracer| tracer.begin(fd));
/// let result = socket.read(buffer);
/// if let Some(span) = span {
///     span.returned(format_args!("recv({fd}, {})", buffer.len()), result.as_ref());
/// }
/// result
/// # }
/// ```
#[derive(Debug)]
pub struct Tracer {
    made: Instant,
    /// Printed for calls on no connection.
    name: &'static str,
    connections: Mutex<Connections>,
}

/// Numbers of the connections, by descriptor. A descriptor that is used again gets a new number.
#[derive(Debug, Default)]
struct Connections {
    count: u64,
    numbers: HashMap<RawFd, u64>,
}

impl Tracer {
    /// Starts the clock. `name` is printed for calls on no connection.
    pub fn new(name: &'static str) -> Self {
        Self { made: Instant::now(), name, connections: Mutex::default() }
    }

    /// Starts the span of a call on `fd`, just before the call.
    pub fn begin(&self, fd: RawFd) -> Span<'_> {
        Span { tracer: self, number: self.number(fd), start: Instant::now() }
    }

    /// Prints an event on `fd` that is not a call and has no duration.
    pub fn note(&self, fd: RawFd, event: fmt::Arguments<'_>) {
        self.print(self.number(fd), event, format_args!(""));
    }

    /// Gives the connection just accepted on `fd` the next number, and returns it.
    pub(crate) fn register(&self, fd: RawFd) -> u64 {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.count += 1;
        let number = connections.count;
        connections.numbers.insert(fd, number);
        number
    }

    fn number(&self, fd: RawFd) -> Option<u64> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.numbers.get(&fd).copied()
    }

    /// Writes a line with one write(2), so that the lines of threads do not mix. The clock is read
    /// under the lock, so that the times never go back.
    fn print(&self, number: Option<u64>, event: fmt::Arguments<'_>, took: fmt::Arguments<'_>) {
        let name = number.map_or_else(|| self.name.to_owned(), |number| format!("conn {number}"));
        let _closed_pipe = print(Stream::Err, || {
            let at = self.made.elapsed().as_secs_f64();
            format!("{at:>10.6} s  {name:<8}  {event}{took}\n")
        });
    }
}

/// A system call in progress, printed when it has returned.
#[derive(Debug)]
#[must_use = "a span is printed only when the call has returned"]
pub struct Span<'a> {
    tracer: &'a Tracer,
    /// Looked up before the call: after a close, the descriptor can be another connection's.
    number: Option<u64>,
    start: Instant,
}

impl Span<'_> {
    /// Gives the connection that the call accepted its number.
    pub fn accepted(self, socket: RawFd) -> Self {
        Self { number: Some(self.tracer.register(socket)), ..self }
    }

    /// Prints the call and its result.
    pub fn returned<V: Display>(self, call: fmt::Arguments<'_>, result: Result<V, &io::Error>) {
        match result {
            Ok(value) => self.done(format_args!("{call} -> {value}")),
            Err(error) => self.done(format_args!("{call} -> -1 {}", name_of(error))),
        }
    }

    /// Prints a call whose result is unknown, or part of `call`.
    pub fn done(self, call: fmt::Arguments<'_>) {
        let took = Took(self.start.elapsed());
        self.tracer.print(self.number, call, format_args!("  {took}"));
    }
}

/// Duration of a call, in a unit that needs few digits.
struct Took(Duration);

impl Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            short if short < Duration::from_millis(10) => write!(f, "{} us", short.as_micros()),
            long if long < Duration::from_secs(10) => write!(f, "{} ms", long.as_millis()),
            longer => write!(f, "{} s", longer.as_secs()),
        }
    }
}

/// The first [`SHOWN`] characters of the bytes, in quotes and on one line.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let text = escaped(bytes).replace('"', "\\\"");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("\"{}\"...", &text[..end]),
        None => format!("\"{text}\""),
    }
}

/// A tracer, or none, as a type.
pub(crate) trait Trace: Copy + Send + Sync {
    /// The tracer; always none for [`NoTrace`], which the compiler knows.
    fn tracer(&self) -> Option<&Tracer>;

    /// Starts the span of a call on `fd`, just before the call.
    #[inline(always)]
    fn begin(&self, fd: RawFd) -> Option<Span<'_>> {
        self.tracer().map(|tracer| tracer.begin(fd))
    }

    /// Prints an event on `fd` that is not a call and has no duration.
    #[inline(always)]
    fn note(&self, fd: RawFd, event: fmt::Arguments<'_>) {
        if let Some(tracer) = self.tracer() {
            tracer.note(fd, event);
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

    /// Makes a call on `fd`; `value` extracts the printed value from its result.
    #[inline(always)]
    fn call_for<R, V: Display>(
        &self,
        fd: RawFd,
        name_and_args: fmt::Arguments<'_>,
        call: impl FnOnce() -> io::Result<R>,
        value: impl FnOnce(&R) -> V,
    ) -> io::Result<R> {
        let span = self.begin(fd);
        let result = call();
        if let Some(span) = span {
            span.returned(name_and_args, result.as_ref().map(value));
        }
        result
    }

    /// Makes a call that accepts a connection; `socket` extracts the descriptor from its result.
    #[inline(always)]
    fn accept<R>(
        &self,
        listener: impl AsFd,
        call: impl FnOnce() -> io::Result<R>,
        socket: impl FnOnce(&R) -> RawFd,
    ) -> io::Result<R> {
        let fd = listener.as_fd().as_raw_fd();
        let span = self.begin(fd);
        let result = call();
        if let Some(span) = span {
            let value = result.as_ref().map(socket);
            let span = match value {
                Ok(socket) => span.accepted(socket),
                Err(_) => span,
            };
            span.returned(format_args!("accept({fd})"), value);
        }
        result
    }

    /// Closes the socket by dropping it, which does not return close(2)'s result.
    #[inline(always)]
    fn close(&self, socket: impl AsFd) {
        let fd = socket.as_fd().as_raw_fd();
        let span = self.begin(fd);
        drop(socket);
        if let Some(span) = span {
            span.done(format_args!("close({fd})"));
        }
    }
}

/// No tracing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoTrace;

impl Trace for NoTrace {
    #[inline(always)]
    fn tracer(&self) -> Option<&Tracer> {
        None
    }
}

impl Trace for Option<&Tracer> {
    fn tracer(&self) -> Option<&Tracer> {
        *self
    }
}

/// A socket whose calls are traced.
pub(crate) struct Traced<S, T> {
    pub(crate) socket: S,
    pub(crate) trace: T,
}

impl<S: AsFd, T: Trace> Traced<S, T> {
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }

    /// Makes another call on the socket, printed with its name and the arguments after the
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
        let span = self.trace.begin(fd);
        let result = self.socket.read(buffer);
        if let Some(span) = span {
            let value = |count: &usize| format!("{count} {}", quoted(&buffer[..*count]));
            span.returned(format_args!("recv({fd}, {})", buffer.len()), result.as_ref().map(value));
        }
        result
    }
}

impl<S: AsFd + Write, T: Trace> Write for Traced<S, T> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.fd();
        let span = self.trace.begin(fd);
        let result = self.socket.write(bytes);
        if let Some(span) = span {
            let call = format_args!("send({fd}, {}, {})", quoted(bytes), bytes.len());
            span.returned(call, result.as_ref());
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // a socket has nothing to flush
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_bytes_are_short_and_on_one_line() {
        assert_eq!(quoted("小文说\n".as_bytes()), "\"小文说\\n\"");
        assert_eq!(quoted(b"a \"b\"\x1b\xff"), "\"a \\\"b\\\"\\u{1b}\\xff\"");
        assert_eq!(quoted(&[b'x'; 1024]), format!("\"{}\"...", "x".repeat(40)));
        assert_eq!(quoted(b""), "\"\"");
    }

    #[test]
    fn durations_have_at_most_four_digits() {
        let took = |micros| Took(Duration::from_micros(micros)).to_string();
        assert_eq!([took(0), took(9_999)], ["0 us", "9999 us"]);
        assert_eq!([took(10_000), took(9_999_999)], ["10 ms", "9999 ms"]);
        assert_eq!(took(70_000_000), "70 s");
    }

    #[test]
    fn descriptor_used_again_gets_a_new_number() {
        let tracer = Tracer::new("server");
        assert_eq!(tracer.number(7), None);
        assert_eq!((tracer.register(7), tracer.register(8)), (1, 2));
        let closing = tracer.begin(7);
        assert_eq!(tracer.register(7), 3);
        assert_eq!((closing.number, tracer.number(7)), (Some(1), Some(3)));
    }
}
