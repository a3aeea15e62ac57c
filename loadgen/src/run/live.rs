//! What a run tells while it goes on: a line for each interval, for people or for programs, and
//! the interval log.

use std::io::{self, Write};

use lockstep_results::{Interval, Record, format};
use serde::Serialize;

use crate::clients::intervals::FinishedInterval;
use crate::exit::{self, Failure};
use crate::run::args::{LiveArgs, RunArgs};
use crate::run::hlog::Hlog;
use crate::run::observer::Observer;

/// How intervals are printed on standard output.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lines {
    None,
    Text,
    Json,
}

/// Tells what is known of a run while it goes on.
#[derive(Debug)]
pub struct Live {
    lines: Lines,
    hlog: Option<Hlog>,
    /// Why the log could not be written to its end.
    failure: Option<io::Error>,
}

impl Live {
    /// Makes the files.
    ///
    /// # Errors
    ///
    /// When the interval log cannot be written.
    pub fn open(run: &RunArgs, live: &LiveArgs) -> Result<Self, Failure> {
        let lines = match run.interval {
            _ if live.json_lines => Lines::Json,
            Some(_) if !run.output.json => Lines::Text,
            _ => Lines::None,
        };
        let hlog = live.hlog.as_ref().map(|path| Hlog::create(path, run.output.force)).transpose();
        let hlog = hlog.map_err(|error| Failure::new(exit::USAGE, error.to_string()))?;
        Ok(Self { lines, hlog, failure: None })
    }

    /// Whether the standard output is written to while the run goes on.
    pub fn prints(&self) -> bool {
        self.lines != Lines::None
    }

    /// What is printed of the whole run in the end by `--json-lines`.
    pub fn last_line(&self, record: &Record) -> Option<String> {
        (self.lines == Lines::Json).then(|| {
            serde_json::to_string(record).expect("it has no number that JSON has not") + "\n"
        })
    }

    /// Ends the files.
    ///
    /// # Errors
    ///
    /// When the interval log could not be written to its end.
    pub fn finish(self) -> Result<(), Failure> {
        match self.failure {
            Some(error) => Err(Failure::new(exit::FAILURE, error.to_string())
                .hint("the log holds the intervals before that")),
            None => Ok(()),
        }
    }
}

impl Observer for Live {
    fn interval(&mut self, over: &FinishedInterval<'_>) {
        let interval = over.interval;
        let line = match self.lines {
            Lines::None => String::new(),
            Lines::Text if interval.start_s == 0.0 => HEAD.to_owned() + &text(interval),
            Lines::Text => text(interval),
            Lines::Json => json("interval", interval),
        };
        let mut stdout = io::stdout().lock();
        // What cannot be printed now cannot be printed in the end, and is told then.
        let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
        if let Some(Err(error)) = self.hlog.as_mut().map(|hlog| hlog.write(over)) {
            self.failure = Some(error);
            self.hlog = None;
        }
    }
}

const HEAD: &str = "\
interval       exchanges/s      p50      p90      p99      max   errors\n";

fn text(interval: &Interval) -> String {
    let end_s = interval.start_s + interval.length_s;
    let time = format!("{:.1}-{end_s:.1} s", interval.start_s);
    // An interval that a signal ended at once has no rate.
    let rate = interval.exchanges as f64 / interval.length_s;
    let rate = if rate.is_finite() { format::count(rate.round()) } else { "-".to_owned() };
    let latency = |ns: Option<u64>| ns.map_or("-".to_owned(), format::duration);
    format!(
        "{time:<14} {rate:>11} {:>8} {:>8} {:>8} {:>8} {:>8}\n",
        latency(interval.p50_ns),
        latency(interval.p90_ns),
        latency(interval.p99_ns),
        latency(interval.max_ns),
        interval.errors,
    )
}

/// One line, of a kind that tells it from others.
fn json(kind: &str, value: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Line<'a, T> {
        kind: &'a str,
        #[serde(flatten)]
        value: &'a T,
    }
    let line = Line { kind, value };
    serde_json::to_string(&line).expect("it has no number that JSON has not") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_one_looks_for() {
        let mut interval = Interval {
            start_s: 9.0,
            length_s: 0.5,
            exchanges: 50_000,
            errors: 3,
            p50_ns: Some(590_000),
            p90_ns: Some(700_000),
            p99_ns: Some(1_200_000),
            max_ns: Some(3_400_000),
        };
        assert_eq!(
            HEAD.to_owned() + &text(&interval),
            "interval       exchanges/s      p50      p90      p99      max   errors\n\
             9.0-9.5 s           100.0k    590us    700us   1.20ms   3.40ms        3\n",
        );
        interval.length_s = 0.0;
        interval.p50_ns = None;
        assert!(text(&interval).contains(" -        -    700us"), "{}", text(&interval));
        let line: serde_json::Value = serde_json::from_str(&json("interval", &interval)).unwrap();
        assert_eq!((&line["kind"], &line["start_s"]), (&"interval".into(), &9.0.into()));
    }
}
