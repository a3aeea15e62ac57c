//! What `listen(n)` really does: accept queues are filled while nobody accepts, and released.
//!
//! Each trial is a process of its own, which is told what to do as its argument and prints what
//! came of it as JSON. With a private network namespace each they run side by side, since nobody
//! counts there but they; otherwise one after another.

mod args;
mod checks;
mod client;
pub(crate) mod kernel;
mod model;
mod process;
mod server;
mod trial;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::time::SystemTime;

use lockstep_results::{Backlog, Environment, Header};

pub use args::{BacklogArgs, Mode};
pub use process::{TrialArgs, trial};

use crate::exit::{self, Failure};
use crate::machine::{processes, procfs, signals};
use lockstep_sys::errno::describe;
use lockstep_sys::sock_diag::SockDiag;
use process::{Children, Order};
use trial::Spec;

/// An experiment that has come to an end.
#[derive(Debug)]
pub struct Finished {
    /// What came of it.
    pub backlog: Backlog,
    /// The exit code.
    pub code: u8,
}

/// Carries out the experiment.
///
/// # Errors
///
/// When there is no result at all. What differs from the prediction is a result.
pub fn backlog(args: &BacklogArgs, argv: Vec<String>) -> Result<Finished, Failure> {
    let usage = |error: String| Failure::new(exit::USAGE, error);
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
    let release = match target.filter(|_| args.release) {
        Some(addr) => Some(releasable(addr)?),
        None => None,
    };
    let numbers = if target.is_some() { vec![0] } else { args.numbers().map_err(usage)? };
    let orders = numbers.into_iter().map(|n| Order {
        private,
        settings: args.settings(),
        spec: Some(Spec {
            n,
            target,
            release,
            extra: args.extra,
            storm: args.mode == Mode::Storm,
            hold: args.hold,
            observe: args.observe,
        }),
    });
    let at_a_time = if private { usize::MAX } else { 1 };
    let (trials, signal) = Children::run(orders.collect(), at_a_time, &events)?;
    environment.capture_after();
    let backlog = Backlog {
        header: Header::new("backlog", started, argv, None),
        interrupted: signal.is_some() || trials.iter().any(|trial| trial.interrupted),
        mode: args.mode.name().to_owned(),
        extra: args.extra,
        hold_s: args.hold.as_secs_f64(),
        target: target.map(|addr| addr.to_string()),
        private,
        notes,
        trials,
        environment,
    };
    let code = match signal {
        Some(signal) => exit::of_signal(signal),
        None if backlog.disagreements().is_empty() => 0,
        None => exit::INVALID,
    };
    Ok(Finished { backlog, code })
}

/// Whether a private network namespace can be had. Where it is only a wish, there is a note that
/// says what is missing.
fn is_private(args: &BacklogArgs, notes: &mut Vec<String>) -> Result<bool, Failure> {
    let settings = args.settings();
    let Err(error) = process::rehearse(&settings) else { return Ok(true) };
    if !settings.is_empty() {
        let hint = "settings are only changed in a private network namespace; run as root, or \
                    allow user namespaces";
        return Err(Failure::new(exit::FAILURE, error).hint(hint));
    }
    notes.push(format!("{error}; it takes root, or user namespaces"));
    Ok(false)
}

fn resolve(target: &str) -> Result<SocketAddr, Failure> {
    let addrs = target.to_socket_addrs().map_err(|error| {
        let error = format!("--target {target}: {}", describe(&error));
        Failure::new(exit::USAGE, error).hint("write it as 127.0.0.1:8898, or localhost:8898")
    })?;
    let addrs: Vec<SocketAddr> = addrs.collect();
    let mut diag = SockDiag::open().map_err(|error| {
        let error = format!("the target's queue cannot be seen: {}", describe(&error));
        Failure::new(exit::FAILURE, error)
    })?;
    // `localhost` may stand for two addresses, and a server listen at one of them.
    let listens = |addr: &&SocketAddr| diag.listeners(**addr).is_ok_and(|found| !found.is_empty());
    let listening = addrs.iter().find(listens).copied();
    listening.ok_or_else(|| {
        let error = format!("nobody listens at {target} in this network namespace");
        Failure::new(exit::ADDRESS, error).hint(
            "start one with `lockstep serve --accept-pause`; its queue is only seen from there",
        )
    })
}

/// The process that listens at the target, if SIGUSR1 would not end it.
fn releasable(addr: SocketAddr) -> Result<i32, Failure> {
    let refused = |error: String| Failure::new(exit::USAGE, error);
    let Some(pid) = processes::listener(addr) else {
        return Err(refused(format!("--release: the process at {addr} cannot be told"))
            .hint("leave --release out, and let it accept within --observe"));
    };
    match procfs::catches(pid, libc::SIGUSR1) {
        true => Ok(pid.as_raw_nonzero().get()),
        false => Err(refused(format!("--release: process {pid} does not catch SIGUSR1"))
            .hint("start it as `lockstep serve --accept-pause`")),
    }
}
