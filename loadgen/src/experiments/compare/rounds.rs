//! The rounds of a comparison.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use lockstep_results::{Comparison, Floor, Plan, Run, store};
use lockstep_sys::errno::describe;

use super::CompareArgs;
use super::subjects::Entry;
use crate::exit::{self, Failure};
use crate::experiments;
use crate::options::{OutputArgs, SEED_END};
use crate::run::args::RunArgs;
use crate::run::{Finished, Job, Session};

/// The rounds made so far.
pub(super) struct Rounds<'a> {
    session: Session,
    args: &'a CompareArgs,
    base: RunArgs,
    entries: Vec<Entry>,
    plan: Plan,
    keep: Option<Keep>,
    runs: Vec<Run>,
    rng: Rng,
    code: u8,
    /// Subjects whose last run failed.
    failed: Vec<usize>,
    began: Instant,
    /// Runs made, and the most that are left.
    done: u32,
    left: u32,
}

/// Properties common to the runs of a round in a cell.
struct Shared {
    round: u32,
    conns: u32,
    size: u32,
    seed: u64,
    /// The machine's floor just before the runs.
    floor: Option<Floor>,
}

/// Directory of the runs' records.
pub(super) struct Keep {
    directory: PathBuf,
    /// The comparison's directory, which the records are named from.
    base: PathBuf,
}

impl Keep {
    /// # Errors
    ///
    /// If it is no directory in which files can be created.
    pub(super) fn new(directory: &Path, output: &OutputArgs) -> Result<Self, String> {
        let checked = fs::read_dir(directory).and_then(|_| store::check(directory, false));
        checked.map_err(|error| {
            format!("--keep-runs: {}: {}", directory.display(), describe(&error))
        })?;
        let base = match output.path.as_deref() {
            Some(path) if path.is_dir() => path,
            Some(file) => file.parent().unwrap_or(Path::new("")),
            None => Path::new(""),
        };
        Ok(Self { directory: directory.to_owned(), base: base.to_owned() })
    }

    fn write(&self, finished: &Finished) -> Result<String, Failure> {
        let file = store::write(&finished.record, &self.directory, false).map_err(|error| {
            Failure::file(exit::FAILURE, &self.directory, &error).rescue(&finished.record)
        })?;
        Ok(file.strip_prefix(&self.base).unwrap_or(&file).display().to_string())
    }
}

