//! The processes of the generator, from outside.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use lockstep_results::{ErrorCount, Latencies, Latency};
use rustix::process::Pid;
use serde::de::DeserializeOwned;

use super::part::{Counted, Opened, Order, Window};
use crate::clients::intervals::{add, histogram};
use crate::exit::{self, Failure};
use crate::progress;
use crate::run::Session;
use lockstep_sys::errno::describe;

/// Dropping them ends them.
pub(super) struct Parts(Vec<Part>);

struct Part {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
}

impl Parts {
    /// Starts a process for each order; each opens its connections at once.
    pub(super) fn start(orders: &[Order]) -> Result<Self, Failure> {
        let parts: io::Result<Vec<Part>> = orders.iter().map(Part::start).collect();
        parts.map(Self).map_err(|error| {
            let error = format!("cannot start a process: {}", describe(&error));
            Failure::new(exit::FAILURE, error)
        })
    }

    pub(super) fn pids(&self) -> Vec<Pid> {
        self.0.iter().map(|part| Pid::from_child(&part.child)).collect()
    }

    /// Waits until every connection is open, or has failed.
    pub(super) fn opened(&mut self, session: &Session) -> Result<Opened, Failure> {
        let opened: Vec<Opened> = self.hear(session)?;
        let from_ns = opened.iter().map(|part| part.from_ns).min().unwrap_or(0);
        let until_ns = opened.iter().map(|part| part.until_ns).max().unwrap_or(0);
        Ok(Opened { from_ns, until_ns })
    }

    /// Begins the loop.
    pub(super) fn begin(&mut self, window: Window) -> Result<(), Failure> {
        let line = serde_json::to_string(&window).expect("a number is JSON") + "\n";
        let tell = |part: &mut Part| part.stdin.write_all(line.as_bytes());
        self.0.iter_mut().try_for_each(tell).map_err(|error| {
            let error = format!("a process of the generator has ended: {}", describe(&error));
            Failure::new(exit::FAILURE, error)
        })
    }

    /// Waits for what they have counted, and adds it up.
    pub(super) fn counted(mut self, session: &Session) -> Result<Counted, Failure> {
        let counted: Vec<Counted> = self.hear(session)?;
        let sum = |field: fn(&Counted) -> u64| counted.iter().map(field).sum();
        let latency = |field: fn(&Latencies) -> &Option<Latency>| {
            merge(counted.iter().filter_map(|part| field(&part.latency).as_ref()))
        };
        Ok(Counted {
            exchanges: sum(|part| part.exchanges),
            total: sum(|part| part.total),
            connected: sum(|part| part.connected),
            unserved: sum(|part| part.unserved),
            wrong_replies: sum(|part| part.wrong_replies),
            latency: Latencies {
                connect: latency(|latency| &latency.connect)?,
                first_exchange: latency(|latency| &latency.first_exchange)?,
                exchange: latency(|latency| &latency.exchange)?,
                ..Latencies::default()
            },
            errors: errors(counted.iter().flat_map(|part| &part.errors)),
        })
    }

    /// The next line of each.
    fn hear<T: DeserializeOwned>(&mut self, session: &Session) -> Result<Vec<T>, Failure> {
        self.0.iter_mut().map(|part| part.hear(session)).collect()
    }
}

impl Part {
    fn start(order: &Order) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["many-part", "--parent", &std::process::id().to_string(), "--"])
            .arg(serde_json::to_string(order)?)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, said) = channel();
        // From here on, dropping it ends the process.
        let part = Self { child, stdin, said };
        thread::Builder::new().name("part".to_owned()).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _nobody_waits = sender.send(line);
            }
        })?;
        Ok(part)
    }

    fn hear<T: DeserializeOwned>(&mut self, session: &Session) -> Result<T, Failure> {
        let ended = |said: &str| Failure::new(exit::FAILURE, said.to_owned());
        loop {
            match self.said.recv_timeout(progress::INTERVAL) {
                Ok(line) => {
                    return serde_json::from_str(&line)
                        .map_err(|error| ended(&format!("a process of the generator: {error}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(match self.child.wait().ok().and_then(|status| status.code()) {
                        Some(code @ 1..=255) => Failure::new(code as u8, ""), // it has told why
                        _ => ended("a process of the generator has ended"),
                    });
                }
            }
            if let Some(signal) = session.signal() {
                return Err(Failure::signal(signal));
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One distribution of several; their percentiles could not be put together.
fn merge<'a>(parts: impl Iterator<Item = &'a Latency>) -> Result<Option<Latency>, Failure> {
    let mut sum = histogram();
    for part in parts {
        let part = part.histogram().map_err(|error| {
            Failure::new(exit::FAILURE, format!("a process of the generator: {error}"))
        })?;
        add(&mut sum, &part);
    }
    Ok(Latency::from_histogram(&sum))
}

/// Failures of the same kind together, the most frequent first.
fn errors<'a>(parts: impl Iterator<Item = &'a ErrorCount>) -> Vec<ErrorCount> {
    let mut by_kind: BTreeMap<_, ErrorCount> = BTreeMap::new();
    for part in parts {
        let same = by_kind.entry((part.kind.clone(), part.errno.clone()));
        same.and_modify(|sum| sum.count += part.count).or_insert_with(|| part.clone());
    }
    let mut errors: Vec<ErrorCount> = by_kind.into_values().collect();
    errors.sort_by_key(|error| std::cmp::Reverse(error.count));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_kind_are_added_up() {
        let count = |kind: &str, count| ErrorCount {
            kind: kind.to_owned(),
            errno: None,
            count,
            first: format!("{kind} {count}"),
        };
        let parts = [count("eof", 1), count("timeout", 2), count("eof", 3)];
        let sums = errors(parts.iter());
        let sums: Vec<_> = sums.iter().map(|sum| (&*sum.kind, sum.count, &*sum.first)).collect();
        assert_eq!(sums, [("eof", 4, "eof 1"), ("timeout", 2, "timeout 2")]);
    }

    #[test]
    fn distributions_are_merged_whole() {
        let part = |values: std::ops::Range<u64>| {
            let mut part = histogram();
            values.for_each(|value| part.record(value * 1000).unwrap());
            Latency::from_histogram(&part).unwrap()
        };
        let whole = part(1..1001);
        let merged = merge([part(1..11), part(11..1001)].iter()).unwrap().unwrap();
        assert_eq!((merged.count, merged.p99_ns), (1000, whole.p99_ns));
        assert_eq!(merge(std::iter::empty()).unwrap(), None);
    }
}
