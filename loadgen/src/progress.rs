//! A progress line on standard error, if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lockstep_results::format;

use crate::clients::clock::NEVER;
use crate::clients::control::Control;

/// Interval between two updates of the line.
pub const INTERVAL: Duration = Duration::from_millis(200);

/// The line. It is erased when this is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    /// Time and number of exchanges at the last update.
    last: Option<(u64, u64)>,
}

impl Progress {
    /// Prepares a line that begins with `label`. Nothing is shown without a label, without a
    /// terminal that can erase a line, or where `CI` is set.
    pub fn start(label: Option<&str>) -> Self {
        let target = match label {
            Some(_) if std::env::var_os("CI").is_none() => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template("{prefix}{wide_msg}").expect("a valid template");
        let bar = ProgressBar::with_draw_target(None, target)
            .with_style(style)
            .with_prefix(label.unwrap_or_default().to_owned());
        Self { bar, last: None }
    }

    /// Updates the line with the phase and the rate of a run, at most once in [`INTERVAL`].
    pub fn show(&mut self, control: &Control, conns: u32) {
        let now = control.clock.now();
        let recent = |(then, _)| now - then < INTERVAL.as_nanos() as u64;
        if self.bar.is_hidden() || self.last.is_some_and(recent) {
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
            () if !control.looping() => format!("opening {opened} of {conns} connections"),
            () if start == NEVER => format!("warming up until it is steady, {rate}/s"),
            () if now < start => format!("warming up for {} more, {rate}/s", seconds(now, start)),
            () if now >= end => "waiting for the last replies".to_owned(),
            () if end == NEVER => format!("measured {}, {rate}/s", seconds(start, now)),
            () => format!("measured {} of {}, {rate}/s", seconds(start, now), seconds(start, end)),
        });
    }

    /// Shows the present phase.
    pub fn set_phase(&self, phase: impl Into<String>) {
        self.bar.set_message(phase.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
