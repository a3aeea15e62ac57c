//! Where the result of an experiment goes: options that the commands share.

use std::path::PathBuf;

use clap::Args;
use lockstep_results::store;

use crate::exit::{self, Failure};

/// The options that say where a result goes.
#[derive(Args, Clone, Debug)]
pub struct OutputArgs {
    /// Print the result as one JSON object and nothing else
    #[arg(long)]
    pub json: bool,

    /// Also write the result to a file, or under a name of its own into a directory
    #[arg(short = 'o', long = "output", value_name = "FILE|DIR")]
    pub path: Option<PathBuf>,

    /// Let --output overwrite a file
    #[arg(long, requires = "path")]
    pub force: bool,
}

impl OutputArgs {
    /// Says beforehand whether the file could not be written.
    ///
    /// # Errors
    ///
    /// One line that names it.
    pub fn check(&self) -> Result<(), Failure> {
        let Some(path) = &self.path else { return Ok(()) };
        store::check(path, self.force).map_err(|error| Failure::new(exit::USAGE, error.to_string()))
    }
}
