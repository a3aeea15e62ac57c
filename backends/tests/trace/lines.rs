//! Parser of the lines of `--trace`.

use crate::common::child::Ended;

/// A line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Time when the call returned, in microseconds.
    pub(crate) at_us: u64,
    /// `server`, or `conn` and a number.
    pub(crate) who: String,
    /// The call with its arguments and its result.
    pub(crate) call: String,
}

impl Line {
    pub(crate) fn parse(line: &str) -> Self {
        let parts: Vec<_> = line.trim_start().splitn(3, "  ").collect();
        let [at, who, rest] = parts[..] else { panic!("not a line of a trace: {line:?}") };
        let (seconds, micros) = at.strip_suffix(" s").and_then(|at| at.split_once('.')).unwrap();
        // What is no call takes no time.
        let call = match rest.trim_start().rsplit_once("  ") {
            Some((call, took)) => {
                let unit = took.split_once(' ').expect("a number and a unit").1;
                assert!(["us", "ms", "s"].contains(&unit), "{line:?}");
                call
            }
            None => rest.trim_start(),
        };
        let at_us = seconds.parse::<u64>().unwrap() * 1_000_000 + micros.parse::<u64>().unwrap();
        Self { at_us, who: who.to_owned(), call: call.to_owned() }
    }

    /// Parses the standard error of a server, up to its statistics.
    pub(crate) fn all(ended: &Ended) -> Vec<Self> {
        let is_statistics = |line: &String| line.contains(" served ");
        let end = ended.stderr.iter().rposition(is_statistics).expect("statistics");
        ended.stderr[..end].iter().map(|line| Self::parse(line)).collect()
    }

    /// Name and result of the call: a number, with the name of an error. The result of close(2) is
    /// not traced.
    pub(crate) fn name_and_result(&self) -> (String, String) {
        let name = self.call.split('(').next().unwrap().to_owned();
        let result = self.call.split_once(" -> ").map_or("", |(_, result)| result);
        let words = if result.starts_with('-') { 2 } else { 1 };
        let result: Vec<_> = result.split(' ').take(words).collect();
        (name, result.join(" "))
    }
}

/// Lines of a connection.
pub(crate) fn conversation(lines: &[Line], number: u32) -> impl Iterator<Item = &Line> {
    let who = format!("conn {number}");
    lines.iter().filter(move |line| line.who == who)
}

/// The descriptor of the listener.
pub(crate) fn listener(lines: &[Line]) -> &str {
    lines[0].call.split_once(" -> ").unwrap().1
}
