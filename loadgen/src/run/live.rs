//! Output of a run while it goes on: a line for each interval, as text or JSON, and the interval
//! log.

use std::io::{self, Write};

use lockstep_results::{Interval, Record, format};
use serde::Serialize;

use crate::clients::intervals::FinishedInterval;
use crate::exit::{self, Failure};
use crate::run::args::{LiveArgs, RunArgs};
use crate::run::hlog::Hlog;
use crate::run::observer::Observer;

/// Form of the lines on standard output.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lines {
    None,
    Text,
    Json,
}

/// Prints the intervals of a run and writes the interval log.
#[derive(Debug)]
pub struct Live {
    lines: Lines,
    hlog: Option<Hlog>,
    /// Error that ended the log.
    failure: Option<io::Error>,
}

impl Live {
    /// Creates the interval log, if there is one.
    ///
    /// # Errors
    ///
    /// `EEXIST` for a file without `--force`, and those of open(2).
    pub fn open(run: &RunArgs, live: &LiveArgs) -> Result<Self, Failure> {
        let lines = match run.interval {
            _ if live.json_lines => Lines::Json,
            Some(_) if !run.output.json => Lines::Text,
            _ => Lines::None,
        };
        let hlog =
            live.hlog.as_ref().map(|path| Hlog::create(path, run.output.force)).transpose()?;
        Ok(Self { lines, hlog, failure: None })
    }

    /// True if intervals are printed.
    pub fn prints(&self) -> bool {
        self.lines != Lines::None
    }

    /// Last line of `--json-lines`: the record.
    pub fn last_line(&self, record: &Record) -> Option<String> {
        (self.lines == Lines::Json).then(|| {
            serde_json::to_string(record).expect("it has no number that JSON has not") + "\n"
        })
    }

    /// Ends the interval log.
    ///
    /// # Errors
    ///
    /// The error of write(2) that ended the log early.
    pub fn finish(self) -> Result<(), Failure> {
        match self.failure {
            Some(error) => Err(Failure::new(exit::FAILURE, error.to_string())
                .hint("the log holds the intervals before that")),
            None => Ok(()),
        }
    }
}

impl Observer for Live {
    fn interval(&mut self, finished: &FinishedInterval<'_>) {
        let interval = finished.interval;
        let line = match self.lines {
            Lines::None => String::new(),
            Lines::Text if interval.start_s == 0.0 => HEAD.to_owned() + &text(interval),
            Lines::Text => text(interval),
            Lines::Json => json("interval", interval),
        };
        let mut stdout = io::stdout().lock();
        // An error will come again when the result is printed, and is reported then.
        let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
        if let Some(Err(error)) = self.hlog.as_mut().map(|hlog| hlog.write(finished)) {
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
    // An interval that a signal ended immediately has no rate.
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

/// One line, with its kind.
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
    fn line_has_rate_latencies_and_errors() {
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
