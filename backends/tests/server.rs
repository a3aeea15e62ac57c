//! A server whose first shard runs on the caller's thread: readiness, errors and panics.

use std::io;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use lockstep_backends::{
    AcceptPause, Backend, Config, Options, Server, ServiceFactory, Shard, StartError, Stats, Stop,
    Unsupported,
};
use lockstep_core::Echo;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Outcome of a shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Ends,
    CannotBegin,
    Fails,
    Panics,
    /// Counts an accepted connection and not its close.
    Miscounts,
}

/// Serves no connection until it is stopped, or ends with its fate.
#[derive(Debug)]
struct Fated {
    caller: ThreadId,
    first: Fate,
    others: Fate,
}

impl Backend for Fated {
    fn name(&self) -> &'static str {
        "fated"
    }

    fn probe(&self, _shards: usize) -> Result<String, Unsupported> {
        Ok("as fate has it".to_owned())
    }

    fn default_shards(&self, cpus: usize) -> usize {
        cpus
    }

    fn serve(&self, shard: Shard<'_>) -> io::Result<Stats> {
        let is_first = thread::current().id() == self.caller;
        let fate = if is_first { self.first } else { self.others };
        if fate == Fate::CannotBegin {
            let (cause, hint) = ("not here".to_owned(), "go elsewhere".to_owned());
            return Err(io::Error::other(Unsupported { cause, hint }));
        }
        (shard.ready)()?;
        match fate {
            Fate::Fails => return Err(io::Error::other("it fails")),
            Fate::Panics => panic!("as the test wants it"),
            Fate::Ends | Fate::CannotBegin | Fate::Miscounts => {}
        }
        assert!(shard.stop.wait(PATIENCE), "not stopped");
        let mut stats = Stats::new();
        if fate == Fate::Miscounts {
            stats.on_accepted();
        }
        Ok(stats)
    }
}

/// Runs three shards; returns their result, and whether they were ready before.
fn run(first: Fate, others: Fate, stop_when_ready: bool) -> (Result<Stats, StartError>, bool) {
    let backend = Box::leak(Box::new(Fated { caller: thread::current().id(), first, others }));
    let options = Options { shards: Some(3), ..Options::default() };
    let listen = "127.0.0.1:0".parse().unwrap();
    let service = ServiceFactory::new(|_socket| Echo);
    let config = Config { backend, listen, service, options };
    let stop = Arc::new(Stop::new(PATIENCE).unwrap());
    let accept_pause = Arc::new(AcceptPause::new(Duration::ZERO).unwrap());
    let mut was_ready = false;
    let ended = Server::run(&config, Arc::clone(&stop), accept_pause, |server| {
        was_ready = true;
        assert_eq!(server.shards(), 3);
        assert_ne!(server.addr().port(), 0);
        if stop_when_ready {
            stop.drain();
        }
    });
    assert!(stop.is_draining(), "one that ends takes the others along");
    (ended, was_ready)
}

#[test]
fn server_runs_until_it_is_drained() {
    let (ended, was_ready) = run(Fate::Ends, Fate::Ends, true);
    assert_eq!(ended.unwrap().accepted_per_shard, [0, 0, 0]);
    assert!(was_ready);
}

#[test]
fn server_is_ready_when_every_shard_is() {
    let (can, cannot) = (Fate::Ends, Fate::CannotBegin);
    for (first, others) in [(cannot, can), (can, cannot), (cannot, cannot)] {
        let (ended, was_ready) = run(first, others, false);
        let Err(StartError::Unsupported(refused)) = ended else { panic!("{ended:?}") };
        assert_eq!((refused.cause.as_str(), refused.hint.as_str()), ("not here", "go elsewhere"));
        assert!(!was_ready, "{first:?}, {others:?}");
    }
}

#[test]
fn failed_shard_ends_the_others_and_is_reported() {
    for (fate, message) in [(Fate::Fails, "it fails"), (Fate::Panics, "a shard panicked")] {
        for (first, others) in [(fate, Fate::Ends), (Fate::Ends, fate)] {
            let (ended, was_ready) = run(first, others, false);
            let Err(StartError::Other(error)) = ended else { panic!("{ended:?}") };
            assert_eq!(error.to_string(), message, "{first:?}, {others:?}");
            assert!(was_ready, "it was, before");
        }
    }
}

#[test]
fn unbalanced_counts_are_an_error_that_names_the_backend() {
    let (ended, was_ready) = run(Fate::Miscounts, Fate::Ends, true);
    let Err(StartError::Other(error)) = ended else { panic!("{ended:?}") };
    let expected = "backend fated counted 1 connections accepted and 0 closed";
    assert_eq!((error.to_string().as_str(), was_ready), (expected, true));
}
