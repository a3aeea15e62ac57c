//! The processes of the trials, from both sides.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Args;
use lockstep_results::backlog::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::trial::{self, Spec};
use crate::event::Event;
use crate::exit::{self, Failure};
use crate::machine::netns::Private;
use crate::machine::signals;
use lockstep_sys::errno::describe;

/// How often it is looked whether a trial is over.
const POLL: Duration = Duration::from_millis(20);

/// What a trial's process is told.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Order {
    /// Whether to move into a network namespace of its own.
    pub(super) private: bool,
    /// Settings to make there, and their values.
    pub(super) settings: Vec<(String, u32)>,
    /// The trial; without one it is only tried whether all that can be done.
    pub(super) spec: Option<Spec>,
}

/// What a trial's process says.
#[derive(Debug, Deserialize, Serialize)]
enum Answer {
    Ready,
    Trial(Box<Trial>),
    Failed { code: u8, error: String, hint: Option<String> },
}

/// The options of the hidden `loadgen backlog-trial`.
#[derive(Args, Debug)]
pub struct TrialArgs {
    /// The experiment's process; the trial ends with it.
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// What to do, in JSON.
    order: String,
}

/// Carries out a trial and prints what came of it, as JSON.
pub fn trial(args: &TrialArgs) -> ExitCode {
    if !signals::end_with(args.parent) {
        return ExitCode::FAILURE;
    }
    let answer = match obey(&args.order) {
        Ok(answer) => answer,
        Err(Failure { code, error, hint }) => Answer::Failed { code, error, hint },
    };
    let printed = serde_json::to_writer(io::stdout().lock(), &answer).is_ok();
    let flushed = io::stdout().flush().is_ok();
    if printed && flushed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn obey(order: &str) -> Result<Answer, Failure> {
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    let order: Order =
        serde_json::from_str(order).map_err(|error| failed(format!("the order: {error}")))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())
            .map_err(|error| failed(format!("cannot catch signals: {}", describe(&error))))?;
    }
    if order.private {
        let namespace = Private::enter()
            .map_err(|error| failed(format!("no private network namespace: {error}")))?;
        for (setting, value) in &order.settings {
            namespace.set(setting, *value).map_err(failed)?;
        }
    }
    match order.spec {
        None => Ok(Answer::Ready),
        Some(spec) => Ok(Answer::Trial(Box::new(trial::run(&spec, interrupted)?))),
    }
}

/// Tries whether a private network namespace can be had and set up.
///
/// # Errors
///
/// One line that says what is missing.
pub(super) fn rehearse(settings: &[(String, u32)]) -> Result<(), String> {
    let order = Order { private: true, settings: settings.to_vec(), spec: None };
    match Running::start(&order).and_then(Running::finish) {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.error),
    }
}

/// The processes of several trials.
pub(super) struct Children;

impl Children {
    /// Runs the trials, so many at a time, and returns what came of them in the order given, with
    /// the signal that cut them short.
    ///
    /// # Errors
    ///
    /// Of the first that has failed; the others are ended.
    pub(super) fn run(
        orders: Vec<Order>,
        at_a_time: usize,
        events: &Receiver<Event>,
    ) -> Result<(Vec<Trial>, Option<i32>), Failure> {
        let (mut trials, mut signal) = (Vec::new(), None);
        for orders in orders.chunks(at_a_time.min(orders.len()).max(1)) {
            if signal.is_some() {
                break;
            }
            let running: Result<Vec<Running>, Failure> =
                orders.iter().map(Running::start).collect();
            let mut running = running?;
            while running.iter_mut().any(|running| !running.is_over()) {
                match events.recv_timeout(POLL) {
                    Ok(Event::Signal(number)) => {
                        signal = Some(number);
                        running.iter().for_each(Running::interrupt);
                    }
                    Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
                }
            }
            for running in running {
                match running.finish() {
                    Ok(trial) => trials.extend(trial),
                    // It was told to end before it could say anything.
                    Err(_) if signal.is_some() => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
        match signal {
            Some(signal) if trials.is_empty() => Err(Failure::signal(signal)),
            _ => Ok((trials, signal)),
        }
    }
}

/// A trial's process. Dropping it ends it.
struct Running {
    child: Child,
    said: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    fn start(order: &Order) -> Result<Self, Failure> {
        let spawn = || {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["backlog-trial", "--parent", &std::process::id().to_string(), "--"])
                .arg(serde_json::to_string(order)?)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()?;
            let stdout = child.stdout.take();
            let mut running = Self { child, said: None };
            let read = move || {
                let mut said = Vec::new();
                if let Some(mut stdout) = stdout {
                    // What is missing shows when it is parsed.
                    let _ = stdout.read_to_end(&mut said);
                }
                said
            };
            running.said = Some(thread::Builder::new().name("trial".to_owned()).spawn(read)?);
            Ok(running)
        };
        spawn().map_err(|error: io::Error| {
            let error = format!("cannot start a trial: {}", describe(&error));
            Failure::new(exit::FAILURE, error)
        })
    }

    fn is_over(&mut self) -> bool {
        self.said.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Has it end early, with what there is.
    fn interrupt(&self) {
        // It has not been waited for: the number is still its own.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
    }

    /// What came of it; nothing of a rehearsal.
    fn finish(mut self) -> Result<Option<Trial>, Failure> {
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        match serde_json::from_slice(&said) {
            Ok(Answer::Ready) => Ok(None),
            Ok(Answer::Trial(trial)) => Ok(Some(*trial)),
            Ok(Answer::Failed { code, error, hint }) => Err(Failure { code, error, hint }),
            Err(_) => {
                let ending = self.child.wait().map_or_else(|_| "".to_owned(), |s| s.to_string());
                let error = format!("a trial has ended without a result ({ending})");
                Err(Failure::new(exit::FAILURE, error))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
