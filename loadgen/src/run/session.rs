//! One measured run, from the options to the record.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use lockstep_results::{Environment, Floor, Record, Threshold};

use crate::clients::pattern::Pattern;
use crate::clients::plan::{Plan, Share};
use crate::clients::slices::{self, SliceHandle};
use crate::clients::socket::Target;
use crate::event::{Event, FinishGuard};
use crate::exit::{self, Failure, Outcome};
use crate::machine::limits;
use crate::machine::pauses;
use crate::machine::placement::{Cpus, Place, Placement, pin};
use crate::machine::ports;
use crate::machine::signals;
use crate::options::{PlacementArgs, SEED_END};
use crate::ranks::Member;
use crate::run::args::RunArgs;
use crate::run::floor;
use crate::run::live::Live;
use crate::run::measure::{Run, measure};
use crate::run::observer::Observer;
use crate::run::prepare::{self, Job, Prepared, Several, prepare};
use crate::run::record::record;
use crate::servers::embedded;
use lockstep_sys::errno::describe;
use lockstep_sys::memory;

/// Result of a run.
#[derive(Debug)]
pub struct Finished {
    /// Record of the run.
    pub record: Record,
    /// Exit code.
    pub code: u8,
}

/// Runs one measurement in a session of its own, with the options of this process and its
/// membership in a run of ranks.
///
/// # Errors
///
/// Those of [`Session::check`] and [`Session::run`], and an output file that must not be written.
pub fn run(
    args: &RunArgs,
    member: Option<&Member>,
    argv: Vec<String>,
    live: &mut Live,
) -> Result<Finished, Failure> {
    args.output.check()?;
    let session = Session::start()?;
    session.check(args)?;
    let floor = session.floor(args, &[args.conns]);
    let job = Job { args, command: None, argv, label: String::new(), floor, member };
    // One progress line for a terminal that several ranks may share.
    let first = member.is_none_or(|member| member.share.index == 0);
    session.run_observed(&job, first && !live.prints(), live)
}

