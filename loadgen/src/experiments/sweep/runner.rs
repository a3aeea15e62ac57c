//! The runs of a sweep, one after the other.

use fastrand::Rng;
use lockstep_results::Record;

use crate::exit::{self, Failure};
use crate::run::args::RunArgs;
use crate::run::{Job, Session};
use crate::servers::command;

/// Makes runs that have their server and command line in common.
pub(super) struct Runner<'a> {
    session: Session,
    command: Option<&'a command::Subject>,
    argv: Vec<String>,
    /// Draws the order of the levels and the seeds of the runs.
    pub(super) rng: Rng,
    /// The exit code of the worst run so far, apart from what a curve shows.
    pub(super) code: u8,
    /// The server that ran, by its record.
    pub(super) subject: Option<String>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        session: Session,
        command: Option<&'a command::Subject>,
        argv: Vec<String>,
        seed: u64,
    ) -> Self {
        Self { session, command, argv, rng: Rng::with_seed(seed), code: 0, subject: None }
    }

    /// Makes a run.
    ///
    /// # Errors
    ///
    /// When the server cannot be started or connected to, or a signal came.
    pub(super) fn run(&mut self, mut args: RunArgs, label: String) -> Result<Record, Failure> {
        if let Some(signal) = self.session.signal() {
            return Err(Failure::signal(signal));
        }
        args.generator.seed = Some(self.rng.u64(..));
        let (argv, command) = (self.argv.clone(), self.command);
        let job = Job { args: &args, command, argv, label, floor: None };
        let finished = self.session.run(&job)?;
        let record = finished.record;
        match finished.code {
            // What is invalid is a point that says so.
            0 | exit::INVALID => {}
            code if record.interrupted => return Err(Failure::new(code, "")),
            exit::ADDRESS => {
                let cause = record.errors.first().map_or("", |error| error.first.as_str());
                let error = format!("cannot connect to {}: {cause}", record.subject.addr);
                return Err(Failure::new(exit::ADDRESS, error));
            }
            exit::WRONG_REPLY => self.code = exit::WRONG_REPLY,
            _ => self.code = self.code.max(exit::INCOMPLETE),
        }
        self.subject.get_or_insert_with(|| record.subject.name.clone());
        Ok(record)
    }
}