impl<'a> Rounds<'a> {
    pub(super) fn new(
        session: Session,
        args: &'a CompareArgs,
        base: RunArgs,
        entries: Vec<Entry>,
        plan: Plan,
        keep: Option<Keep>,
    ) -> Self {
        let rng = Rng::with_seed(plan.header.seed.unwrap_or_default());
        Self {
            session,
            args,
            base,
            entries,
            plan,
            keep,
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
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        let rounds_max = self.plan.stopping.rounds_max;
        for round in 1..=rounds_max {
            let judged = Comparison::judge(self.plan.clone(), &self.runs);
            let mut cells = self.args.cells();
            cells.retain(|&cell| {
                let mut stopped = judged.cells.iter().filter(|judged| judged.stopped.is_some());
                !stopped.any(|judged| (judged.conns, judged.size) == cell)
            });
            self.left = (rounds_max - round + 1) * (cells.len() * self.entries.len()) as u32;
            self.rng.shuffle(&mut cells);
            for (conns, size) in cells {
                let mut order: Vec<usize> = (0..self.entries.len()).collect();
                self.rng.shuffle(&mut order);
                let base = RunArgs { conns, size, ..self.base.clone() };
                // The same bytes, and in an open loop the same send times, for all subjects.
                let seed = self.rng.u64(..SEED_END);
                let floor = self.session.floor(&base, &[conns]);
                self.run_cell(&Shared { round, conns, size, seed, floor }, &order)?;
            }
        }
        Ok(())
    }

    /// Runs every subject once, in time slices or one after the other.
    fn run_cell(&mut self, shared: &Shared, order: &[usize]) -> Result<(), Failure> {
        let args: Vec<RunArgs> = order.iter().map(|&index| self.args(shared, index)).collect();
        let Some(slice) = self.args.slice(shared.conns, order.len()) else {
            for (args, &index) in args.iter().zip(order) {
                self.session.check_signal()?;
                let job = self.job(shared, args, index, &self.entries[index].name);
                let result = self.session.run(&job);
                self.note(shared.round, index, result)?;
            }
            return Ok(());
        };
        self.session.check_signal()?;
        let job = |(args, &index)| self.job(shared, args, index, "all in time slices");
        let jobs: Vec<Job<'_>> = args.iter().zip(order).map(job).collect();
        let results = self.session.run_in_slices(&jobs, slice);
        // Every result is kept before the first failure ends the comparison.
        let note = |(&index, result)| self.note(shared.round, index, result);
        order.iter().zip(results).map(note).collect::<Vec<_>>().into_iter().collect()
    }

    fn args(&self, shared: &Shared, index: usize) -> RunArgs {
        let args = self.entries[index].subject.args(&self.base);
        let mut args = RunArgs { conns: shared.conns, size: shared.size, ..args };
        args.generator.seed = Some(shared.seed);
        args
    }

    fn job<'b>(&'b self, shared: &Shared, args: &'b RunArgs, index: usize, who: &str) -> Job<'b> {
        let label = format!(
            "round {}/{}, {}, {} connections x {} bytes, {who}",
            shared.round,
            self.plan.stopping.rounds_max,
            remaining(self.began.elapsed(), self.done, self.left),
            args.conns,
            args.size,
        );
        let (argv, command) =
            (self.plan.header.argv.clone(), self.entries[index].subject.command());
        Job { args, command, argv, label, floor: shared.floor.clone(), member: None }
    }

    /// Takes the result of a run. A subject may fail once without ending the comparison.
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
                self.keep_run(round, index, finished)
            }
            Err(failure) if !failure.error.is_empty() && !self.failed.contains(&index) => {
                let (name, error) = (&self.entries[index].name, &failure.error);
                let line = format!("warning: round {round} goes on without {name}: {error}");
                let _ = writeln!(io::stderr(), "{line}");
                self.failed.push(index);
                self.code = self.code.max(exit::INCOMPLETE);
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    fn keep_run(&mut self, round: u32, index: usize, finished: Finished) -> Result<(), Failure> {
        let subject = self.entries[index].name.clone();
        let file = self.keep.as_ref().map(|keep| keep.write(&finished)).transpose();
        let Finished { record, code } = finished;
        let interrupted = record.interrupted;
        let (file, failure) = match file {
            Ok(file) => (file, None),
            Err(failure) => (None, Some(failure)),
        };
        self.runs.push(Run { round, subject, record, file });
        match code {
            // The comparison excludes invalid runs, and reports them.
            0 | exit::INVALID => {}
            code if interrupted => return Err(Failure::new(code, "")),
            exit::WRONG_REPLY => self.code = exit::WRONG_REPLY,
            _ => self.code = self.code.max(exit::INCOMPLETE),
        }
        failure.map_or(Ok(()), Err)
    }

    /// Judges the runs; the failure stands alone if there are none.
    pub(super) fn finish(
        self,
        failure: Option<Failure>,
    ) -> Result<experiments::Finished<Comparison>, Failure> {
        match failure {
            Some(failure) if self.runs.is_empty() => Err(failure),
            failure => {
                let mut document = Comparison::judge(self.plan, &self.runs);
                document.interrupted |= failure.is_some();
                let code = failure.as_ref().map_or(self.code, |failure| failure.code);
                Ok(experiments::Finished { document, code, failure })
            }
        }
    }
}

/// `at most 12 min left`, from the time of the runs so far. Rounds may end earlier.
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
    fn remaining_time_follows_from_the_runs_so_far() {
        let after = |seconds, done, left| remaining(Duration::from_secs(seconds), done, left);
        assert_eq!(after(0, 0, 40), "at most 40 runs");
        assert_eq!(after(5, 2, 38), "at most 95 s left");
        assert_eq!(after(30, 10, 41), "at most 3 min left");
        assert_eq!(after(3000, 100, 1000), "at most 9 h left");
        assert_eq!(after(30, 10, 0), "at most 0 s left");
    }
}
