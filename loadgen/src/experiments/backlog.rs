//! `loadgen backlog`: the effect of `listen(n)` on clients while no connection is accepted.
//!
//! Each trial is a process of its own, which gets its task as an argument and prints its result as
//! JSON. With private network namespaces the trials run concurrently, because each has the kernel's
//! counters to itself; otherwise they run one after another.

mod args;
mod checks;
mod client;
mod model;
mod process;
mod trial;

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::SystemTime;

use lockstep_results::{Backlog, Environment, Header};

pub use args::{BacklogArgs, Mode};
pub use process::{TrialArgs, trial};

use crate::exit::{self, Failure};
use crate::experiments::Finished;
use crate::machine::{processes, signals, usage};
use crate::servers::target;
use lockstep_sys::errno::describe;
use lockstep_sys::sock_diag::SockDiag;
use process::Task;
use trial::Spec;

/// Runs the experiment. A difference from the prediction is a result, with exit code 8.
///
/// # Errors
///
/// A usage error for options that cannot be met, otherwise the first failure of a trial.
pub fn backlog(args: &BacklogArgs, argv: Vec<String>) -> Result<Finished<Backlog>, Failure> {
    args.check().map_err(|error| Failure::new(exit::USAGE, error))?;
    args.output.check()?;
    let (sender, events) = channel();
    signals::watch(sender).map_err(|error| {
        Failure::new(exit::FAILURE, format!("cannot catch signals: {}", describe(&error)))
    })?;
    let started = SystemTime::now();
    let mut environment = Environment::capture();
    let mut notes = Vec::new();
    let private = args.netns && is_private(args, &mut notes)?;
    let target = args.target.as_deref().map(resolve).transpose()?;
    let release = target.filter(|_| args.release).map(process_to_release).transpose()?;
    let numbers = match target {
        Some(_) => vec![0],
        None => args.numbers().map_err(|error| Failure::new(exit::USAGE, error))?,
    };
    let task = |n| Task {
        private,
        settings: args.settings(),
        spec: Some(Spec {
            n,
            target,
            release,
            sources: args.source.clone(),
            extra: args.extra,
            in_sequence: args.mode == Mode::Seq,
            hold: args.hold,
            observe: args.observe,
        }),
    };
    let tasks: Vec<Task> = numbers.into_iter().map(task).collect();
    let (trials, failure) = process::run(&tasks, if private { tasks.len() } else { 1 }, &events)?;
    environment.capture_after();
    let backlog = Backlog {
        header: Header::new("backlog", started, argv, None),
        interrupted: failure.is_some() || trials.iter().any(|trial| trial.interrupted),
        mode: args.mode.name().to_owned(),
        extra: args.extra,
        hold_s: args.hold.as_secs_f64(),
        target: target.map(|addr| addr.to_string()),
        private,
        notes,
        trials,
        environment,
    };
    let code = match &failure {
        Some(failure) => failure.code,
        None if backlog.disagreements().is_empty() => 0,
        None => exit::INVALID,
    };
    Ok(Finished { document: backlog, code, failure })
}

/// True if private network namespaces are possible. Otherwise adds a note with the reason, or fails
/// where settings depend on one.
fn is_private(args: &BacklogArgs, notes: &mut Vec<String>) -> Result<bool, Failure> {
    let settings = args.settings();
    let Err(error) = process::preflight(&settings) else { return Ok(true) };
    if !settings.is_empty() {
        let hint = "settings are only changed in a private network namespace; run as root, or \
                    allow user namespaces";
        return Err(Failure::new(exit::FAILURE, error).hint(hint));
    }
    notes.push(format!("{error}; it takes root, or user namespaces"));
    Ok(false)
}

/// The address that the target listens at.
fn resolve(target: &str) -> Result<SocketAddr, Failure> {
    let addrs = target::look_up(target)?;
    let mut diag = SockDiag::open().map_err(|error| {
        let error = format!("cannot read the target's accept queue: {}", describe(&error));
        Failure::new(exit::FAILURE, error)
    })?;
    // `localhost` may have two addresses, and a server listen at one of them.
    let listens = |addr: &&SocketAddr| diag.listeners(**addr).is_ok_and(|found| !found.is_empty());
    addrs.iter().find(listens).copied().ok_or_else(|| trial::no_listener(target))
}

/// The process that listens at the target, if SIGUSR1 would not end it.
fn process_to_release(addr: SocketAddr) -> Result<i32, Failure> {
    let refused = |error: String| Failure::new(exit::USAGE, error);
    let Some(pid) = processes::listener(addr) else {
        return Err(refused(format!("--release: cannot find the process that listens at {addr}"))
            .hint("leave --release out, and let it accept within --observe"));
    };
    match usage::catches(pid, libc::SIGUSR1) {
        true => Ok(pid.as_raw_nonzero().get()),
        false => Err(refused(format!("--release: process {pid} does not catch SIGUSR1"))
            .hint("start it as `lockstep serve --accept-pause`")),
    }
}
