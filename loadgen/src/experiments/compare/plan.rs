//! The plan of a comparison, as its file keeps it: enough to repeat it.

use std::time::SystemTime;

use lockstep_results::statistics::Stopping;
use lockstep_results::{Absent, Asked, Command, Header, Plan};

use super::CompareArgs;
use super::subjects::Entry;
use crate::run::args::RunArgs;
use crate::run::warmup::Warmup;
use lockstep_sys::cpus::format_list;

/// The plan of a comparison of `entries`; `absent` failed the preflight.
pub(super) fn plan(
    args: &CompareArgs,
    base: &RunArgs,
    argv: Vec<String>,
    seed: u64,
    entries: &[Entry],
    absent: Vec<Absent>,
) -> Plan {
    Plan {
        header: Header::new("comparison", SystemTime::now(), argv, Some(seed)),
        subjects: entries.iter().map(|entry| entry.name.clone()).collect(),
        baseline: entries[0].name.clone(),
        aa: entries.iter().all(|entry| entry.subject == entries[0].subject),
        stopping: Stopping {
            rounds_min: Stopping::default().rounds_min.min(args.rounds),
            rounds_max: args.rounds,
            precision: args.precision,
        },
        absent,
        asked: Some(asked(args, base, entries)),
    }
}

fn asked(args: &CompareArgs, base: &RunArgs, entries: &[Entry]) -> Asked {
    let command = |entry: &Entry| {
        let command = entry.subject.command()?.command.clone();
        Some(Command { subject: entry.name.clone(), command })
    };
    let slice_s =
        |&conns: &u32| args.slice(conns, entries.len()).map_or(0.0, |slice| slice.as_secs_f64());
    Asked {
        conns: args.conns.clone(),
        sizes: args.size.clone(),
        duration_s: args.duration.as_secs_f64(),
        turns_s: args.conns.iter().map(slice_s).collect(),
        warmup_s: match base.warmup {
            Warmup::Fixed(length) => Some(length.as_secs_f64()),
            Warmup::Auto => None,
        },
        timeout_s: args.generator.timeout.as_secs_f64(),
        rate_per_s: base.rate,
        arrivals: base.rate.map(|_| base.generator.arrivals.unwrap_or_default().name().to_owned()),
        spin_s: base.generator.spin.map(|spin| spin.as_secs_f64()),
        connect_rate_per_s: base.generator.connect_rate,
        threads: base.generator.threads.map(|threads| threads as u32),
        engine: Some(base.engine().name().to_owned()),
        client_cpus: base.placement.pin.as_deref().map(format_list),
        server_cpus: base.placement.server_pin.as_deref().map(format_list),
        placement: base.server.place_name(),
        server_spin_ns: base.server.spin_ns(),
        shards: base.server.shards.map(|shards| shards as u32),
        backlog: base.backlog,
        commands: entries.iter().filter_map(command).collect(),
    }
}
