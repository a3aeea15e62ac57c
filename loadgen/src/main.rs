//! The `loadgen` command: parses arguments, runs the command, prints and stores its result.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lockstep_results::{Document, Record, store};
use serde::Serialize;

use loadgen::cli::{Cli, Command, ReportArgs, help_hint, usage_failure};
use loadgen::exit::{self, Failure};
use loadgen::experiments::{Finished, backlog, compare, floor, storm, sweep};
use loadgen::options::{OutputArgs, check_file};
use loadgen::run::args::{LiveArgs, RunArgs};
use loadgen::run::live::Live;
use loadgen::{machine::signals, run, servers::embedded, servers::supervisor};
use lockstep_sys::errno::describe;

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::parse_line(&line) {
        Ok(cli) => cli,
        Err(help) if !help.use_stderr() => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            usage_failure(&error, &line).print();
            return ExitCode::from(exit::USAGE);
        }
    };
    // If this fails, SIGXFSZ ends the command when a file becomes too large.
    let _ = signals::ignore_file_size_signal();
    let argv = line.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let result = match cli.command {
        None => run_once(cli.run, &cli.live, argv),
        Some(Command::Compare(args)) => finish(compare::compare(&args, argv), &args.output)
            .inspect(|_| how_to_keep(&args.output)),
        Some(Command::Sweep(args)) => finish(sweep::sweep(&args, argv), &args.output),
        Some(Command::Floor(args)) => finish(floor::floor(&args, argv), &args.output),
        Some(Command::Storm(args)) => finish(storm::storm(&args, argv), &args.output),
        Some(Command::Backlog(args)) => finish(backlog::backlog(&args, argv), &args.output),
        Some(Command::Report(args)) => report(&args),
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

/// Runs the command without a subcommand.
fn run_once(args: RunArgs, live: &LiveArgs, argv: Vec<String>) -> Result<u8, Failure> {
    let args = args.finish().map_err(|error| Failure::new(exit::USAGE, error))?;
    let mut live = Live::open(&args, live)?;
    let finished = run::run(&args, argv, &mut live)?;
    // The file first: printing may fail.
    let stored = store_result(&finished.record, &args.output);
    let unconnected = finished.code == exit::ADDRESS;
    match live.last_line(&finished.record) {
        Some(line) => print(&line)?,
        None if args.output.json => print(&json(&finished.record)?)?,
        None if unconnected => {} // An empty table would only hide the error.
        None if live.prints() => print(&format!("\n{}", finished.record.text()))?,
        None => print(&finished.record.text())?,
    }
    if unconnected {
        not_connected(&finished.record).print();
    }
    stored?.iter().for_each(|path| report_stored(path));
    live.finish()?;
    Ok(finished.code)
}

/// Stores and prints the result of an experiment, and returns the exit code.
fn finish<D: Document + Serialize>(
    result: Result<Finished<D>, Failure>,
    output: &OutputArgs,
) -> Result<u8, Failure> {
    let Finished { document, code, failure } = result?;
    // The file first: printing may fail.
    let stored = store_result(&document, output);
    let printed = match output.json {
        true => json(&document).and_then(|line| print(&line)),
        false => print(&document.text()),
    };
    failure.iter().for_each(Failure::print);
    printed?;
    stored?.iter().for_each(|path| report_stored(path));
    Ok(code)
}

/// Writes a result to its file, if one was asked for.
fn store_result(
    result: &(impl Document + Serialize),
    output: &OutputArgs,
) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = &output.path else { return Ok(None) };
    let written = store::write(result, path, output.force);
    written.map(Some).map_err(|error| Failure::file(exit::FAILURE, path, &error))
}

/// Reports the path of a written file.
fn report_stored(path: &Path) {
    let _ = writeln!(io::stderr(), "wrote {}", path.display());
}

/// Reports how to keep a comparison, which takes minutes, if it was not kept.
fn how_to_keep(output: &OutputArgs) {
    if output.path.is_none() && !output.json {
        let _ = writeln!(io::stderr(), "-o FILE keeps a comparison for loadgen report");
    }
}

fn json(document: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(document)
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
        .hint("start a server there, or leave HOST:PORT out to have one started")
}

/// Prints or draws stored documents of any kinds. A file that cannot be read is reported, and the
/// others are shown.
fn report(args: &ReportArgs) -> Result<u8, Failure> {
    if let Some(path) = &args.output {
        check_file(path, args.force)?;
    }
    let (mut documents, mut code) = (Vec::new(), 0);
    for path in &args.records {
        match store::read(path) {
            Ok(document) => documents.push((path.display().to_string(), document)),
            Err(error) => {
                Failure::file(exit::FAILURE, path, &error).print();
                code = exit::FAILURE;
            }
        }
    }
    match &args.output {
        _ if documents.is_empty() => {}
        None => print(&lockstep_results::report::text(&documents))?,
        Some(path) => {
            store::write_page(&lockstep_results::report::page(&documents), path, args.force)
                .map_err(|error| Failure::file(exit::FAILURE, path, &error))?;
            report_stored(path);
        }
    }
    Ok(code)
}

/// Prints on standard output. A closed pipe is no error.
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
