//! Exit codes, and errors of one line and a hint.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use lockstep_results::{Document, store};
use lockstep_sys::errno::describe;
use lockstep_sys::limits;
use serde::{Deserialize, Serialize};

/// Run-time failure.
pub const FAILURE: u8 = 1;
/// Usage error.
pub const USAGE: u8 = 2;
/// The server cannot run on this machine.
pub const UNAVAILABLE: u8 = 3;
/// No connection to the address.
pub const ADDRESS: u8 = 4;
/// Some connections failed.
pub const INCOMPLETE: u8 = 5;
/// A reply differed from its request.
pub const WRONG_REPLY: u8 = 6;
/// A threshold was missed.
pub const THRESHOLD: u8 = 7;
/// The result is invalid.
pub const INVALID: u8 = 8;

/// Properties of a finished run that the exit code depends on.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Signal that ended the run early.
    pub signal: Option<i32>,
    /// True if a reply differed from its request.
    pub wrong_replies: bool,
    /// True if any connection was established.
    pub connected: bool,
    /// True if a connection failed, or the server that was started for the run.
    pub failures: bool,
    /// True if the result is valid.
    pub valid: bool,
    /// True if no threshold was missed.
    pub held: bool,
}

impl Outcome {
    /// The exit code: that of the first property that applies, in this order.
    pub fn code(&self) -> u8 {
        match self.signal {
            Some(signal) => of_signal(signal),
            None if self.wrong_replies => WRONG_REPLY,
            None if !self.connected => ADDRESS,
            None if self.failures => INCOMPLETE,
            None if !self.valid => INVALID,
            None if !self.held => THRESHOLD,
            None => 0,
        }
    }
}

/// Reason why a command has no result, or an incomplete one.
#[derive(Debug, Deserialize, Serialize)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The cause, in one line; empty if it has been printed already.
    pub error: String,
    /// A remedy, in one line.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: u8, error: impl Into<String>) -> Self {
        Self { code, error: error.into(), hint: None }
    }

    /// The failure of a command that a signal ended.
    pub fn signal(signal: i32) -> Self {
        Self::new(of_signal(signal), String::new())
    }

    /// The failure of an operation on a file.
    pub fn file(code: u8, path: &Path, error: &io::Error) -> Self {
        let failure = Self::new(code, format!("{}: {}", path.display(), describe(error)));
        match error.kind() {
            ErrorKind::AlreadyExists => failure.hint("--force overwrites it"),
            ErrorKind::InvalidData => failure.hint("loadgen report reads files written by -o"),
            _ => failure,
        }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Stores a result that this failure would lose among the temporary files, and adds a hint
    /// where it is.
    #[must_use]
    pub fn rescue(self, result: &(impl Document + Serialize)) -> Self {
        match store::write(result, &std::env::temp_dir(), false) {
            Ok(path) => self.hint(format!("the result is in {}", path.display())),
            Err(_) => self,
        }
    }

    /// Prints error and hint on standard error, whose errors are ignored. Without a hint of its
    /// own, an error that a limit may have caused gets the limits.
    pub fn print(&self) {
        // In one write: other ranks may print to the same file.
        let mut text = String::new();
        if !self.error.is_empty() {
            text += &format!("error: {}\n", self.error);
        }
        let errno = self.error.strip_suffix(')').and_then(|error| error.rsplit_once('('));
        let limits = errno.and_then(|(_, errno)| limits::hint(errno));
        if let Some(hint) = self.hint.as_ref().or(limits.as_ref()) {
            text += &format!("hint: {hint}\n");
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// The exit code of a command that a signal ended, as in a shell.
pub fn of_signal(signal: i32) -> u8 {
    128u8.wrapping_add(signal as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_follows_the_order_of_causes() {
        let mut outcome = Outcome {
            signal: Some(2),
            wrong_replies: true,
            connected: false,
            failures: true,
            valid: false,
            held: false,
        };
        assert_eq!(outcome.code(), 130);
        outcome.signal = None;
        assert_eq!(outcome.code(), WRONG_REPLY);
        outcome.wrong_replies = false;
        assert_eq!(outcome.code(), ADDRESS);
        outcome.connected = true;
        assert_eq!(outcome.code(), INCOMPLETE);
        outcome.failures = false;
        assert_eq!(outcome.code(), INVALID);
        outcome.valid = true;
        assert_eq!(outcome.code(), THRESHOLD);
        outcome.held = true;
        assert_eq!(outcome.code(), 0);
    }
}
