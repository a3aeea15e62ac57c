//! `loadgen compare`: several servers under the same load, in rounds, until the differences are
//! known.
//!
//! A round runs every subject once in every cell (number of connections and size), the cells and
//! their subjects in random order, so that slow drift is common to the runs of a round. Each run
//! has a new server on the same CPUs, and a warm-up. In a closed loop the runs of a round are under
//! load in time slices ([`slices`](crate::clients::slices)), so that fast
//! drift is common to them, too. [`Comparison`] judges the rounds, and decides when they are
//! enough.

mod args;
mod peers;
mod plan;
mod preflight;
mod rounds;
mod subjects;

use lockstep_results::Comparison;

pub use args::CompareArgs;
pub use subjects::Subject;
pub(crate) use subjects::parse as parse_subject;

use crate::exit::{self, Failure};
use crate::experiments::Finished;
use crate::experiments::listening::unique;
use crate::options::SEED_END;
use crate::run::Session;
use crate::run::args::RunArgs;
use rounds::{Keep, Rounds};

/// Runs a comparison.
///
/// # Errors
///
/// [`exit::USAGE`] for options that contradict each other or the machine; the failure of a subject
/// that cannot be started or is not an echo server; a signal before the first result. Invalid runs
/// are a result.
pub fn compare(args: &CompareArgs, argv: Vec<String>) -> Result<Finished<Comparison>, Failure> {
    let usage = |error: String| Failure::new(exit::USAGE, error);
    let (conns, size) = (unique(&args.conns), unique(&args.size));
    let args = &CompareArgs { conns, size, ..args.clone() };
    let peers = args.peers.as_deref().map(peers::find).transpose()?.unwrap_or_default();
    let mut entries = subjects::entries(args, peers).map_err(usage)?;
    args.output.check()?;
    let keep = args.keep_runs.as_deref().map(|directory| Keep::new(directory, &args.output));
    let keep = keep.transpose().map_err(usage)?;
    let session = Session::start()?;
    let base = args.base();
    if let Some(slice) = args.slice
        && slice > args.duration / 2
    {
        let error =
            format!("--slice {slice:?} is more than half of --duration {:?}", args.duration);
        return Err(usage(error));
    }
    let is_backend = |entry: &subjects::Entry| entry.subject.command().is_none();
    if base.server.via.is_some()
        && let Some(entry) = entries.iter().find(|entry| !is_backend(entry))
    {
        let error = format!("--via starts backends of lockstep, not the command {}", entry.name);
        return Err(usage(error).hint("name backends, such as mio io-uring"));
    }
    if (base.backlog.is_some() || base.server.shards.is_some()) && !entries.iter().any(is_backend) {
        return Err(usage("--backlog and --shards: none of the servers is a backend".to_owned()));
    }
    let can_busy_poll = || entries.iter().any(|entry| entry.subject.can_busy_poll());
    if base.server.server_spin.is_some() && !can_busy_poll() {
        let error = "--server-spin: none of the servers can busy-poll".to_owned();
        return Err(usage(error).hint(crate::servers::embedded::busy_poll_hint()));
    }
    for (conns, size) in args.cells() {
        RunArgs { conns, size, ..base.clone() }.finish().map_err(usage)?;
    }
    let conns = args.conns.iter().copied().max().unwrap_or(1);
    session.check(&RunArgs { conns, ..base.clone() })?;
    let size = args.size.iter().copied().max().unwrap_or(1);
    let absent = preflight::check(&session, &RunArgs { size, ..base.clone() }, &mut entries)?;

    let seed = args.generator.seed.unwrap_or_else(|| fastrand::u64(..SEED_END));
    let plan = plan::plan(args, &base, argv, seed, &entries, absent);
    let mut rounds = Rounds::new(session, args, base, entries, plan, keep);
    let failure = rounds.run().err();
    rounds.finish(failure)
}
