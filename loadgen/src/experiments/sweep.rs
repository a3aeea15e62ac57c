//! `loadgen sweep`: a server at several rates or numbers of connections, and the highest rate that
//! meets objectives.
//!
//! Each level is a run with a new server. The levels of a round are measured in random order, so
//! that drift is not taken for an effect of the load; a search (`search`) chooses its levels. A run
//! that is INVALID is repeated, up to three in all. In a
//! closed loop over connections, opening and idle memory are measured too (`idle`), and a level
//! that needs more descriptors than a process may have is divided among processes (`processes`).
//! What a level needs is computed before (`needs`), and one that this machine cannot measure is
//! omitted.

mod args;
mod cells;
mod idle;
mod levels;
mod needs;
mod processes;
mod runner;
mod search;
mod worker;

use std::io::{self, Write};

use lockstep_results::{
    Axis, Bound, Environment, Header, Omission, Outcome, Point, Purpose, Record, SloResult, Sweep,
    SweepPlan,
};

pub use args::SweepArgs;
pub use levels::Levels;
pub use worker::{WorkerArgs, worker};

use crate::exit::{self, Failure};
use crate::experiments::Finished;
use crate::experiments::listening::unique;
use crate::options::SEED_END;
use crate::run::Session;
use crate::run::args::RunArgs;
use crate::run::condition::{Condition, Verdict};
use cells::Cell;
use needs::Limits;
use runner::Runner;
use search::{Found, Next, Observation, Search, TOLERANCE};

/// Word that the reason of a run begins with whose samples do not decide an objective.
const UNDECIDED: &str = "undecided";

/// Shares of the rate found at which the server is measured, too.
const SHARES: [f64; 3] = [0.5, 0.7, 0.9];

/// Most runs of a level in a round, if all are INVALID.
const ATTEMPTS: usize = 3;

/// Length of the run that confirms the result, in relation to the others.
const CONFIRM: u32 = 2;

/// Runs a sweep.
///
/// # Errors
///
/// [`exit::USAGE`] for options that contradict each other or the machine; the failure, or the
/// signal, that ended the sweep before its first point. Invalid and overloaded levels are a result.
pub fn sweep(args: &SweepArgs, argv: Vec<String>) -> Result<Finished<Sweep>, Failure> {
    let usage = |error: String| Failure::new(exit::USAGE, error);
    let args = &SweepArgs { backend: unique(&args.backend), ..args.clone() };
    args.check().map_err(usage)?;
    args.output.check()?;
    let base = args.base().finish().map_err(usage)?;
    let session = Session::start()?;
    let seed = args.generator.seed.unwrap_or_else(|| fastrand::u64(..SEED_END));
    let placement = session.placement(&base);
    let plan = plan(args, &base, &argv, seed, placement);
    let limits = Limits::read();
    let (cells, omitted) = cells::cells(args, &base, &plan, &limits).map_err(usage)?;
    let most = args.conns_max();
    // What the machine cannot run has been omitted.
    let checked = cells.first().filter(|_| args.may_omit()).map_or(&base, |cell| &cell.args);
    session.check(&checked.with_conns(if args.may_omit() { 1 } else { most }))?;
    if let (true, Some(omission)) = (cells.is_empty(), omitted.first()) {
        return Err(nothing(omission));
    }
    let environment = Environment::capture();
    let floor = session.floor(&base, &[most]);
    let mut sweep = Sweep {
        plan,
        interrupted: false,
        points: Vec::new(),
        omitted,
        knee: None,
        slo: None,
        floor,
        environment,
    };
    let mut runner = Runner::new(session, args.command.as_ref(), argv, seed);
    let result = match args.slo.is_empty() {
        true => levels(&mut runner, &mut sweep, cells, &limits),
        false => search(&mut runner, &mut sweep, &base, args),
    };
    if !runner.subjects.is_empty() {
        // The first round was in random order.
        let asked = |name: &String| args.backend.iter().position(|backend| backend == name);
        runner.subjects.sort_by_key(asked);
        sweep.plan.subject = runner.subjects.join(", ");
    }
    sweep.environment.capture_after();
    if args.backend.len() == 1 {
        sweep.knee = sweep.find_knee();
        sweep.points.iter_mut().for_each(|point| point.subject = None);
    }
    match result {
        Ok(()) if sweep.points.is_empty() && !sweep.omitted.is_empty() => {
            Err(nothing(&sweep.omitted[0]))
        }
        Err(failure) if sweep.points.is_empty() => {
            if failure.error.is_empty() {
                let _ = writeln!(io::stderr(), "interrupted: no level was over");
            }
            Err(failure)
        }
        result => {
            let failure = result.err();
            sweep.interrupted = failure.is_some();
            let code = match &failure {
                Some(failure) => failure.code,
                None if runner.code != 0 => runner.code,
                None => code(&sweep),
            };
            Ok(Finished { document: sweep, code, failure })
        }
    }
}

