//! The `loadgen` command: parses arguments, runs the command, prints and stores its result.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use lockstep_results::{Document, store};
use serde::Serialize;

use loadgen::cli::{Cli, Command, ReportArgs, help_hint, usage_failure};
use loadgen::clients::failures::not_connected;
use loadgen::exit::{self, Failure};
use loadgen::experiments::{Finished, backlog, compare, floor, storm, sweep};
use loadgen::options::{OutputArgs, check_file};
use loadgen::printer::Printer;
use loadgen::ranks::Member;
use loadgen::ranks::args::RankArgs;
use loadgen::ranks::merge;
use loadgen::run::args::{LiveArgs, RunArgs};
use loadgen::run::live::Live;
use loadgen::{machine::signals, run, servers::embedded, servers::supervisor};
use lockstep_sys::errno::describe;
use lockstep_sys::memory::OrExit;

/// Time for which a reader of standard output is waited for after a signal.
const READER_MAX: Duration = Duration::from_secs(1);

#[global_allocator]
static ALLOCATOR: OrExit = OrExit;

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
        None => run_once(cli.run, &cli.live, &cli.ranks, argv),
        Some(Command::Compare(args)) => finish(compare::compare(&args, argv), &args.output)
            .inspect(|_| how_to_keep(&args.output)),
        Some(Command::Sweep(args)) => finish(sweep::sweep(&args, argv), &args.output),
        Some(Command::Floor(args)) => finish(floor::floor(&args, argv), &args.output),
        Some(Command::Storm(args)) => finish(storm::storm(&args, argv), &args.output),
        Some(Command::Backlog(args)) => finish(backlog::backlog(&args, argv), &args.output),
        Some(Command::Merge(args)) => finish(merge::merge(&args, argv), &args.output),
        Some(Command::Report(args)) => report(&args),
        Some(Command::Serve(args)) => return embedded::serve(&args),
        Some(Command::Exec(args)) => return supervisor::exec(&args),
        Some(Command::BacklogTrial(args)) => return backlog::trial(&args),
        Some(Command::SweepWorker(args)) => return sweep::worker(&args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(mut failure) => {
            if failure.code == exit::USAGE && !failure.error.is_empty() {
                failure.hint.get_or_insert_with(|| help_hint(&line));
            }
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

/// Runs the command without a subcommand.
fn run_once(
    args: RunArgs,
    live: &LiveArgs,
    ranks: &RankArgs,
    argv: Vec<String>,
) -> Result<u8, Failure> {
    let args = args.finish().map_err(|error| Failure::new(exit::USAGE, error))?;
    let variable = |name: &str| std::env::var(name).ok();
    let member = Member::new(ranks, (&args, live), variable, SystemTime::now())?;
    let Some(member) = member else { return run_as(None, &args, live, argv) };
    let result = run_as(Some(&member), &member.options(&args), live, argv);
    result.map_err(|failure| member.fail(failure))
}

/// Runs the command without a subcommand, as a member of a run of several ranks or alone.
fn run_as(
    member: Option<&Member>,
    args: &RunArgs,
    live: &LiveArgs,
    argv: Vec<String>,
) -> Result<u8, Failure> {
    let mut live = Live::open(args, live)?;
    if let Some(member) = member {
        // In one write, as other ranks print to the same file.
        let _ = io::stderr().write_all(format!("{}\n", member.announcement()).as_bytes());
    }
    let mut finished = run::run(args, member, argv, &mut live)?;
    let record = &mut finished.record;
    let warning = live.warning();
    record.warnings.extend(warning.clone());
    let unconnected = finished.code == exit::ADDRESS;
    let several = member.is_some_and(|member| member.is_one_of_several());
    let text = match args.output.json || live.ends_with_record() {
        true => json(record),
        false if unconnected => String::new(), // An empty table would only hide the error.
        false if several => record.rank_line().unwrap_or_default(),
        false if live.prints() => format!("\n{}", record.text()),
        false => record.text(),
    };
    let failure = unconnected
        .then(|| not_connected(&record.subject.addr, &record.errors, record.sources.len()));
    let cause = failure.as_ref().map(|failure| failure.error.clone());
    let (printer, log_failure) = live.finish();
    let code = deliver(record, &args.output, printer, text, finished.code, failure);
    if let Some(warning) = warning {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    if let Some(member) = member {
        let cause = cause.unwrap_or_else(|| "connections failed before the start".to_owned());
        member.report(&Failure::new(code, cause));
    }
    Ok(log_failure.map_or(code, |failure| fail_late(&failure, code)))
}

/// Stores and prints the result of an experiment, and returns the exit code.
fn finish<D: Document + Serialize>(
    result: Result<Finished<D>, Failure>,
    output: &OutputArgs,
) -> Result<u8, Failure> {
    let Finished { document, code, failure } = result?;
    let text = if output.json { json(&document) } else { document.text() };
    Ok(deliver(&document, output, None, text, code, failure))
}

/// Stores and prints a result, and returns the exit code. First the file, since printing may wait
/// for a reader. A result that would be lost is stored among the temporary files.
fn deliver(
    document: &(impl Document + Serialize),
    output: &OutputArgs,
    printer: Option<Printer>,
    text: String,
    code: u8,
    failure: Option<Failure>,
) -> u8 {
    let stored = output.path.as_ref().map(|path| {
        let stored = store::write(document, path, output.force);
        stored.map_err(|error| Failure::file(exit::FAILURE, path, &error))
    });
    let signalled = code > exit::of_signal(0);
    if signalled {
        signals::exit_after(2 * READER_MAX, code);
    }
    let whole = text.starts_with('{');
    let longest = if signalled { READER_MAX } else { Duration::MAX };
    let printed = match printer.or_else(|| Printer::start(io::stdout()).ok()) {
        Some(printer) => printer.finish(text, longest),
        None => print(&text), // No thread can be started.
    };
    failure.iter().for_each(Failure::print);
    let mut lost = match (&stored, &printed) {
        (Some(Ok(_)), _) | (None, Ok(())) => false,
        (Some(Err(_)), Ok(())) => !whole,
        (Some(Err(_)) | None, Err(_)) => true,
    };
    let (stored, not_stored) = stored.transpose().map_or_else(|f| (None, Some(f)), |s| (s, None));
    let failures = [not_stored, printed.err().map(|error| not_printed(&error))];
    let mut code = code;
    for failure in failures.into_iter().flatten() {
        let failure = if mem::take(&mut lost) { failure.rescue(document) } else { failure };
        code = fail_late(&failure, code);
    }
    stored.iter().for_each(|path| report_stored(path));
    code
}

/// Prints a failure after the measurement, and returns the exit code: a signal's goes first.
fn fail_late(failure: &Failure, code: u8) -> u8 {
    failure.print();
    if code > exit::of_signal(0) { code } else { failure.code }
}

/// Reports the path of a written file.
fn report_stored(path: &Path) {
    let _ = io::stderr().write_all(format!("wrote {}\n", path.display()).as_bytes());
}

/// Reports how to keep a comparison, which takes minutes, if it was not kept.
fn how_to_keep(output: &OutputArgs) {
    if output.path.is_none() && !output.json {
        let _ = writeln!(io::stderr(), "-o FILE keeps a comparison for loadgen report");
    }
}

fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("it has no number that JSON has not") + "\n"
}

/// Prints or draws stored documents of any kinds. A file that cannot be read is reported, and the
/// others are shown.
fn report(args: &ReportArgs) -> Result<u8, Failure> {
    if let Some(path) = &args.output {
        check_file(path, args.force)?;
    }
    let (mut documents, mut code) = (Vec::new(), 0);
    for path in &args.records {
        let (name, document) = match path.as_os_str() == "-" {
            true => ("standard input".to_owned(), store::read_from(io::stdin().lock())),
            false => (path.display().to_string(), store::read(path)),
        };
        match document {
            Ok(document) => documents.push((name, document)),
            Err(error) => {
                Failure::file(exit::FAILURE, name.as_ref(), &error).print();
                code = exit::FAILURE;
            }
        }
    }
    match &args.output {
        _ if documents.is_empty() => {}
        None => print(&lockstep_results::report::text(&documents))
            .map_err(|error| not_printed(&error))?,
        Some(path) => {
            store::write_page(&lockstep_results::report::page(&documents), path, args.force)
                .map_err(|error| Failure::file(exit::FAILURE, path, &error))?;
            report_stored(path);
        }
    }
    Ok(code)
}

/// Prints on standard output. A closed pipe is no error.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn not_printed(error: &io::Error) -> Failure {
    let cause = match error.kind() {
        ErrorKind::TimedOut => "nothing reads it".to_owned(),
        _ => describe(error),
    };
    Failure::new(exit::FAILURE, format!("cannot write to standard output: {cause}"))
}
