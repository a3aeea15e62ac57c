//! One exchange with every subject before the first round.

use std::io::{self, Write};
use std::time::Duration;

use lockstep_results::{Absent, ErrorCount};

use super::subjects::Entry;
use crate::exit::{self, Failure};
use crate::options::GeneratorArgs;
use crate::run::args::RunArgs;
use crate::run::warmup::Warmup;
use crate::run::{Finished, Job, Session};

/// Makes one exchange with every subject, so that a subject that cannot be started or is not an
/// echo server is known before the first round. A reference server that fails is removed from
/// `entries` and returned; any other subject was named by the user, so its failure is an error.
///
/// # Errors
///
/// The failure of a subject; [`exit::UNAVAILABLE`] if fewer than two are left.
pub(super) fn check(
    session: &Session,
    base: &RunArgs,
    entries: &mut Vec<Entry>,
) -> Result<Vec<Absent>, Failure> {
    let mut absent = Vec::new();
    let mut fit: Vec<Entry> = Vec::new();
    for entry in entries.drain(..) {
        if fit.iter().any(|before| before.subject == entry.subject) {
            fit.push(entry);
            continue;
        }
        match exchange(session, base, &entry) {
            Ok(()) => fit.push(entry),
            Err(failure) if entry.found && !failure.error.is_empty() => {
                let line = format!("warning: goes on without {}: {}", entry.name, failure.error);
                let _ = writeln!(io::stderr(), "{line}");
                absent.push(Absent { subject: entry.name, cause: failure.error });
            }
            Err(failure) => return Err(failure),
        }
    }
    if let (0 | 1, Some(last)) = (fit.len(), absent.last()) {
        let error = format!("fewer than two subjects are left; {}", last.cause);
        return Err(Failure::new(exit::UNAVAILABLE, error));
    }
    *entries = fit;
    Ok(absent)
}

fn exchange(session: &Session, base: &RunArgs, entry: &Entry) -> Result<(), Failure> {
    let args = entry.subject.args(base);
    let generator = GeneratorArgs { threads: None, arrivals: None, spin: None, ..args.generator };
    let args = RunArgs {
        conns: 1,
        requests: Some(1),
        duration: None,
        rate: None,
        warmup: Warmup::Fixed(Duration::ZERO),
        generator,
        ..args
    };
    let finished = session.run(&Job {
        args: &args,
        command: entry.subject.command(),
        argv: Vec::new(),
        label: format!("trying {}", entry.name),
        floor: None,
        member: None,
    })?;
    match finished.code {
        // One exchange is too short for a valid measurement.
        0 | exit::INVALID => Ok(()),
        _ => Err(cause(&entry.name, &finished)),
    }
}

/// The reason why an exchange failed.
fn cause(name: &str, finished: &Finished) -> Failure {
    if finished.record.interrupted {
        return Failure::new(finished.code, "");
    }
    let record = &finished.record;
    // The end of the server is the cause of what happened to its connection.
    let ended = record.invalid_reasons.iter().filter_map(|it| it.strip_prefix("server-failed: "));
    let errors = record.errors.iter().map(ErrorCount::cause);
    let causes = ended.map(str::to_owned).chain(errors).chain(record.invalid_reasons.clone());
    let cause = causes.into_iter().next().unwrap_or_else(|| "one exchange failed".to_owned());
    let failure = Failure::new(finished.code, format!("{name}: {cause}"));
    match finished.code {
        exit::WRONG_REPLY => failure.hint("a subject sends back the bytes that it receives"),
        _ => failure,
    }
}
