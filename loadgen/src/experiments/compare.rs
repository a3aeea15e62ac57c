//! Several servers measured in rounds, under the same load, until the difference is known.
//!
//! A round runs every subject once in every cell (connections and size), the cells and the subjects
//! in each of them in an order drawn by lot: what drifts while it goes on is common to the runs of
//! a round. Each run has a server of its own, started for it on the same processors, and a warm-up
//! that does not count. Where the loop is closed, the runs of a round are under load in turn, some
//! milliseconds each, so that what drifts faster is common to them, too
//! ([`turns`](crate::clients::slices)). What the rounds show, and when they are enough, is for
//! [`Comparison`] to say.

mod args;
mod peers;
mod plan;
mod rehearsal;
mod rounds;
mod subjects;

use std::path::Path;

use lockstep_results::Comparison;

pub use args::CompareArgs;
pub use subjects::Subject;
pub(crate) use subjects::parse as parse_subject;

use crate::exit::{self, Failure};
use crate::run::Session;
use crate::run::args::RunArgs;
use rounds::{Keep, Rounds};

/// A comparison that has come to an end.
#[derive(Debug)]
pub struct Compared {
    /// The comparison.
    pub comparison: Comparison,
    /// The exit code.
    pub code: u8,
    /// Why it ended before it was done; what there is stands all the same.
    pub failure: Option<Failure>,
}

/// Carries out a comparison.
///
/// # Errors
///
/// When there is no result at all: a subject cannot start or is not an echo server, or a signal
/// came before the first run was over. Runs that are invalid are a result.
pub fn compare(args: &CompareArgs, argv: Vec<String>) -> Result<Compared, Failure> {
    let usage = |error: String| Failure::new(exit::USAGE, error);
    let mut entries = subjects::entries(args).map_err(usage)?;
    args.output.check()?;
    let keep = keep(args).map_err(usage)?;
    let session = Session::start()?;
    let base = args.base();
    if base.server.server_spin.is_some() && !entries.iter().any(|entry| entry.subject.spins()) {
        return Err(usage("--server-spin: none of the servers can poll".to_owned())
            .hint("mio and io-uring can"));
    }
    for &(conns, size) in &args.cells() {
        RunArgs { conns, size, ..base.clone() }.finish().map_err(usage)?;
    }
    let conns_max = args.conns.iter().copied().max().unwrap_or(1);
    session.check(&RunArgs { conns: conns_max, ..base.clone() })?;
    let size_max = args.size.iter().copied().max().unwrap_or(1);
    let rehearsed = RunArgs { size: size_max, ..base.clone() };
    let absent = rehearsal::rehearse(&session, &rehearsed, &mut entries)?;

    let seed = args.generator.seed.unwrap_or_else(|| fastrand::u64(..));
    let turn = |&conns: &u32| (conns, args.slice(conns, entries.len()));
    let turns: Vec<_> = args.conns.iter().map(turn).collect();
    let plan = plan::plan(args, &base, argv, seed, &entries, &turns, absent);
    let mut rounds = Rounds::new(session, base, entries, plan, keep, turns);
    let failure = rounds.make(&args.cells()).err();
    rounds.into_compared(failure)
}

/// Where the records of the runs go, if they are to be kept.
fn keep(args: &CompareArgs) -> Result<Option<Keep>, String> {
    let Some(directory) = args.keep_runs.clone() else { return Ok(None) };
    if !directory.is_dir() {
        return Err(format!("--keep-runs: {}: no such directory", directory.display()));
    }
    let beside = args.output.path.as_deref().map(|path| match path.is_dir() {
        true => path,
        false => path.parent().unwrap_or(Path::new("")),
    });
    let beside = beside.map(Path::to_owned);
    Ok(Some(Keep { directory, beside }))
}
