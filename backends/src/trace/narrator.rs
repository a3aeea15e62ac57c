//! The one who tells: a line for each call, on standard error.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::text::escaped;
use lockstep_sys::errno::name_of;

/// How much of what was received or sent is shown, in characters.
const SHOWN: usize = 40;

/// Tells what system calls were made, one line each: the time when the call returned, since the
/// narrator began; the connection, numbered in the order of accepting; the call, its arguments
/// and its result; and how long it took.
#[derive(Debug)]
pub struct Narrator {
    began: Instant,
    /// What calls belong to that are not a connection's.
    name: &'static str,
    connections: Mutex<Connections>,
}

/// The connections' numbers, by descriptor. A descriptor is given to the next connection when
/// its last one is closed, and then has the next one's number.
#[derive(Debug, Default)]
struct Connections {
    count: u64,
    numbers: HashMap<RawFd, u64>,
}

impl Narrator {
    /// Begins to count the time. `name` is for the calls that are not a connection's.
    pub fn new(name: &'static str) -> Self {
        Self { began: Instant::now(), name, connections: Mutex::default() }
    }

    /// A call on `fd` is about to be made.
    pub(crate) fn begin(&self, fd: RawFd) -> Told<'_> {
        Told { narrator: self, number: self.number(fd), start: Instant::now() }
    }

    /// Tells of something that is no call and takes no time.
    pub(crate) fn note(&self, fd: RawFd, what: fmt::Arguments<'_>) {
        self.tell(self.number(fd), what, format_args!(""));
    }

    /// Gives the descriptor's new connection the next number.
    pub(crate) fn enroll(&self, fd: RawFd) -> u64 {
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

    /// A line is written at once, so that those of several threads do not mix, and with the time
    /// when its turn came, so that the times only grow.
    fn tell(&self, number: Option<u64>, what: fmt::Arguments<'_>, took: fmt::Arguments<'_>) {
        let mut stderr = io::stderr().lock();
        let at = self.began.elapsed().as_secs_f64();
        let who = number.map_or_else(|| self.name.to_owned(), |number| format!("conn {number}"));
        let line = format!("{at:>10.6} s  {who:<8}  {what}{took}\n");
        let _nobody_reads = stderr.write_all(line.as_bytes());
    }
}

/// A call that is being made.
#[must_use = "a call that was begun is told when it has returned"]
pub(crate) struct Told<'a> {
    narrator: &'a Narrator,
    /// Known before the call: after a close, the descriptor can be another connection's.
    number: Option<u64>,
    start: Instant,
}

impl Told<'_> {
    /// It has accepted a connection, and is its first call.
    pub(crate) fn of_new(self, socket: RawFd) -> Self {
        Self { number: Some(self.narrator.enroll(socket)), ..self }
    }

    /// It has returned, with a value or an error.
    pub(crate) fn returned<V: Display>(
        self,
        call: fmt::Arguments<'_>,
        result: Result<V, &io::Error>,
    ) {
        match result {
            Ok(value) => self.done(format_args!("{call} -> {value}")),
            Err(error) => self.done(format_args!("{call} -> -1 {}", name_of(error))),
        }
    }

    /// It has returned; `what` says with what, if that is known.
    pub(crate) fn done(self, what: fmt::Arguments<'_>) {
        let took = Took(self.start.elapsed());
        self.narrator.tell(self.number, what, format_args!("  {took}"));
    }
}

/// How long a call took, in the unit that needs few digits.
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

/// The beginning of the bytes, in quotes and on one line.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let text = escaped(bytes).replace('"', "\\\"");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("\"{}\"...", &text[..end]),
        None => format!("\"{text}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_shown_short_and_on_one_line() {
        assert_eq!(quoted("小文说\n".as_bytes()), "\"小文说\\n\"");
        assert_eq!(quoted(b"a \"b\"\x1b\xff"), "\"a \\\"b\\\"\\u{1b}\\xff\"");
        assert_eq!(quoted(&[b'x'; 1024]), format!("\"{}\"...", "x".repeat(40)));
        assert_eq!(quoted(b""), "\"\"");
    }

    #[test]
    fn a_call_takes_a_few_digits() {
        let took = |micros| Took(Duration::from_micros(micros)).to_string();
        assert_eq!([took(0), took(9_999)], ["0 us", "9999 us"]);
        assert_eq!([took(10_000), took(9_999_999)], ["10 ms", "9999 ms"]);
        assert_eq!(took(70_000_000), "70 s");
    }

    #[test]
    fn a_descriptor_used_again_is_another_connections() {
        let narrator = Narrator::new("server");
        assert_eq!(narrator.number(7), None);
        assert_eq!((narrator.enroll(7), narrator.enroll(8)), (1, 2));
        let closing = narrator.begin(7);
        assert_eq!(narrator.enroll(7), 3);
        assert_eq!((closing.number, narrator.number(7)), (Some(1), Some(3)));
    }
}
