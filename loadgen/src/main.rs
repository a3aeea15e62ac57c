//! The `loadgen` command: arguments in, text or JSON out, exit code.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as ClapErrorKind;
use lockstep_results::{Comparison, Document, Record, Stored, Storms, html, store};
use serde::Serialize;

use loadgen::cli::{Cli, Command, ReportArgs};
use loadgen::exit::{self, Failure};
use loadgen::experiments::backlog::{self, BacklogArgs};
use loadgen::experiments::compare::{self, CompareArgs};
use loadgen::experiments::floor::{self, FloorArgs};
use loadgen::experiments::storm::{self, StormArgs};
use loadgen::experiments::sweep::{self, SweepArgs};
use loadgen::many::{self, ManyArgs};
use loadgen::output::OutputArgs;
use loadgen::run::args::{LiveArgs, RunArgs};
use loadgen::run::live::Live;
use loadgen::{machine::signals, run, servers::embedded, servers::supervisor};
use lockstep_sys::errno::describe;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(complain(&error)),
    };
    // Where even this fails, a file that is too large ends the command as it does any other.
    let _ = signals::tell_of_full_files();
    let result = match cli.command {
        None => run_and_print(cli.run, &cli.live),
        Some(Command::Compare(args)) => compare_and_print(args),
        Some(Command::Backlog(args)) => backlog_and_print(&args),
        Some(Command::Storm(args)) => storm_and_print(&args),
        Some(Command::Many(args)) => many_and_print(&args),
        Some(Command::Report(args)) => print_report(&args),
        Some(Command::Sweep(args)) => sweep_and_print(&args),
        Some(Command::Floor(args)) => floor_and_print(&args),
        Some(Command::Serve(args)) => return embedded::serve(&args),
        Some(Command::Exec(args)) => return supervisor::exec(&args),
        Some(Command::BacklogTrial(args)) => return backlog::trial(&args),
        Some(Command::ManyPart(args)) => return many::part(&args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

fn run_and_print(args: RunArgs, live: &LiveArgs) -> Result<u8, Failure> {
    let args = args
        .finish()
        .map_err(|error| Failure::new(exit::USAGE, error).hint("see loadgen --help"))?;
    let mut live = Live::open(&args, live)?;
    let finished = run::run(&args, argv(), &mut live)?;
    // The file first: it is what must not be lost.
    let stored = args.output.as_ref().map(|path| store::write(&finished.record, path, args.force));
    let unconnected = finished.code == exit::ADDRESS;
    match live.last_line(&finished.record) {
        Some(line) => print(&line)?,
        None if args.json => print(&json(&finished.record)?)?,
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

/// Says where the file is, or why there is none.
fn report_stored(stored: Option<io::Result<PathBuf>>) -> Result<(), Failure> {
    if let Some(stored) = stored {
        let path = stored.map_err(|error| Failure::new(exit::FAILURE, error.to_string()))?;
        let _nobody_reads = writeln!(io::stderr(), "wrote {}", path.display());
    }
    Ok(())
}

fn compare_and_print(mut args: CompareArgs) -> Result<u8, Failure> {
    args.output = args.place()?;
    let compared = compare::compare(&args, argv())?;
    let comparison = &compared.comparison;
    // The files first: they are what must not be lost.
    let stored = args.output.as_ref().map(|path| store::write(comparison, path, args.force));
    let drawn = match &stored {
        Some(Ok(path)) => Some(draw(comparison, path, args.force)),
        _ => None,
    };
    match args.json {
        true => print(&json(comparison)?)?,
        false => print(&comparison.text())?,
    }
    if let Some(failure) = &compared.failure {
        failure.print();
    }
    report_stored(stored)?;
    report_stored(drawn)?;
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

fn many_and_print(args: &ManyArgs) -> Result<u8, Failure> {
    let many::Finished { many, code } = many::many(args, argv())?;
    keep_and_print(&many, &args.output)?;
    Ok(code)
}

/// Writes a result to its file, if there is to be one, and prints it.
fn keep_and_print(
    result: &(impl Document + Serialize),
    output: &OutputArgs,
) -> Result<(), Failure> {
    // The file first: it is what must not be lost.
    let stored = output.path.as_ref().map(|path| store::write(result, path, output.force));
    match output.json {
        true => print(&json(result)?)?,
        false => print(&result.text())?,
    }
    report_stored(stored)
}

/// Puts the picture of a comparison beside its record.
fn draw(comparison: &Comparison, record: &Path, force: bool) -> io::Result<PathBuf> {
    let path = record.with_extension("html");
    let document = Stored::Comparison(Box::new(comparison.clone()));
    let page = html::report(&[(record.display().to_string(), document)]);
    store::write_page(&page, &path, force).map(|()| path)
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

/// Prints help, or what is wrong with the command line in one line and a hint.
fn complain(error: &clap::Error) -> u8 {
    if !error.use_stderr()
        || error.kind() == ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        let _nobody_reads = error.print();
        return 0;
    }
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // Some messages go on in the next lines, up to the first empty one.
    let sentence: Vec<&str> = lines.iter().copied().take_while(|line| !line.is_empty()).collect();
    let sentence = sentence.join(" ");
    let error = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    let tip = lines.iter().find_map(|line| line.strip_prefix("tip: "));
    Failure::new(exit::USAGE, error).hint(tip.unwrap_or("see loadgen --help")).print();
    exit::USAGE
}
