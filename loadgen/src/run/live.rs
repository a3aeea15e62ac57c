//! Output of a run while it goes on: a line for each interval, as text or JSON, and the interval
//! log.

use std::io;

use lockstep_results::{Interval, format};
use serde::Serialize;

use crate::clients::intervals::FinishedInterval;
use crate::exit::{self, Failure};
use crate::printer::Printer;
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

/// Most lines that wait for a reader.
const LINES_MAX: usize = 256;

/// Prints the intervals of a run and writes the interval log.
#[derive(Debug)]
pub struct Live {
    lines: Lines,
    /// Started with the first line.
    printer: Option<Printer>,
    /// Number of lines that were not printed because too many waited.
    unprinted: u64,
    hlog: Option<Hlog>,
    /// Error that ended the log.
    failure: Option<io::Error>,
}

impl Live {
    /// Creates the interval log, if there is one.
    ///
    /// # Errors
    ///
    /// `EEXIST` for a file without `--force`, and those of open(2); a log that is the output file.
    pub fn open(run: &RunArgs, live: &LiveArgs) -> Result<Self, Failure> {
        if live.hlog.is_some() && live.hlog == run.output.path {
            return Err(Failure::new(exit::USAGE, "--hlog and --output name the same file"));
        }
        let lines = match run.interval {
            _ if live.json_lines => Lines::Json,
            Some(_) if !run.output.json => Lines::Text,
            _ => Lines::None,
        };
        let hlog =
            live.hlog.as_ref().map(|path| Hlog::create(path, run.output.force)).transpose()?;
        Ok(Self { lines, printer: None, unprinted: 0, hlog, failure: None })
    }

    /// True if intervals are printed.
    pub fn prints(&self) -> bool {
        self.lines != Lines::None
    }

    /// True if the record is the last line.
    pub fn ends_with_record(&self) -> bool {
        self.lines == Lines::Json
    }

    /// Warning about lines that were not printed.
    pub fn warning(&self) -> Option<String> {
        (self.unprinted > 0).then(|| {
            let lines = self.unprinted;
            format!("unprinted: standard output was not read; {lines} interval lines are missing")
        })
    }

    /// Ends the interval log. Returns the printer of the lines, and the error that ended the log
    /// early.
    pub fn finish(self) -> (Option<Printer>, Option<Failure>) {
        let failure = self.failure.map(|error| {
            Failure::new(exit::FAILURE, error.to_string())
                .hint("the log holds the intervals before that")
        });
        (self.printer, failure)
    }

    fn print(&mut self, line: String) {
        if self.printer.is_none() {
            self.printer = Printer::start(io::stdout()).ok();
        }
        let queued = self.printer.as_ref().is_some_and(|printer| printer.print(line, LINES_MAX));
        self.unprinted += u64::from(!queued);
    }
}

impl Observer for Live {
    fn interval(&mut self, finished: &FinishedInterval<'_>) {
        let interval = finished.interval;
        match self.lines {
            Lines::None => {}
            Lines::Text if interval.start_s == 0.0 => self.print(HEAD.to_owned() + &text(interval)),
            Lines::Text => self.print(text(interval)),
            Lines::Json => self.print(json("interval", interval)),
        }
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
    let rate = if rate.is_finite() { format::count(rate) } else { "-".to_owned() };
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
