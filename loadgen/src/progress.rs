//! One line on standard error, if that is a terminal, about how far a run is.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use lockstep_results::format;

use crate::clients::clock::NEVER;
use crate::clients::control::Control;

/// How often the line is renewed.
pub const INTERVAL: Duration = Duration::from_millis(200);

/// The line. It is erased when the run is over.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    label: String,
    last: Option<(u64, u64)>,
}

impl Progress {
    /// Shows nothing if nobody looks: no terminal, or a build service's.
    ///
    /// The line begins with `label`, which says which of several runs it is; without one there is
    /// no line.
    pub fn start(label: Option<&str>) -> Self {
        let watched = io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        let shown = watched && label.is_some();
        Self { shown, label: label.unwrap_or_default().to_owned(), last: None }
    }

    /// Renews the line.
    pub fn show(&mut self, control: &Control, conns: u32) {
        if !self.shown {
            return;
        }
        let now = control.clock.now();
        if self.last.is_some_and(|(then, _)| now - then < INTERVAL.as_nanos() as u64) {
            return;
        }
        let (opened, exchanges) = control.progress();
        let rate = match self.last.replace((now, exchanges)) {
            Some((then, before)) if now > then => {
                (exchanges - before) as f64 * 1e9 / (now - then) as f64
            }
            _ => 0.0,
        };
        let rate = format::count(rate.round());
        let seconds = |from: u64, to: u64| format!("{:.1}s", to.saturating_sub(from) as f64 / 1e9);
        let (start, end) = (control.start_ns(), control.end_ns());
        let line = match () {
            () if !control.looping() => format!("opening {opened} of {conns} connections"),
            () if start == NEVER => format!("warming up until it is steady, {rate}/s"),
            () if now < start => format!("warming up for {} more, {rate}/s", seconds(now, start)),
            () if now >= end => "waiting for the last replies".to_owned(),
            () if end == NEVER => format!("measured {}, {rate}/s", seconds(start, now)),
            () => format!("measured {} of {}, {rate}/s", seconds(start, now), seconds(start, end)),
        };
        self.write(&format!("{}{line}", self.label));
    }

    /// Says what is done now.
    pub fn tell(&mut self, what: &str) {
        if self.shown {
            self.last.get_or_insert((0, 0));
            self.write(&format!("{}{what}", self.label));
        }
    }

    fn write(&self, line: &str) {
        let mut stderr = io::stderr().lock();
        // Back to the line's beginning, and erase what was longer. A failure ends nothing.
        let _ = write!(stderr, "\r{line}\x1b[K").and_then(|()| stderr.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.last.is_some() {
            self.write("");
        }
    }
}
