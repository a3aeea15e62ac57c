//! The runs of a sweep.

use std::time::Duration;

use fastrand::Rng;
use lockstep_results::{ErrorCount, Omission, Point, Purpose, Record};

use super::cells::Cell;
use super::idle::Probe;
use super::needs::Limits;
use super::processes;
use crate::clients::failures::not_connected;
use crate::exit::{self, Failure};
use crate::options::SEED_END;
use crate::run::args::RunArgs;
use crate::run::observer::Observer;
use crate::run::{Job, Session};
use crate::servers::command;

/// Interval, and largest number, of the waits for memory that the kernel still frees.
const FREE: Duration = Duration::from_millis(100);
const FREE_MAX: u32 = 20;

/// Makes runs with a common server and command line.
pub(super) struct Runner<'a> {
    session: Session,
    command: Option<&'a command::Subject>,
    argv: Vec<String>,
    /// Source of the order of the levels and of the seeds.
    pub(super) rng: Rng,
    /// The exit code of the worst run so far. Invalid and overloaded runs do not count.
    pub(super) code: u8,
    /// Names of the servers that ran.
    pub(super) subjects: Vec<String>,
    /// Index of the first source address of the next cell of several processes: the ports of
    /// earlier connections are in TIME_WAIT.
    source: u32,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        session: Session,
        command: Option<&'a command::Subject>,
        argv: Vec<String>,
        seed: u64,
    ) -> Self {
        let (rng, source) = (Rng::with_seed(seed), fastrand::u16(..).into());
        Self { session, command, argv, rng, code: 0, subjects: Vec::new(), source }
    }

    /// Makes a run.
    ///
    /// # Errors
    ///
    /// If the server cannot be started or connected to, or on a signal.
    pub(super) fn run(&mut self, args: RunArgs, label: String) -> Result<Record, Failure> {
        self.run_observed(args, label, &mut ())
    }

    fn run_observed(
        &mut self,
        mut args: RunArgs,
        label: String,
        observer: &mut dyn Observer,
    ) -> Result<Record, Failure> {
        self.session.check_signal()?;
        args.generator.seed = Some(self.rng.u64(..SEED_END));
        let (argv, command) = (self.argv.clone(), self.command);
        let job = Job { args: &args, command, argv, label, floor: None, member: None };
        let finished = self.session.run_observed(&job, true, observer)?;
        let record = finished.record;
        if record.interrupted {
            return Err(Failure::new(finished.code, ""));
        }
        let addr = &record.subject.addr;
        if finished.code == exit::ADDRESS {
            return Err(not_connected(addr, &record.errors, record.sources.len()));
        }
        // Further levels would show no more.
        if record.unserved == u64::from(record.conns) && record.errors_total > 0 {
            let cause = record.errors.first().map(ErrorCount::cause).unwrap_or_default();
            let error = format!("no reply from {addr}: {cause}");
            return Err(Failure::new(finished.code, error));
        }
        self.note(finished.code, &record.subject.name);
        Ok(record)
    }

    /// Waits until the machine has the memory for a cell, since the kernel may still free that of
    /// the run before. Returns the omission if it has not after a time.
    ///
    /// # Errors
    ///
    /// The signal that arrived meanwhile.
    pub(super) fn await_memory(
        &self,
        cell: &Cell,
        limits: &Limits,
    ) -> Result<Option<Omission>, Failure> {
        for _ in 0..FREE_MAX {
            if cell.check_memory(limits).is_ok() {
                break;
            }
            if let Some(signal) = self.session.signal_within(FREE) {
                return Err(Failure::signal(signal));
            }
        }
        Ok(cell.check_memory(limits).err())
    }

    /// Measures a cell: a level of a server.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub(super) fn measure(
        &mut self,
        cell: &Cell,
        round: u32,
        label: String,
    ) -> Result<Point, Failure> {
        let mut args = cell.args.clone();
        if cell.processes > 1 {
            self.session.check_signal()?;
            args.generator.seed = Some(self.rng.u64(..SEED_END));
            let (session, source) = (&self.session, &mut self.source);
            let measured =
                processes::measure(session, &args, cell.processes, source, round, &label)?;
            self.note(measured.code, &measured.subject);
            return Ok(Point { subject: Some(measured.subject), ..measured.point });
        }
        let mut probe = Probe::default();
        let record = match cell.idle {
            true => self.run_observed(args, label, &mut probe)?,
            false => self.run(args, label)?,
        };
        let mut point = Point::of(cell.level, round, Purpose::Level, &record);
        let served = u64::from(record.conns) - record.unserved;
        (point.opening, point.idle_memory) = probe.costs(record.conns, served).unzip();
        point.subject = Some(record.subject.name);
        Ok(point)
    }

    /// Takes the exit code and the server's name of a run. An invalid run is marked in its point.
    fn note(&mut self, code: u8, subject: &str) {
        match code {
            0 | exit::INVALID => {}
            exit::WRONG_REPLY => self.code = exit::WRONG_REPLY,
            _ => self.code = self.code.max(exit::INCOMPLETE),
        }
        if !self.subjects.iter().any(|known| known == subject) {
            self.subjects.push(subject.to_owned());
        }
    }
}