/// State that all runs of this process share.
#[derive(Debug)]
pub struct Session {
    cpus: Cpus,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Session {
    /// Reads the CPUs of this process, and catches signals from here on. To be called once.
    ///
    /// # Errors
    ///
    /// Those of sched_getaffinity(2) and sigaction(2), or of starting a thread.
    pub fn start() -> Result<Self, Failure> {
        let failed = |error: String| Failure::new(exit::FAILURE, error);
        let cpus = Cpus::read().map_err(|error| {
            failed(format!("cannot read the CPUs of this process: {}", describe(&error)))
        })?;
        let (sender, events) = channel();
        signals::watch(sender.clone())
            .map_err(|error| failed(format!("cannot catch signals: {}", describe(&error))))?;
        pauses::watch()
            .map_err(|error| failed(format!("cannot watch for pauses: {}", describe(&error))))?;
        Ok(Self { cpus, sender, events })
    }

    /// Checks that this machine has what the options need, and raises the limit of descriptors.
    ///
    /// # Errors
    ///
    /// Names the missing CPU, engine or number of descriptors, or the options that exclude each
    /// other.
    pub fn check(&self, args: &RunArgs) -> Result<(), Failure> {
        let usage = |error: String| Failure::new(exit::USAGE, error);
        if args.server.via.is_some() {
            if args.server.place == Place::Steered {
                let error = "--place steered: a server of --via has no CPUs of the generator";
                return Err(Failure::new(exit::USAGE, error));
            }
            // The CPUs of the server are those of the other machine.
            PlacementArgs { server_pin: None, ..args.placement.clone() }.check(&self.cpus)?;
        } else {
            args.placement.check(&self.cpus)?;
        }
        if args.server.place == Place::Steered {
            if args.placement.server_pin.is_some() {
                let error = "--place steered puts the server on the generator's CPUs";
                return Err(Failure::new(exit::USAGE, error).hint("say which with --pin alone"));
            }
            self.cpus.check("--place steered", Some(&[])).map_err(usage)?;
        }
        let engine = args.engine();
        engine.probe().map_err(|cause| {
            let error = format!("--engine {}: {cause}", engine.name());
            Failure::new(exit::UNAVAILABLE, error).hint("take --engine epoll")
        })?;
        let spins = args.server.server_spin.is_some_and(|spin| !spin.is_zero());
        if spins && !embedded::can_busy_poll(&args.backend) {
            let error = format!("--server-spin: {} has nothing to poll", args.backend);
            return Err(Failure::new(exit::USAGE, error).hint(embedded::busy_poll_hint()));
        }
        let threads = args.generator.threads.unwrap_or(self.cpus.given.len());
        limits::raise_descriptors(args.conns, threads).map_err(|error| {
            let hint = "raise it with `ulimit -n`; `loadgen sweep --conns` uses several processes";
            Failure::new(exit::USAGE, error).hint(hint)
        })
    }

    /// Measures the lower bound of the machine's cost under the load of these options, with these
    /// numbers of connections. This process may be confined to the generator's CPUs by then. Prints
    /// why it could not be measured.
    pub fn floor(&self, args: &RunArgs, conns: &[u32]) -> Option<Floor> {
        floor::brief(args, conns, &self.cpus).unwrap_or_else(|cause| {
            let _ = writeln!(io::stderr(), "warning: the floor was not measured: {cause}");
            None
        })
    }

    /// Returns the placement that a run with these options will have, as in its record, if it is
    /// not the default and known beforehand.
    pub(crate) fn placement(&self, args: &RunArgs) -> Option<String> {
        if args.target.is_some() || args.server.via.is_some() {
            return None;
        }
        prepare::place(args, &self.cpus).name(args.server.place).map(str::to_owned)
    }

    /// Returns warnings about the placement of a run that has no record, with a server that runs on
    /// these CPUs.
    pub(crate) fn warnings(
        &self,
        args: &RunArgs,
        placement: &Placement,
        server: &[usize],
    ) -> Vec<String> {
        match args.server.place {
            Place::Steered => Vec::new(),
            Place::Apart => {
                self.cpus.warnings(&placement.client, server, placement.server.is_some())
            }
        }
    }

    /// Checks for a signal between two runs.
    ///
    /// # Errors
    ///
    /// The signal, if one arrived.
    pub(crate) fn check_signal(&self) -> Result<(), Failure> {
        self.events.try_iter().try_for_each(|event| match event {
            Event::Signal(signal) => Err(Failure::signal(signal)),
            _ => Ok(()), // An event of a run that is over.
        })
    }

    /// Waits for a signal until the timeout.
    pub(crate) fn signal_within(&self, timeout: Duration) -> Option<i32> {
        match self.events.recv_timeout(timeout) {
            Ok(Event::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// Starts the server of a job, or finds its target, and confines this process to the
    /// generator's CPUs.
    pub(crate) fn prepare(&self, job: &Job<'_>) -> Result<(Prepared, Placement), Failure> {
        // The run before has confined this thread.
        pin(&self.cpus.given).map_err(|error| Failure::new(exit::FAILURE, error))?;
        prepare(job, &self.cpus, &self.sender, &self.events)
    }

    /// Starts several embedded servers on one port; see [`prepare`](Self::prepare).
    pub(crate) fn several(&self, args: &RunArgs, count: u32) -> Result<Several, Failure> {
        pin(&self.cpus.given).map_err(|error| Failure::new(exit::FAILURE, error))?;
        prepare::several(args, count, &self.cpus, &self.sender, &self.events)
    }

    /// Runs a job.
    ///
    /// # Errors
    ///
    /// Those of preparing its server, and of waiting for events. Failed connections are part of
    /// the result instead.
    pub fn run(&self, job: &Job<'_>) -> Result<Finished, Failure> {
        self.run_observed(job, true, &mut ())
    }

    /// Runs a job, with or without a progress line, and reports its events to `observer`.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub fn run_observed(
        &self,
        job: &Job<'_>,
        progress: bool,
        observer: &mut dyn Observer,
    ) -> Result<Finished, Failure> {
        // The run before has confined this thread; the environment is the machine's own state.
        pin(&self.cpus.given).map_err(|error| Failure::new(exit::FAILURE, error))?;
        run_job(self, job, None, progress, observer)
    }

    /// Runs several jobs concurrently, under load alternately in time slices of this length. Their
    /// loops have to be closed. Returns the results in the order of the jobs.
    pub fn run_in_slices(
        &self,
        jobs: &[Job<'_>],
        length: Duration,
    ) -> Vec<Result<Finished, Failure>> {
        thread::scope(|scope| {
            let (mut senders, mut runs) = (Vec::new(), Vec::new());
            for (job, slices) in jobs.iter().zip(slices::slices(jobs.len(), length)) {
                let (sender, events) = channel();
                senders.push(sender.clone());
                let session = Session { cpus: self.cpus.clone(), sender, events };
                let (progress, finish) = (runs.is_empty(), FinishGuard(self.sender.clone()));
                let work = move || {
                    let _finish = finish;
                    slices.wait_for_predecessors();
                    pin(&session.cpus.given).map_err(|error| Failure::new(exit::FAILURE, error))?;
                    run_job(&session, job, Some(slices), progress, &mut ())
                };
                // Dropped instead of started, it is finished and has no slices.
                runs.push(
                    memory::thread("run").and_then(|thread| thread.spawn_scoped(scope, work)),
                );
            }
            self.forward_signals(&senders);
            let failed = |error: String| Failure::new(exit::FAILURE, error);
            let result = |run: io::Result<ScopedJoinHandle<'_, Result<Finished, Failure>>>| {
                let run = run.map_err(|error| {
                    failed(format!("cannot start a thread: {}", describe(&error)))
                })?;
                run.join().unwrap_or_else(|_| Err(failed("a run panicked".to_owned())))
            };
            runs.into_iter().map(result).collect()
        })
    }

    /// Forwards signals to the runs until all have finished. The last one is kept for
    /// [`check_signal`](Self::check_signal): a run that is over no longer looks for signals.
    fn forward_signals(&self, runs: &[Sender<Event>]) {
        let (mut finished, mut last) = (0, None);
        while finished < runs.len() {
            match self.events.recv() {
                Ok(Event::Finished) => finished += 1,
                Ok(Event::Signal(signal)) => {
                    last = Some(Event::Signal(signal));
                    for run in runs {
                        let _run_is_over = run.send(Event::Signal(signal));
                    }
                }
                _ => {}
            }
        }
        if let Some(signal) = last {
            let _cannot_fail = self.sender.send(signal);
        }
    }
}

fn run_job(
    session: &Session,
    job: &Job<'_>,
    slices: Option<SliceHandle>,
    progress: bool,
    observer: &mut dyn Observer,
) -> Result<Finished, Failure> {
    let Session { cpus, sender, events } = session;
    let args = job.args;
    let mut environment = Environment::capture();
    let (server, placement) = prepare(job, cpus, sender, events)?;
    let usage = |error: String| Failure::new(exit::USAGE, error);
    let target = Target::from_sources(server.addr, &args.generator.source).map_err(usage)?;
    ports::check(args.conns, target.source_count().max(1))
        .map_err(|error| usage(error).hint(ports::HINT))?;
    let threads = args.generator.threads.unwrap_or(placement.client.len().min(args.conns as usize));
    let seed = args.generator.seed.unwrap_or_else(|| fastrand::u64(..SEED_END));
    let share = job.member.map_or(Share::WHOLE, |member| member.share);
    let own_seed = share.seed(seed);
    let run = Run {
        plan: Plan {
            engine: args.engine(),
            target,
            service: args.service,
            pattern: Pattern::new(args.size, own_seed),
            timeout: args.generator.timeout,
            connect_rate: args.generator.connect_rate,
            threads,
            share,
            open: args.open_loop(own_seed),
            spin: args.spin_closed(),
            interval_ns: args.interval().as_nanos() as u64,
            slices,
        },
        seed,
        conns: args.conns,
        requests: args.requests,
        warmup: args.warmup,
        duration: args.duration,
        placement,
        server: server.processes,
        page: server.page.clone(),
        progress: progress.then(|| job.label.clone()),
    };
    let measured = measure(&run, job.member, sender, events, observer)?;
    let (subject, ended) = server.stop(job);
    environment.capture_after();
    let failures = &measured.totals.failures;
    let mut outcome = Outcome {
        signal: measured.signal,
        wrong_replies: failures.wrong_replies() > 0,
        connected: measured.totals.connected > 0,
        failures: failures.total() > 0 || ended.as_ref().is_some_and(|e| e.error.is_some()),
        valid: false,
        held: false,
    };
    let record = record(job, &run, cpus, subject, ended.as_ref(), environment, measured);
    // Launchers may end all ranks if one exits with an error. The whole run is judged by the merge.
    outcome.valid = record.valid || job.member.is_some_and(Member::is_one_of_several);
    outcome.held = !record.thresholds.iter().any(Threshold::missed);
    Ok(Finished { record, code: outcome.code() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_that_the_runs_are_too_late_for_is_kept() {
        let (sender, events) = channel();
        let session = Session { cpus: Cpus::read().unwrap(), sender, events };
        session.sender.send(Event::Signal(1)).unwrap();
        session.sender.send(Event::Finished).unwrap();
        let (run, _run_is_over) = channel();
        session.forward_signals(&[run]);
        assert_eq!(session.check_signal().unwrap_err().code, exit::of_signal(1));
        assert!(session.check_signal().is_ok());
    }
}