/// The exit code of a sweep without a failed exchange.
fn code(sweep: &Sweep) -> u8 {
    match &sweep.slo {
        Some(slo) if slo.rate_per_s.is_some() => 0,
        Some(slo) if slo.bound == Bound::Objectives => exit::THRESHOLD,
        None if !sweep.is_complete() => exit::INVALID,
        None if !sweep.omitted.is_empty() => exit::UNAVAILABLE,
        None => 0,
        Some(_) => exit::INVALID,
    }
}

/// The failure of a sweep without a level that this machine can measure.
fn nothing(omission: &Omission) -> Failure {
    Failure::new(exit::UNAVAILABLE, format!("nothing can be measured: {}", omission.reason))
}

fn plan(
    args: &SweepArgs,
    base: &RunArgs,
    argv: &[String],
    seed: u64,
    placement: Option<String>,
) -> SweepPlan {
    let rates = args.rates.as_ref().map_or(&[][..], |rates| &rates.0);
    let searched = !args.slo.is_empty();
    let by_rate = searched || rates.len() > 1;
    let levels = match (searched, by_rate) {
        (true, _) => Vec::new(),
        (false, true) => rates.to_vec(),
        (false, false) => args.conns().to_vec(),
    };
    let open = searched || !rates.is_empty();
    let named = args.command.as_ref().map(|command| command.name.clone());
    SweepPlan {
        header: Header::new("sweep", std::time::SystemTime::now(), argv.to_vec(), Some(seed)),
        subject: named.or_else(|| args.target.clone()).unwrap_or_else(|| args.backend.join(", ")),
        service: args.service.name().to_owned(),
        axis: if by_rate { Axis::Rate } else { Axis::Conns },
        levels,
        rounds: args.rounds,
        conns: by_rate.then_some(base.conns),
        rate_per_s: base.rate.filter(|_| !by_rate),
        arrivals: open.then(|| args.generator.arrivals.unwrap_or_default().name().to_owned()),
        placement,
        server_spin_ns: args.server.spin_ns(),
        size: args.size,
        warmup_s: args.warmup().as_secs_f64(),
        duration_s: args.duration().as_secs_f64(),
    }
}

/// Measures every cell in every round, in random order, and those that are INVALID again. A cell
/// for which memory has become too short is omitted.
fn levels(
    runner: &mut Runner<'_>,
    sweep: &mut Sweep,
    mut cells: Vec<Cell>,
    limits: &Limits,
) -> Result<(), Failure> {
    let all = sweep.plan.rounds as usize * cells.len();
    let several = cells.iter().any(|cell| cell.args.backend != cells[0].args.backend);
    let unit = if sweep.plan.axis == Axis::Rate { "/s" } else { " connections" };
    // Of its own, so that the order does not depend on the runs that are repeated.
    let mut order = runner.rng.fork();
    let mut done = 0;
    for round in 1..=sweep.plan.rounds {
        order.shuffle(&mut cells);
        let mut left: Vec<&Cell> = cells.iter().collect();
        for attempt in 1..=ATTEMPTS {
            let mut invalid = Vec::new();
            for cell in left {
                done += usize::from(attempt == 1);
                let number = match attempt {
                    1 => format!("run {done} of {all}"),
                    _ => format!("attempt {attempt} of {ATTEMPTS}"),
                };
                let backend = &cell.args.backend;
                let server = if several { format!("{backend}, ") } else { String::new() };
                let label = format!("{number}, {server}{}{unit}", cell.level);
                if let Some(omission) = runner.await_memory(cell, limits)? {
                    sweep.omitted.retain(|other| {
                        (&other.subject, other.level) != (&omission.subject, omission.level)
                    });
                    sweep.omitted.push(omission);
                    continue;
                }
                let point = runner.measure(cell, round, label)?;
                invalid.extend((point.outcome == Outcome::Invalid).then_some(cell));
                sweep.points.push(point);
            }
            left = invalid;
        }
    }
    Ok(())
}

