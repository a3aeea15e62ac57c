//! Several servers measured in rounds, under the same load, until the difference is known.
//!
//! A round runs every subject once in every cell (connections and size), the cells and the subjects
//! in each of them in an order drawn by lot: what drifts while it goes on is common to the runs of
//! a round. Each run has a server of its own, started for it on the same processors, and a warm-up
//! that does not count. What the rounds show, and when they are enough, is for
//! [`Comparison`] to say.

mod args;
mod peers;
mod subjects;
mod text;

use std::time::{Duration, SystemTime};

use fastrand::Rng;
use lockstep_results::statistics::{Stopped, Stopping};
use lockstep_results::{Comparison, Plan, Run, store};

pub use args::CompareArgs;
pub use subjects::Subject;
pub use text::text;

use crate::args::RunArgs;
use crate::exit::{self, Failure};
use crate::run::{Finished, Job, Session};
use subjects::Entry;

/// A comparison that has come to an end.
#[derive(Debug)]
pub struct Compared {
    /// The comparison.
    pub comparison: Comparison,
    /// The exit code.
    pub code: u8,
    /// Why it ended before it was done; what there is stands all the same.
    pub failure: Option<Failure>,
}

/// Carries out a comparison.
///
/// # Errors
///
/// When there is no result at all: a subject cannot start or is not an echo server, or a signal
/// came before the first run was over. Runs that are invalid are a result.
pub fn compare(args: &CompareArgs, argv: Vec<String>) -> Result<Compared, Failure> {
    let usage = |error: String| Failure::new(exit::USAGE, error);
    let entries = subjects::entries(args).map_err(usage)?;
    if let Some(path) = &args.output {
        store::check(path, args.force).map_err(|error| usage(error.to_string()))?;
    }
    let session = Session::start()?;
    let base = args.base();
    for &(conns, size) in &args.cells() {
        RunArgs { conns, size, ..base.clone() }.finish().map_err(usage)?;
    }
    let conns_max = args.conns.iter().copied().max().unwrap_or(1);
    session.check(&RunArgs { conns: conns_max, ..base.clone() })?;
    let size_max = args.size.iter().copied().max().unwrap_or(1);
    rehearse(&session, &RunArgs { size: size_max, ..base.clone() }, &entries)?;

    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let plan = Plan {
        tool: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        argv,
        seed,
        subjects: entries.iter().map(|entry| entry.name.clone()).collect(),
        baseline: entries[0].name.clone(),
        aa: entries.iter().all(|entry| entry.subject == entries[0].subject),
        stopping: Stopping {
            rounds_min: Stopping::default().rounds_min.min(args.rounds),
            rounds_max: args.rounds,
            ..Stopping::default()
        },
    };
    let mut rounds = Rounds {
        session,
        base,
        entries,
        plan,
        runs: Vec::new(),
        rng: Rng::with_seed(seed),
        code: 0,
    };
    let failure = rounds.make(&args.cells()).err();
    rounds.into_compared(failure)
}

/// Starts every subject once, for one exchange, so that what cannot start, or does not answer with
/// what it was sent, is known before the first round.
fn rehearse(session: &Session, base: &RunArgs, entries: &[Entry]) -> Result<(), Failure> {
    for (index, entry) in entries.iter().enumerate() {
        if entries[..index].iter().any(|before| before.subject == entry.subject) {
            continue;
        }
        let args = RunArgs {
            conns: 1,
            threads: None,
            requests: Some(1),
            duration: None,
            warmup: Duration::ZERO,
            backend: entry.subject.backend(),
            ..base.clone()
        };
        let finished = session.run(&Job {
            args: &args,
            command: entry.subject.command(),
            argv: Vec::new(),
            label: format!("trying {}: ", entry.name),
            floor: None,
        })?;
        // That one exchange is no measurement is no surprise.
        if !matches!(finished.code, 0 | exit::INVALID) {
            return Err(unfit(&entry.name, &finished));
        }
    }
    Ok(())
}

/// What is wrong with a subject that does not get through one exchange.
fn unfit(name: &str, finished: &Finished) -> Failure {
    if finished.record.interrupted {
        return Failure::new(finished.code, "");
    }
    let errors = finished.record.errors.iter().map(|error| &error.first);
    let cause = errors.chain(&finished.record.invalid_reasons).next();
    let cause = cause.map_or("one exchange failed", String::as_str);
    let failure = Failure::new(finished.code, format!("{name}: {cause}"));
    match finished.code {
        exit::WRONG_REPLY => failure.hint("a subject sends back the bytes that it receives"),
        _ => failure,
    }
}

/// The rounds, as they are made.
struct Rounds {
    session: Session,
    base: RunArgs,
    entries: Vec<Entry>,
    plan: Plan,
    runs: Vec<Run>,
    rng: Rng,
    code: u8,
}

impl Rounds {
    /// Makes rounds until every cell has enough.
    fn make(&mut self, cells: &[(u32, u32)]) -> Result<(), Failure> {
        for round in 1.. {
            let judged = Comparison::judge(self.plan.clone(), &self.runs);
            let stopped: Vec<((u32, u32), Option<Stopped>)> =
                judged.cells.iter().map(|cell| ((cell.conns, cell.size), cell.stopped)).collect();
            let enough = |cell| stopped.iter().any(|&(key, why)| key == cell && why.is_some());
            let mut open: Vec<_> = cells.iter().copied().filter(|&cell| !enough(cell)).collect();
            if open.is_empty() {
                break;
            }
            self.rng.shuffle(&mut open);
            for cell in open {
                let mut order: Vec<usize> = (0..self.entries.len()).collect();
                self.rng.shuffle(&mut order);
                for index in order {
                    self.run(round, cell, index)?;
                }
            }
        }
        Ok(())
    }

    fn run(&mut self, round: u32, (conns, size): (u32, u32), index: usize) -> Result<(), Failure> {
        if let Some(signal) = self.session.signal() {
            return Err(Failure::signal(signal));
        }
        let entry = &self.entries[index];
        let args = RunArgs {
            conns,
            size,
            backend: entry.subject.backend(),
            seed: Some(self.rng.u64(..)),
            ..self.base.clone()
        };
        let (most, name) = (self.plan.stopping.rounds_max, &entry.name);
        let finished = self.session.run(&Job {
            args: &args,
            command: entry.subject.command(),
            argv: self.plan.argv.clone(),
            label: format!("round {round} of at most {most}, {conns}x{size}, {name}: "),
            floor: None,
        })?;
        let Finished { record, code } = finished;
        let interrupted = record.interrupted;
        self.runs.push(Run { round, subject: name.clone(), record, file: None });
        match code {
            // What is invalid is left out, and the comparison says so.
            0 | exit::INVALID => {}
            code if interrupted => return Err(Failure::new(code, "")),
            exit::WRONG_REPLY => self.code = exit::WRONG_REPLY,
            _ => self.code = self.code.max(exit::INCOMPLETE),
        }
        Ok(())
    }

    fn into_compared(self, failure: Option<Failure>) -> Result<Compared, Failure> {
        match failure {
            Some(failure) if self.runs.is_empty() => Err(failure),
            failure => {
                let mut comparison = Comparison::judge(self.plan, &self.runs);
                comparison.interrupted |= failure.is_some();
                let code = failure.as_ref().map_or(self.code, |failure| failure.code);
                Ok(Compared { comparison, code, failure })
            }
        }
    }
}
