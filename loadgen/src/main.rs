//! The `loadgen` command: arguments in, text or JSON out, exit code.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use lockstep_results::{Document, Record, Storms, html, store};
use serde::Serialize;

use loadgen::cli::{Cli, Command, ReportArgs, help_hint, usage_failure};
use loadgen::exit::{self, Failure};
use loadgen::experiments::backlog::{self, BacklogArgs};
use loadgen::experiments::compare::{self, CompareArgs};
use loadgen::experiments::floor::{self, FloorArgs};
use loadgen::experiments::storm::{self, StormArgs};
use loadgen::experiments::sweep::{self, SweepArgs};
use loadgen::options::OutputArgs;
use loadgen::run::args::{LiveArgs, RunArgs};
use loadgen::run::live::Live;
use loadgen::{machine::signals, run, servers::embedded, servers::supervisor};
use lockstep_sys::errno::describe;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::parse_line(&line) {
        Ok(cli) => cli,
        Err(help) if !help.use_stderr() => {
            let _nobody_reads = help.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            usage_failure(&error, &line).print();
            return ExitCode::from(exit::USAGE);
        }
    };
    // Where even this fails, a file that is too large ends the command as it does any other.
    let _ = signals::ignore_file_size_signal();
    let result = match cli.command {
        None => run_and_print(cli.run, &cli.live),
        Some(Command::Compare(args)) => compare_and_print(&args),
        Some(Command::Backlog(args)) => backlog_and_print(&args),
        Some(Command::Storm(args)) => storm_and_print(&args),
        Some(Command::Report(args)) => print_report(&args),
        Some(Command::Sweep(args)) => sweep_and_print(&args),
        Some(Command::Floor(args)) => floor_and_print(&args),
        Some(Command::Serve(args)) => return embedded::serve(&args),
        Some(Command::Exec(args)) => return supervisor::exec(&args),
        Some(Command::BacklogTrial(args)) => return backlog::trial(&args),
        Some(Command::SweepWorker(args)) => return sweep::worker(&args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(mut failure) => {
            if failure.code == exit::USAGE {
                failure.hint.get_or_insert_with(|| help_hint(&line));
            }
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

fn run_and_print(args: RunArgs, live: &LiveArgs) -> Result<u8, Failure> {
    let args = args.finish().map_err(|error| Failure::new(exit::USAGE, error))?;
    let mut live = Live::open(&args, live)?;
    let finished = run::run(&args, argv(), &mut live)?;
    // The file first: it is what must not be lost.
    let stored = store(&finished.record, &args.output);
    let unconnected = finished.code == exit::ADDRESS;
    match live.last_line(&finished.record) {
        Some(line) => print(&line)?,
        None if args.output.json => print(&json(&finished.record)?)?,
        None if unconnected => {} // A table of nothing would only hide the error.
        None if live.prints() => print(&format!("\n{}", finished.record.text()))?,
        None => print(&finished.record.text())?,
    }
    if unconnected {
        not_connected(&finished.record).print();
    }
    report_stored(stored)?;
    live.finish()?;
    Ok(finished.code)
}

/// Writes a result to its file, if one was asked for.
fn store(result: &(impl Document + Serialize), output: &OutputArgs) -> Option<io::Result<PathBuf>> {
    output.path.as_ref().map(|path| store::write(result, path, output.force))
}

/// Says where the file is, or why there is none.
fn report_stored(stored: Option<io::Result<PathBuf>>) -> Result<(), Failure> {
    if let Some(stored) = stored {
        let path = stored.map_err(|error| Failure::new(exit::FAILURE, error.to_string()))?;
        let _nobody_reads = writeln!(io::stderr(), "wrote {}", path.display());
    }
    Ok(())
}

fn compare_and_print(args: &CompareArgs) -> Result<u8, Failure> {
    let compared = compare::compare(args, argv())?;
    let printed = keep_and_print(&compared.comparison, &args.output);
    if let Some(failure) = &compared.failure {
        failure.print();
    }
    printed?;
    if args.output.path.is_none() && !args.output.json {
        let _nobody_reads = writeln!(io::stderr(), "-o FILE keeps a comparison for loadgen report");
    }
    Ok(compared.code)
}

fn backlog_and_print(args: &BacklogArgs) -> Result<u8, Failure> {
    let backlog::Finished { backlog, code } = backlog::backlog(args, argv())?;
    keep_and_print(&backlog, &args.output)?;
    Ok(code)
}

fn storm_and_print(args: &StormArgs) -> Result<u8, Failure> {
    let storm::Finished { storms, code } = storm::storm(args, &argv())?;
    keep_and_print(&Storms::of(storms), &args.output)?;
    Ok(code)
}

/// Writes a result to its file, if there is to be one, and prints it.
fn keep_and_print(
    result: &(impl Document + Serialize),
    output: &OutputArgs,
) -> Result<(), Failure> {
    // The file first: it is what must not be lost.
    let stored = store(result, output);
    match output.json {
        true => print(&json(result)?)?,
        false => print(&result.text())?,
    }
    report_stored(stored)
}

fn sweep_and_print(args: &SweepArgs) -> Result<u8, Failure> {
    let swept = sweep::sweep(args, argv())?;
    let printed = keep_and_print(&swept.sweep, &args.output);
    if let Some(failure) = &swept.failure {
        failure.print();
    }
    printed?;
    Ok(swept.code)
}

fn floor_and_print(args: &FloorArgs) -> Result<u8, Failure> {
    let report = floor::floor(args, argv())?;
    keep_and_print(&report, &args.output)?;
    Ok(0)
}

fn argv() -> Vec<String> {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

fn json(record: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(record)
        .map_err(|error| Failure::new(exit::FAILURE, format!("the result: {error}")))?;
    Ok(text + "\n")
}

fn not_connected(record: &Record) -> Failure {
    let cause = record.errors.first().map_or_else(String::new, |error| {
        let cause = error.first.split_once(": ").map_or(error.first.as_str(), |(_, cause)| cause);
        match &error.errno {
            Some(errno) => format!(": {cause} ({errno})"),
            None => format!(": {cause}"),
        }
    });
    Failure::new(exit::ADDRESS, format!("cannot connect to {}{cause}", record.subject.addr))
        .hint("start a server there, or leave --target out to have one started")
}

/// Prints or draws stored documents of any kinds. A file that cannot be read is named, and the
/// others are shown.
fn print_report(args: &ReportArgs) -> Result<u8, Failure> {
    let failed = |error: io::Error| Failure::new(exit::FAILURE, error.to_string());
    if let Some(path) = &args.output {
        store::check(path, args.force).map_err(failed)?;
    }
    let (mut documents, mut code) = (Vec::new(), 0);
    for path in &args.records {
        match store::read(path) {
            Ok(document) => documents.push((path.display().to_string(), document)),
            Err(error) => {
                Failure::new(exit::FAILURE, error.to_string()).print();
                code = exit::FAILURE;
            }
        }
    }
    match &args.output {
        _ if documents.is_empty() => {}
        None => print(&lockstep_results::report(&documents))?,
        Some(path) => {
            store::write_page(&html::report(&documents), path, args.force).map_err(failed)?;
            report_stored(Some(Ok(path.clone())))?;
        }
    }
    Ok(code)
}

/// Prints on standard output. That nobody reads on is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            exit::FAILURE,
            format!("cannot write to standard output: {}", describe(&error)),
        )),
        _ => Ok(()),
    }
}
