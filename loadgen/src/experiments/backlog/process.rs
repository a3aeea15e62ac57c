//! The processes of the trials, from both sides.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use clap::Args;
use lockstep_results::backlog::Trial;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::trial::{self, Spec};
use crate::event::Event;
use crate::exit::{self, Failure};
use crate::machine::children;
use lockstep_sys::errno::describe;
use lockstep_sys::netns::Private;

/// Interval between two checks for processes that have ended.
const POLL: Duration = Duration::from_millis(20);

/// Task of a trial's process, given as its argument.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Task {
    /// Move into a network namespace of its own.
    pub(super) private: bool,
    /// Settings to make there, and their values.
    pub(super) settings: Vec<(String, u32)>,
    /// The trial; without it, only the preparation is tested.
    pub(super) spec: Option<Spec>,
}

/// Answer of a trial's process, printed as JSON. It has no trial if only the preparation was
/// tested.
type Answer = Result<Option<Trial>, Failure>;

/// Options of the hidden `loadgen backlog-trial`.
#[derive(Args, Debug)]
pub struct TrialArgs {
    /// The experiment's process; the trial ends with it.
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// Task in JSON.
    task: String,
}

/// Runs a trial and prints its result as JSON.
pub fn trial(args: &TrialArgs) -> ExitCode {
    if !children::end_with(args.parent) {
        return ExitCode::FAILURE;
    }
    let printed = serde_json::to_writer(io::stdout().lock(), &perform(&args.task)).is_ok();
    let flushed = io::stdout().flush().is_ok();
    if printed && flushed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn perform(task: &str) -> Answer {
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    let task: Task =
        serde_json::from_str(task).map_err(|error| failed(format!("the task: {error}")))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())
            .map_err(|error| failed(format!("cannot catch signals: {}", describe(&error))))?;
    }
    if task.private {
        let namespace = Private::enter()
            .map_err(|error| failed(format!("no private network namespace: {error}")))?;
        for (setting, value) in &task.settings {
            namespace.set(setting, *value).map_err(failed)?;
        }
    }
    task.spec.map(|spec| trial::run(&spec, interrupted)).transpose()
}

/// Tests whether a process can have a private network namespace with these settings.
///
/// # Errors
///
/// The failed step and its error, in one line.
pub(super) fn preflight(settings: &[(String, u32)]) -> Result<(), String> {
    let task = Task { private: true, settings: settings.to_vec(), spec: None };
    let result = Process::start(&task).and_then(|mut process| {
        let _answer_shows_failure = process.child.wait();
        process.finish()
    });
    result.map(drop).map_err(|failure| failure.error)
}

/// Runs the tasks, `at_a_time` concurrently; returns the results in the same order, and the failure
/// or signal that cut them short.
///
/// # Errors
///
/// The failure or signal, if there is no result. The other processes end with this one.
pub(super) fn run(
    tasks: &[Task],
    at_a_time: usize,
    events: &Receiver<Event>,
) -> Result<(Vec<Trial>, Option<Failure>), Failure> {
    let mut trials = Vec::new();
    match run_all(tasks, at_a_time, events, &mut trials) {
        Err(failure) if trials.is_empty() => Err(failure),
        result => Ok((trials, result.err())),
    }
}

fn run_all(
    tasks: &[Task],
    at_a_time: usize,
    events: &Receiver<Event>,
    trials: &mut Vec<Trial>,
) -> Result<(), Failure> {
    let mut signal = None;
    for tasks in tasks.chunks(at_a_time) {
        let processes: Result<Vec<Process>, Failure> = tasks.iter().map(Process::start).collect();
        let mut processes = processes?;
        while processes.iter_mut().any(|process| matches!(process.child.try_wait(), Ok(None))) {
            if let Ok(Event::Signal(number)) = events.recv_timeout(POLL) {
                signal = Some(number);
                processes.iter_mut().for_each(Process::interrupt);
            }
        }
        for process in processes {
            match process.finish() {
                Ok(trial) => trials.extend(trial),
                // The signal came before the process could catch it.
                Err(_) if signal.is_some() => {}
                Err(failure) => return Err(failure),
            }
        }
        if let Some(signal) = signal {
            return Err(Failure::signal(signal));
        }
    }
    Ok(())
}

/// A trial's process. Its standard output is a file in memory, which cannot fill up as a pipe does.
struct Process {
    child: Child,
    answer: File,
}

impl Process {
    fn start(task: &Task) -> Result<Self, Failure> {
        let spawn = || {
            let answer = File::from(memfd_create("trial", MemfdFlags::CLOEXEC)?);
            let child = children::this_program("backlog-trial")
                .arg("--")
                .arg(serde_json::to_string(task)?)
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(answer.try_clone()?)
                .spawn()?;
            Ok(Self { child, answer })
        };
        spawn().map_err(|error: io::Error| {
            let error = format!("cannot start a trial: {}", describe(&error));
            Failure::new(exit::FAILURE, error)
        })
    }

    /// Makes it end early and print a partial result.
    fn interrupt(&mut self) {
        // The process ID is valid until the process has been waited for.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        }
    }

    /// The answer of a process that has ended.
    fn finish(mut self) -> Answer {
        let mut text = String::new();
        // A text that is missing or cut is not JSON.
        let _ = self.answer.rewind().and_then(|()| self.answer.read_to_string(&mut text));
        serde_json::from_str(&text).unwrap_or_else(|_| {
            let status = self.child.wait().map_or_else(|_| "".to_owned(), |s| s.to_string());
            let error = format!("a trial has ended without a result ({status})");
            Err(Failure::new(exit::FAILURE, error))
        })
    }
}
