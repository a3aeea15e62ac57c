//! The rounds, as they are made.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use lockstep_results::statistics::Stopped;
use lockstep_results::{Comparison, Floor, Plan, Run, store};

use super::Compared;
use super::subjects::Entry;
use crate::exit::{self, Failure};
use crate::run::args::RunArgs;
use crate::run::{Finished, Job, Session};

/// A cell: connections and size.
type Key = (u32, u32);

/// For a number of connections, the length of the subjects' turns, if they take turns.
pub(super) type Turn = (u32, Option<Duration>);

/// The rounds made so far.
pub(super) struct Rounds {
    pub(super) session: Session,
    pub(super) base: RunArgs,
    pub(super) entries: Vec<Entry>,
    pub(super) plan: Plan,
    pub(super) keep: Option<Keep>,
    pub(super) turns: Vec<Turn>,
    runs: Vec<Run>,
    rng: Rng,
    code: u8,
    /// The subjects whose last run could not be made.
    failed: Vec<usize>,
    began: Instant,
    /// Runs tried, and how many more there may be.
    done: u32,
    left: u32,
}

/// What the runs of a round in a cell have in common.
struct Shared {
    round: u32,
    cell: Key,
    seed: u64,
    /// What the machine could do at all just before them.
    floor: Option<Floor>,
}

/// Where the runs' records are kept.
pub(super) struct Keep {
    /// The directory they go into.
    pub(super) directory: PathBuf,
    /// The comparison's own, from which they are named where that leads to them.
    pub(super) beside: Option<PathBuf>,
}

impl Keep {
    fn write(&self, finished: &Finished) -> Result<String, Failure> {
        let file = store::write(&finished.record, &self.directory, false)
            .map_err(|error| Failure::new(exit::FAILURE, error.to_string()))?;
        let base = self.beside.as_deref().unwrap_or(Path::new(""));
        Ok(file.strip_prefix(base).unwrap_or(&file).display().to_string())
    }
}

impl Rounds {
    pub(super) fn new(
        session: Session,
        base: RunArgs,
        entries: Vec<Entry>,
        plan: Plan,
        keep: Option<Keep>,
        turns: Vec<Turn>,
    ) -> Self {
        let rng = Rng::with_seed(plan.header.seed.unwrap_or_default());
        Self {
            session,
            base,
            entries,
            plan,
            keep,
            turns,
            runs: Vec::new(),
            rng,
            code: 0,
            failed: Vec::new(),
            began: Instant::now(),
            done: 0,
            left: 0,
        }
    }

