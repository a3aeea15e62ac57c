//! Measures the project's performance targets, and prints which of them are reached.
//!
//! ```text
//! cargo run --release -p lockstep-bench --features peers --bin targets
//! ```
//!
//! Builds the load generator and the reference servers, measures with `loadgen compare`, keeps the
//! records in target/targets, and prints a table.

mod experiments;
mod judgement;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use clap::builder::PossibleValuesParser;
use lockstep_results::{Stored, store};

use experiments::{EXPERIMENTS, Experiment};
use judgement::table;

/// Measure the project's performance targets
#[derive(Parser)]
struct Options {
    /// Rounds of each comparison
    #[arg(short, long, value_name = "N", default_value_t = 9)]
    rounds: u32,

    /// Only the experiments of these names
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = names())]
    only: Vec<String>,

    /// Folder of the records
    #[arg(short, long, value_name = "DIR", default_value = "target/targets")]
    output: PathBuf,

    /// Judge stored records instead of measuring, such as results/runs/20261124T023400Z-targets
    #[arg(long, value_name = "PREFIX")]
    judge: Option<String>,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(EXPERIMENTS.iter().map(|experiment| experiment.name))
}

fn main() -> ExitCode {
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    let selected = |experiment: &&Experiment| {
        options.only.is_empty() || options.only.iter().any(|name| name == experiment.name)
    };
    let experiments: Vec<&Experiment> = EXPERIMENTS.iter().filter(selected).collect();
    let files = |stem: &str| -> Vec<PathBuf> {
        let file = |part: &str| PathBuf::from(format!("{stem}-{part}.json"));
        experiments.iter().map(|experiment| file(experiment.name)).collect()
    };
    let files = match &options.judge {
        Some(stem) => files(stem),
        None => {
            let stem = format!(
                "{}-targets",
                humantime::format_rfc3339_seconds(std::time::SystemTime::now())
            );
            let stem = stem.replace(['-', ':'], "").replace("Ztargets", "Z-targets");
            fs::create_dir_all(&options.output)?;
            let files = files(&options.output.join(stem).display().to_string());
            let binaries = build()?;
            for (experiment, file) in experiments.iter().zip(&files) {
                eprintln!("{}: {}", experiment.name, experiment.about);
                let arguments = experiment.arguments(&binaries, options.rounds);
                run(Command::new(binaries.join("loadgen")).args(arguments).arg("-o").arg(file))?;
            }
            files
        }
    };
    let mut comparisons = Vec::new();
    for (experiment, file) in experiments.iter().zip(&files) {
        let read = store::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        match read {
            Stored::Comparison(comparison) => comparisons.push((experiment.name, *comparison)),
            _ => return Err(format!("{}: not a comparison", file.display()).into()),
        }
    }
    print!("{}", table(&comparisons));
    Ok(())
}

/// Builds the programs in the directory of this one, and returns that directory relative to the
/// working directory, since it becomes part of the records.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let packages = ["build", "--release", "--bins", "-p", "loadgen", "-p", "lockstep-bench"];
    run(Command::new(cargo).args(packages).args(["--features", "lockstep-bench/peers"]))?;
    let own = std::env::current_exe()?;
    let directory = own.parent().expect("a program is in a directory");
    Ok(match directory.strip_prefix(std::env::current_dir()?) {
        Ok(below) => Path::new(".").join(below),
        Err(_) => directory.to_owned(),
    })
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {status}").into()),
    }
}