/// Searches for the highest rate that meets the objectives, and measures at shares of it.
fn search(
    runner: &mut Runner<'_>,
    sweep: &mut Sweep,
    base: &RunArgs,
    args: &SweepArgs,
) -> Result<(), Failure> {
    let (lowest, highest) = args.rate_range();
    let mut search = Search::new(lowest, highest);
    let mut measure = |sweep: &mut Sweep, rate: f64, purpose: Purpose| {
        let longer = if purpose == Purpose::Confirm { CONFIRM } else { 1 };
        let duration = Some(args.duration_at(rate) * longer);
        let args_of_run = RunArgs { rate: Some(rate), duration, ..base.clone() };
        let label = format!("run {}, {rate}/s", sweep.points.len() + 1);
        let record = runner.run(args_of_run, label)?;
        let before = sweep.points.iter().filter(|point| point.level == rate).count();
        let mut point = Point::of(rate, before as u32 + 1, purpose, &record);
        let observation = judge(&mut point, &record, &args.slo);
        sweep.points.push(point);
        Ok::<_, Failure>(observation)
    };
    loop {
        let (rate, purpose) = match search.next() {
            Next::Look(rate) => (rate, Purpose::Search),
            Next::Confirm(rate) => (rate, Purpose::Confirm),
            Next::Done(found) => {
                sweep.slo = Some(slo(&args.slo, found, &sweep.points));
                break;
            }
        };
        match measure(sweep, rate, purpose) {
            Ok(observation) => search.observe(observation),
            Err(failure) => {
                sweep.slo = Some(slo(&args.slo, search.so_far(), &sweep.points));
                return Err(failure);
            }
        }
    }
    let found = sweep.slo.as_ref().and_then(|slo| slo.rate_per_s);
    for rate in found.into_iter().flat_map(|rate| SHARES.map(|share| levels::tidy(rate * share))) {
        for _ in 0..ATTEMPTS {
            if measure(sweep, rate, Purpose::Share)? != Observation::Unusable {
                break;
            }
        }
    }
    Ok(())
}

/// Judges a run, and notes in its point whether it held. Failed exchanges have no latency, so they
/// are checked beside the objectives. An objective that is missed decides what others cannot.
fn judge(point: &mut Point, record: &Record, objectives: &[Condition]) -> Observation {
    let verdicts: Vec<Verdict> = objectives.iter().map(|it| it.judge(record)).collect();
    let missed = |verdict: &Verdict| matches!(verdict, Verdict::False | Verdict::Unmeasured);
    let observation = match point.outcome {
        Outcome::Invalid => Observation::Unusable,
        Outcome::Overloaded => Observation::Missed,
        Outcome::Ok if record.errors_total > 0 || verdicts.iter().any(missed) => {
            Observation::Missed
        }
        Outcome::Ok if verdicts.iter().all(|verdict| *verdict == Verdict::True) => {
            Observation::Held
        }
        Outcome::Ok => {
            let doubts = objectives.iter().zip(&verdicts).filter_map(|(objective, verdict)| {
                let Verdict::Undecided(reason) = verdict else { return None };
                Some(format!("{UNDECIDED}: {objective}: {reason}; set a longer --duration"))
            });
            point.reasons.extend(doubts);
            point.outcome = Outcome::Invalid;
            Observation::Unusable
        }
    };
    point.held = match observation {
        Observation::Held => Some(true),
        Observation::Missed => Some(false),
        Observation::Unusable => None,
    };
    observation
}

fn slo(objectives: &[Condition], found: Found, points: &[Point]) -> SloResult {
    let Found { rate, missed, bound } = found;
    debug_assert!(rate.is_none() || bound != Bound::Unfinished, "only a confirmed rate is found");
    // The first rate above the result that could not be judged is what bounds it.
    let above = points.iter().filter(|point| {
        point.outcome == Outcome::Invalid && rate.is_none_or(|rate| point.level > rate)
    });
    let undecided = above
        .min_by(|a, b| a.level.total_cmp(&b.level))
        .is_some_and(|point| point.reasons.iter().all(|reason| reason.starts_with(UNDECIDED)));
    SloResult {
        objectives: objectives.iter().map(ToString::to_string).collect(),
        rate_per_s: rate,
        missed_per_s: missed,
        bound: if bound == Bound::Generator && undecided { Bound::Undecided } else { bound },
        tolerance: TOLERANCE,
    }
}