    /// Makes rounds until every cell has enough.
    pub(super) fn make(&mut self, cells: &[Key]) -> Result<(), Failure> {
        for round in 1..=self.plan.stopping.rounds_max {
            let judged = Comparison::judge(self.plan.clone(), &self.runs);
            let stopped: Vec<(Key, Option<Stopped>)> =
                judged.cells.iter().map(|cell| ((cell.conns, cell.size), cell.stopped)).collect();
            let enough = |cell| stopped.iter().any(|&(key, why)| key == cell && why.is_some());
            let mut open: Vec<Key> = cells.iter().copied().filter(|&cell| !enough(cell)).collect();
            let rounds_left = self.plan.stopping.rounds_max - round + 1;
            self.left = rounds_left * (open.len() * self.entries.len()) as u32;
            self.rng.shuffle(&mut open);
            for cell in open {
                let mut order: Vec<usize> = (0..self.entries.len()).collect();
                self.rng.shuffle(&mut order);
                let (conns, size) = cell;
                let base = RunArgs { conns, size, ..self.base.clone() };
                // The same bytes, and in an open loop the same instants, for all.
                let seed = self.rng.u64(..);
                let shared =
                    Shared { round, cell, seed, floor: self.session.floor(&base, &[conns]) };
                match self.turn(cell) {
                    Some(turn) => self.run_in_turns(&shared, &order, turn)?,
                    None => {
                        for index in order {
                            self.run(&shared, index)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn turn(&self, (conns, _): Key) -> Option<Duration> {
        self.turns.iter().find(|(of, _)| *of == conns).and_then(|&(_, turn)| turn)
    }

    fn run(&mut self, shared: &Shared, index: usize) -> Result<(), Failure> {
        if let Some(signal) = self.session.signal() {
            return Err(Failure::signal(signal));
        }
        let args = self.args(shared, index);
        let job = self.job(shared, &args, index, &self.entries[index].name);
        let result = self.session.run(&job);
        self.note(shared.round, index, result)
    }

    fn run_in_turns(
        &mut self,
        shared: &Shared,
        order: &[usize],
        turn: Duration,
    ) -> Result<(), Failure> {
        if let Some(signal) = self.session.signal() {
            return Err(Failure::signal(signal));
        }
        let args: Vec<RunArgs> = order.iter().map(|&index| self.args(shared, index)).collect();
        let job = |(args, &index)| self.job(shared, args, index, "all in turn");
        let jobs: Vec<Job<'_>> = args.iter().zip(order).map(job).collect();
        let results = self.session.run_in_turns(&jobs, turn);
        // What was measured is kept, whatever became of another one.
        let noted =
            order.iter().zip(results).map(|(&index, it)| self.note(shared.round, index, it));
        noted.collect::<Vec<_>>().into_iter().collect()
    }

    fn args(&self, shared: &Shared, index: usize) -> RunArgs {
        let (conns, size) = shared.cell;
        let mut args = RunArgs { conns, size, ..self.entries[index].subject.args(&self.base) };
        args.generator.seed = Some(shared.seed);
        args
    }

    fn job<'a>(&'a self, shared: &Shared, args: &'a RunArgs, index: usize, who: &str) -> Job<'a> {
        let label = format!(
            "round {}/{}, {}x{}, {who}; {}: ",
            shared.round,
            self.plan.stopping.rounds_max,
            args.conns,
            args.size,
            remaining(self.began.elapsed(), self.done, self.left)
        );
        let (argv, command) =
            (self.plan.header.argv.clone(), self.entries[index].subject.command());
        Job { args, command, argv, label, floor: shared.floor.clone() }
    }

    /// Takes the result of a run, or of the attempt.
    fn note(
        &mut self,
        round: u32,
        index: usize,
        result: Result<Finished, Failure>,
    ) -> Result<(), Failure> {
        self.done += 1;
        self.left = self.left.saturating_sub(1);
        match result {
            Ok(finished) => {
                self.failed.retain(|&failed| failed != index);
                self.take(round, index, finished)
            }
            // What has started before may fail once; the rounds made so far are worth more.
            Err(failure) if !failure.error.is_empty() && !self.failed.contains(&index) => {
                let (name, error) = (&self.entries[index].name, &failure.error);
                let line = format!("warning: round {round} goes on without {name}: {error}");
                let _nobody_reads = writeln!(io::stderr(), "{line}");
                self.failed.push(index);
                self.code = self.code.max(exit::INCOMPLETE);
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    fn take(&mut self, round: u32, index: usize, finished: Finished) -> Result<(), Failure> {
        let subject = self.entries[index].name.clone();
        let file = self.keep.as_ref().map(|keep| keep.write(&finished)).transpose();
        let Finished { record, code } = finished;
        let interrupted = record.interrupted;
        let (file, lost) = match file {
            Ok(file) => (file, None),
            Err(failure) => (None, Some(failure)),
        };
        self.runs.push(Run { round, subject, record, file });
        match code {
            // What is invalid is left out, and the comparison says so.
            0 | exit::INVALID => {}
            code if interrupted => return Err(Failure::new(code, "")),
            exit::WRONG_REPLY => self.code = exit::WRONG_REPLY,
            _ => self.code = self.code.max(exit::INCOMPLETE),
        }
        lost.map_or(Ok(()), Err)
    }

    pub(super) fn into_compared(self, failure: Option<Failure>) -> Result<Compared, Failure> {
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

/// `at most 12 min left`, by how long the runs took that are done; rounds may end earlier.
fn remaining(elapsed: Duration, done: u32, left: u32) -> String {
    if done == 0 {
        return format!("at most {left} runs");
    }
    match (elapsed / done * left).as_secs() {
        seconds @ ..120 => format!("at most {seconds} s left"),
        seconds @ ..7200 => format!("at most {} min left", seconds.div_ceil(60)),
        seconds => format!("at most {} h left", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_by_the_runs_that_are_done() {
        let after = |seconds, done, left| remaining(Duration::from_secs(seconds), done, left);
        assert_eq!(after(0, 0, 40), "at most 40 runs");
        assert_eq!(after(5, 2, 38), "at most 95 s left");
        assert_eq!(after(30, 10, 41), "at most 3 min left");
        assert_eq!(after(3000, 100, 1000), "at most 9 h left");
        assert_eq!(after(30, 10, 0), "at most 0 s left");
    }
}
