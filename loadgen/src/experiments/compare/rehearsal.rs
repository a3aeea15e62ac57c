//! Every subject once, before the first round.

use std::io::{self, Write};
use std::time::Duration;

use lockstep_results::Absent;

use super::subjects::Entry;
use crate::exit::{self, Failure};
use crate::options::GeneratorArgs;
use crate::run::args::RunArgs;
use crate::run::warmup::Warmup;
use crate::run::{Finished, Job, Session};

/// Starts every subject for one exchange, so that what cannot start, or does not answer with what
/// it was sent, is known before the first round. Who was asked for by name has to be there; of the
/// reference servers, which are whatever was found, those that are not fit are taken out, and
/// returned.
///
/// # Errors
///
/// What is wrong with a subject, or that fewer than two are left.
pub(super) fn rehearse(
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
        match try_one(session, base, &entry) {
            Ok(()) => fit.push(entry),
            Err(failure) if entry.found && !failure.error.is_empty() => {
                let line = format!("warning: goes on without {}: {}", entry.name, failure.error);
                let _nobody_reads = writeln!(io::stderr(), "{line}");
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

fn try_one(session: &Session, base: &RunArgs, entry: &Entry) -> Result<(), Failure> {
    let mut args = RunArgs {
        conns: 1,
        requests: Some(1),
        duration: None,
        rate: None,
        warmup: Warmup::Fixed(Duration::ZERO),
        ..entry.subject.args(base)
    };
    let generator = GeneratorArgs { threads: None, arrivals: None, spin: None, ..args.generator };
    args.generator = generator;
    let finished = session.run(&Job {
        args: &args,
        command: entry.subject.command(),
        argv: Vec::new(),
        label: format!("trying {}: ", entry.name),
        floor: None,
    })?;
    match finished.code {
        // That one exchange is no measurement is no surprise.
        0 | exit::INVALID => Ok(()),
        _ => Err(unfit(&entry.name, &finished)),
    }
}

/// What is wrong with a subject that does not get through one exchange.
fn unfit(name: &str, finished: &Finished) -> Failure {
    if finished.record.interrupted {
        return Failure::new(finished.code, "");
    }
    let errors = finished.record.errors.iter().map(|error| &error.first);
    let cause = errors.chain(&finished.record.invalid_reasons).next();
    let cause = cause.map_or("one exchange failed", String::as_str);
    let failure = Failure::new(finished.code, format!("{name}: {cause}"));
    match finished.code {
        exit::WRONG_REPLY => failure.hint("a subject sends back the bytes that it receives"),
        _ => failure,
    }
}
