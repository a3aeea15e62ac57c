//! How the program ends: exit codes, and errors as one line and a hint.

use std::io::{self, Write};

/// Something failed at run time.
pub const FAILURE: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The server that was asked for cannot run here.
pub const UNAVAILABLE: u8 = 3;
/// The address cannot be connected to.
pub const ADDRESS: u8 = 4;
/// Some connections failed.
pub const INCOMPLETE: u8 = 5;
/// A reply differed from its request.
pub const WRONG_REPLY: u8 = 6;
/// A threshold was missed.
pub const THRESHOLD: u8 = 7;
/// The numbers must not be quoted as the server's.
pub const INVALID: u8 = 8;

/// What there is to say of a run that has come to an end.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The signal that cut it short.
    pub signal: Option<i32>,
    /// Whether a reply differed from its request.
    pub wrong_replies: bool,
    /// Whether there was a connection at all.
    pub connected: bool,
    /// Whether a connection, or the server that was started for the run, has failed.
    pub failures: bool,
    /// Whether the verdict is that the numbers are the server's.
    pub valid: bool,
    /// Whether all thresholds were held.
    pub held: bool,
}

impl Outcome {
    /// The exit code: what explains most comes first.
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

/// Why there is no result.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The cause, in one line; empty when it has been told already.
    pub error: String,
    /// What could be done about it, in one line.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: u8, error: impl Into<String>) -> Self {
        Self { code, error: error.into(), hint: None }
    }

    /// A signal ended it before there was a result.
    pub fn signal(signal: i32) -> Self {
        Self::new(of_signal(signal), String::new())
    }

    /// With a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints it on standard error.
    pub fn print(&self) {
        let mut stderr = io::stderr().lock();
        // Nobody is left to be told that standard error is closed.
        if !self.error.is_empty() {
            let _ = writeln!(stderr, "error: {}", self.error);
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "hint: {hint}");
        }
    }
}

/// The exit code for having been ended by a signal, as shells have it.
pub fn of_signal(signal: i32) -> u8 {
    128u8.wrapping_add(signal as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_explains_most_decides() {
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
