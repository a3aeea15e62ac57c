//! `loadgen merge`: the records of a run's ranks, added to one and judged.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use lockstep_results::{Record, Stored, Threshold, merge as add, store};

use crate::clients::failures::Kind;
use crate::exit::{self, Failure, Outcome};
use crate::experiments::Finished;
use crate::options::{OUTPUT, OutputArgs};
use crate::run::condition::Condition;
use crate::run::record::judge_thresholds;

const EXAMPLES: &str = "\
Examples:
  loadgen merge runs/                          the only run of this directory
  loadgen merge runs/ --run-id 4711.0 -o all.json
  loadgen merge rank0.json rank1.json --fail-if 'p99>5ms'
  loadgen merge runs/ --partial --json         without the missing ranks";

/// Add the records of all ranks of a run to one record
///
/// Counts and latency histograms are added exactly. The result is a record of a run, with a row for
/// each rank; percentiles are those of all requests. Records of other options, versions or runs,
/// and two of one rank, are refused. The result is INVALID if a rank is, if one missed the agreed
/// start by more than 10 ms, or if the ranks measured concurrently for less than 90 % of the
/// window.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct MergeArgs {
    /// Records of ranks, or directories with them; other records in a directory are skipped
    #[arg(value_name = "RECORD|DIR", required = true)]
    pub records: Vec<PathBuf>,

    /// Run to take from the records of several runs
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,

    /// Add what there is if ranks are missing, with a warning
    #[arg(long)]
    pub partial: bool,

    /// Exit with code 7 if the condition is true, such as 'p99>5ms', 'service.max>1s',
    /// 'throughput<50k' or 'error_rate>0.1%'; repeatable. A percentile that the samples do not
    /// bound makes the run INVALID. Metrics: min, mean, max and percentiles such as p50, p99.95
    /// (also of connect, first_exchange, exchange, response, service, lateness), throughput,
    /// errors, error_rate, server_cpu, client_cpu
    #[arg(long, value_name = "CONDITION", help_heading = OUTPUT)]
    pub fail_if: Vec<Condition>,

    /// Destination of the record.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Adds records of ranks.
///
/// # Errors
///
/// [`exit::USAGE`] if the result cannot be written; [`exit::FAILURE`] if a file cannot be read, or
/// the records cannot be added.
pub fn merge(args: &MergeArgs, argv: Vec<String>) -> Result<Finished<Record>, Failure> {
    args.output.check()?;
    let mut files = Vec::new();
    for path in &args.records {
        match path.is_dir() {
            true => files.extend(directory(path)?),
            false => files.push(read(path)?),
        }
    }
    is_not_an_input(args.output.path.as_deref(), &files)?;
    if let Some(run_id) = &args.run_id {
        files = only(run_id, files)?;
    }
    let added = add(&files, args.partial, argv);
    let mut record = added.map_err(|refused| Failure {
        code: exit::FAILURE,
        error: refused.error,
        hint: refused.hint,
    })?;
    drop(files);
    judge_thresholds(&mut record, &args.fail_if);
    let code = outcome(&record).code();
    Ok(Finished { document: record, code, failure: None })
}

/// Checks that `--force` does not replace the record of a rank by the sum.
fn is_not_an_input(output: Option<&Path>, files: &[(String, Record)]) -> Result<(), Failure> {
    let Some(output) = output else { return Ok(()) };
    // Fails for a file that does not exist yet.
    let Ok(found) = fs::canonicalize(output) else { return Ok(()) };
    match files.iter().any(|(name, _)| fs::canonicalize(name).is_ok_and(|path| path == found)) {
        true => {
            let error = format!("{} is one of the records to add", output.display());
            Err(Failure::new(exit::USAGE, error).hint("write the result to another file"))
        }
        false => Ok(()),
    }
}

/// Reads a record of a run.
fn read(path: &Path) -> Result<(String, Record), Failure> {
    let document = store::read(path).map_err(|error| Failure::file(exit::FAILURE, path, &error))?;
    let name = path.display().to_string();
    match document {
        Stored::Run(record) => Ok((name, *record)),
        other => {
            let kind = &other.header().kind;
            let error = format!("{name}: not a record of a rank, but a {kind}");
            Err(Failure::new(exit::FAILURE, error))
        }
    }
}

/// Reads the records of ranks in a directory, in the order of their names. Files of other kinds are
/// skipped, and damaged ones are not: one of them may be a rank's.
fn directory(path: &Path) -> Result<Vec<(String, Record)>, Failure> {
    let failed = |error: io::Error| Failure::file(exit::FAILURE, path, &error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|extension| extension == "json") && file.is_file() {
            paths.push(file);
        }
    }
    paths.sort();
    let (mut files, mut skipped) = (Vec::new(), 0);
    for file in paths {
        let document =
            store::read(&file).map_err(|error| Failure::file(exit::FAILURE, &file, &error))?;
        match document {
            Stored::Run(record) if record.rank.is_some() => {
                files.push((file.display().to_string(), *record));
            }
            _ => skipped += 1,
        }
    }
    let path = path.display();
    if files.is_empty() {
        return Err(Failure::new(exit::FAILURE, format!("{path}: no record of a rank"))
            .hint("loadgen --ranks N -o DIR writes them"));
    }
    if skipped > 0 {
        let _ = writeln!(io::stderr(), "skipped {skipped} in {path}: not of ranks");
    }
    Ok(files)
}

/// Takes the records of one run.
fn only(run_id: &str, files: Vec<(String, Record)>) -> Result<Vec<(String, Record)>, Failure> {
    let of = |record: &Record| record.rank.as_ref().map(|rank| rank.run_id.clone());
    let found: BTreeSet<String> = files.iter().filter_map(|(_, record)| of(record)).collect();
    let chosen: Vec<_> =
        files.into_iter().filter(|(_, record)| of(record).as_deref() == Some(run_id)).collect();
    if chosen.is_empty() {
        let found: Vec<String> = found.iter().map(|id| id.escape_debug().to_string()).collect();
        let error = format!("no record of run {run_id:?}, but of: {}", found.join(", "));
        return Err(Failure::new(exit::FAILURE, error));
    }
    Ok(chosen)
}

/// Properties that the exit code depends on, as of a run.
fn outcome(record: &Record) -> Outcome {
    Outcome {
        signal: None,
        wrong_replies: record.errors.iter().any(|error| Kind::names_wrong_reply(&error.kind)),
        connected: record.latency.connect.is_some(),
        failures: record.errors_total > 0,
        valid: record.valid,
        held: !record.thresholds.iter().any(Threshold::missed),
    }
}
