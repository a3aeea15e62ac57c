//! Failed connections, counted by kind and errno. Each connection fails at most once.

use std::cmp::Reverse;

use lockstep_results::ErrorCount;

use crate::exit::{self, Failure};
use crate::machine::ports;

/// Kind of a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The connection was not established.
    Connect,
    /// A send failed.
    Send,
    /// A receive failed.
    Receive,
    /// The server closed it before the whole reply, or between two exchanges.
    Eof,
    /// A reply was not whole within the timeout.
    Timeout,
    /// A reply differed from the expected one.
    Mismatch,
    /// More bytes came than were owed.
    Surplus,
}

impl Kind {
    /// Name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Eof => "eof",
            Self::Timeout => "timeout",
            Self::Mismatch => "mismatch",
            Self::Surplus => "surplus",
        }
    }

    /// True if the server sent wrong bytes, which is worse than none.
    pub const fn is_wrong_reply(self) -> bool {
        matches!(self, Self::Mismatch | Self::Surplus)
    }

    /// True for the name of such a kind.
    pub fn names_wrong_reply(name: &str) -> bool {
        [Self::Mismatch, Self::Surplus].iter().any(|kind| kind.name() == name)
    }
}

/// Counts of failures by kind and errno, with a description of the first of each.
#[derive(Debug, Default)]
pub struct Failures {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    errno: Option<i32>,
    count: u64,
    first_at: u64,
    first: String,
}

impl Failures {
    /// Counts a failure at `now`; `describe` is called for the first of its kind and errno.
    pub fn count(
        &mut self,
        kind: Kind,
        errno: Option<i32>,
        now: u64,
        describe: impl FnOnce() -> String,
    ) {
        match self.entries.iter_mut().find(|entry| (entry.kind, entry.errno) == (kind, errno)) {
            Some(entry) => entry.count += 1,
            None => {
                let first = describe();
                self.entries.push(Entry { kind, errno, count: 1, first_at: now, first });
            }
        }
    }

    /// Adds another thread's counts, and keeps the earlier of two first failures.
    pub fn merge(&mut self, other: Failures) {
        for theirs in other.entries {
            let same = |ours: &&mut Entry| (ours.kind, ours.errno) == (theirs.kind, theirs.errno);
            match self.entries.iter_mut().find(same) {
                Some(ours) => {
                    ours.count += theirs.count;
                    if theirs.first_at < ours.first_at {
                        ours.first_at = theirs.first_at;
                        ours.first = theirs.first;
                    }
                }
                None => self.entries.push(theirs),
            }
        }
    }

    /// Number of failures.
    pub fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.count).sum()
    }

    /// Number of wrong replies.
    pub fn wrong_replies(&self) -> u64 {
        let wrong = self.entries.iter().filter(|entry| entry.kind.is_wrong_reply());
        wrong.map(|entry| entry.count).sum()
    }

    /// Cause of the most frequent failure.
    pub fn cause(&self) -> Option<String> {
        let most = self.entries.iter().min_by_key(|entry| entry.order())?;
        Some(most.as_count().cause())
    }

    /// Returns the counts of a record, most frequent first.
    pub fn into_counts(mut self) -> Vec<ErrorCount> {
        self.entries.sort_by_key(Entry::order);
        self.entries.iter().map(Entry::as_count).collect()
    }
}

impl Entry {
    /// The most frequent first, then the earliest.
    fn order(&self) -> (Reverse<u64>, u64) {
        (Reverse(self.count), self.first_at)
    }

    fn as_count(&self) -> ErrorCount {
        ErrorCount {
            kind: self.kind.name().to_owned(),
            errno: self.errno.map(lockstep_sys::errno::name),
            count: self.count,
            first: self.first.clone(),
        }
    }
}

/// The failure of a command that could connect to no server at `addr`, from this many source
/// addresses of its own.
pub fn not_connected(addr: &str, errors: &[ErrorCount], sources: usize) -> Failure {
    let cause = errors.first().map_or_else(String::new, |error| format!(": {}", error.cause()));
    let errno = errors.first().and_then(|error| error.errno.as_deref());
    let hint = match errno {
        Some("EADDRNOTAVAIL") if sources == 0 => {
            "this machine has no address from which it could connect there".to_owned()
        }
        Some("EADDRNOTAVAIL") => {
            format!("no port is free: {}; {}", ports::shown(sources), ports::HINT)
        }
        _ => "start a server there, or leave HOST:PORT out to have one started".to_owned(),
    };
    Failure::new(exit::ADDRESS, format!("cannot connect to {addr}{cause}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_errno() {
        let reset = Some(Errno::CONNRESET.raw_os_error());
        let mut failures = Failures::default();
        failures.count(Kind::Receive, reset, 20, || "ours".to_owned());
        failures.count(Kind::Receive, reset, 21, || unreachable!("only the first is described"));
        failures.count(Kind::Receive, None, 22, || "another".to_owned());

        let mut theirs = Failures::default();
        theirs.count(Kind::Receive, reset, 10, || "theirs, and earlier".to_owned());
        theirs.count(Kind::Mismatch, None, 30, || "wrong".to_owned());
        failures.merge(theirs);

        assert_eq!(failures.total(), 5);
        assert_eq!(failures.wrong_replies(), 1);
        assert_eq!(failures.cause().as_deref(), Some("theirs, and earlier (ECONNRESET)"));
        let counts = failures.into_counts();
        assert_eq!(counts[0].kind, "receive");
        assert_eq!(counts[0].errno.as_deref(), Some("ECONNRESET"));
        assert_eq!((counts[0].count, counts[0].first.as_str()), (3, "theirs, and earlier"));
        assert_eq!(counts.len(), 3);
    }
}
