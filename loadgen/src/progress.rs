//! A progress line on standard error, if that is a terminal.

use std::io::{self, IsTerminal};
use std::time::Duration;

use lockstep_results::format;
use rustix::termios::tcgetwinsize;

use crate::clients::clock::NEVER;
use crate::clients::control::Control;
use crate::printer::Printer;

/// Interval between two updates of the line.
pub const INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for a terminal that is stopped.
const STOPPED_MAX: Duration = Duration::from_millis(100);

/// Width of a terminal that does not report one.
const COLUMNS: u16 = 80;

/// Returns to the first column and erases the line.
const ERASE: &str = "\r\x1b[2K";

/// The line. It is erased when this is dropped.
#[derive(Debug)]
pub struct Progress {
    /// The label and the writer; `None` if nothing is shown.
    line: Option<(String, Printer)>,
    /// Time and number of exchanges at the last update.
    last: Option<(u64, u64)>,
}

impl Progress {
    /// Prepares a line that begins with `label`, whose parts are separated by commas, the most
    /// important first. Nothing is shown without a label, without a terminal that can erase a line,
    /// or where `CI` is set.
    pub fn start(label: Option<&str>) -> Self {
        let erases =
            || std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        let shown = io::stderr().is_terminal() && erases() && std::env::var_os("CI").is_none();
        let printer = || Printer::start(io::stderr()).ok();
        let line = label.filter(|_| shown).and_then(|label| Some((label.to_owned(), printer()?)));
        Self { line, last: None }
    }

    /// Updates the line with the phase and the rate of a run, at most once in [`INTERVAL`].
    pub fn show(&mut self, control: &Control, conns: u32) {
        let now = control.clock.now();
        let recent = |(then, _)| now - then < INTERVAL.as_nanos() as u64;
        if self.line.is_none() || self.last.is_some_and(recent) {
            return;
        }
        let (opened, exchanges) = control.progress();
        let rate = match self.last.replace((now, exchanges)) {
            Some((then, before)) if now > then => {
                (exchanges - before) as f64 * 1e9 / (now - then) as f64
            }
            _ => 0.0,
        };
        let rate = format::count(rate);
        let seconds = |from: u64, to: u64| format!("{:.1}s", to.saturating_sub(from) as f64 / 1e9);
        let (start, end) = (control.start_ns(), control.end_ns());
        self.set_phase(match () {
            () if !control.looping() && opened == u64::from(conns) => {
                "waiting for the start".to_owned()
            }
            () if !control.looping() => format!("opening {opened} of {conns} connections"),
            () if start == NEVER => format!("warming up until it is steady, {rate}/s"),
            () if now < start => format!("warming up for {} more, {rate}/s", seconds(now, start)),
            () if now >= end => "waiting for the last replies".to_owned(),
            () if end == NEVER => format!("measured {}, {rate}/s", seconds(start, now)),
            () => format!("measured {} of {}, {rate}/s", seconds(start, now), seconds(start, end)),
        });
    }

    /// Shows the present phase. A terminal that is stopped misses it.
    pub fn set_phase(&self, phase: impl AsRef<str>) {
        if let Some((label, printer)) = &self.line {
            let columns = tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col);
            let columns = if columns == 0 { COLUMNS } else { columns };
            // A full line would make some terminals begin the next one.
            let text = fit(label, phase.as_ref(), usize::from(columns) - 1);
            printer.print(format!("{ERASE}{text}"), 1);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((_, printer)) = self.line.take() {
            let _stopped_or_closed = printer.finish(ERASE.to_owned(), STOPPED_MAX);
        }
    }
}

/// Returns label and phase in at most `columns`. In order, these are omitted if there is no room:
/// parts of the label but the first, parts of the phase but the first, the label, and characters.
fn fit(mut label: &str, mut phase: &str, columns: usize) -> String {
    let shorter = |text: &str| text.rfind(", ");
    loop {
        let line = match label {
            "" => phase.to_owned(),
            label => format!("{label}: {phase}"),
        };
        if width(&line) <= columns {
            return line;
        }
        match (shorter(label), shorter(phase)) {
            (Some(end), _) => label = &label[..end],
            (None, Some(end)) => phase = &phase[..end],
            (None, None) if !label.is_empty() => label = "",
            (None, None) => {
                let fits = |end: &usize| width(&phase[..*end]) <= columns;
                let mut ends = phase.char_indices().map(|(end, _)| end).rev();
                return phase[..ends.find(fits).unwrap_or(0)].to_owned();
            }
        }
    }
}

/// Columns of a text. Characters beyond ASCII have one or two.
fn width(text: &str) -> usize {
    text.chars().map(|char| if char.is_ascii() { 1 } else { 2 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_fits_every_width() {
        let label = "round 1/30, at most 9 min left, 64 connections x 64 bytes, all in time slices";
        let phase = "measured 0.4s of 1.0s, 120.5k/s";
        for (columns, line) in [
            (200, format!("{label}: {phase}")),
            (80, "round 1/30, at most 9 min left: measured 0.4s of 1.0s, 120.5k/s".to_owned()),
            (45, "round 1/30: measured 0.4s of 1.0s, 120.5k/s".to_owned()),
            (40, "round 1/30: measured 0.4s of 1.0s".to_owned()),
            (25, "measured 0.4s of 1.0s".to_owned()),
            (8, "measured".to_owned()),
            (0, String::new()),
        ] {
            assert_eq!(fit(label, phase, columns), line);
        }
        for (label, phase) in [(label, phase), ("", phase), (label, ""), ("名前, 名", "名前")]
        {
            for columns in 0..200 {
                let line = fit(label, phase, columns);
                assert!(width(&line) <= columns, "{line:?} has more than {columns} columns");
            }
        }
    }
}
