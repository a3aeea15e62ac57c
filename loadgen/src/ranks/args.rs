//! Options of ranks.

use std::time::SystemTime;

use clap::Args;

use crate::options::at_most;
use crate::ranks::instant;

/// Heading of these options in `--help`.
const RANKS: &str = "Several processes or machines";

/// Longest identifier of a run: the names of records contain it.
pub(super) const RUN_ID_MAX: usize = 40;

/// Largest number of ranks.
const COUNT_MAX: u32 = 1_000_000;

/// Options of ranks.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = RANKS)]
pub struct RankArgs {
    /// Number of this rank, from 0
    #[arg(long, value_name = "K", requires = "ranks")]
    pub rank: Option<u32>,

    /// Number of ranks: processes with the same options that share connections, requests and rate;
    /// auto: rank and number from the launcher. Each writes a record into the directory of -o, and
    /// loadgen merge adds and judges them: an INVALID rank exits with 0. Needs HOST:PORT and a
    /// --warmup of fixed length; no floor is measured
    #[arg(long, value_name = "N|auto", value_parser = Count::parse)]
    pub ranks: Option<Count>,

    /// Start of the load, once connections are open: RFC 3339, or seconds since 1970 (date +%s). A
    /// process that is late starts when it is ready, with a warning. Ranks need it, unless their
    /// launcher speaks PMI-1 (MPICH's mpiexec, srun --mpi=pmi2, Flux): then they agree on a start
    /// by themselves, and refuse differing options and versions
    #[arg(long, value_name = "INSTANT", value_parser = instant::parse)]
    pub start_at: Option<SystemTime>,

    /// Identifier of the run, the same for all ranks [default: the launcher's job, or a digest of
    /// the options and the start]
    #[arg(long, value_name = "ID", value_parser = run_id)]
    pub run_id: Option<String>,
}

impl RankArgs {
    /// True if none of the options is given.
    pub(super) fn is_empty(&self) -> bool {
        self.rank.is_none()
            && self.ranks.is_none()
            && self.start_at.is_none()
            && self.run_id.is_none()
    }
}

/// Number of ranks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Count {
    /// As the launcher's environment says.
    Auto,
    /// This number.
    Fixed(u32),
}

impl Count {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => Ok(Self::Fixed(at_most::<COUNT_MAX>(text)?)),
        }
    }
}

fn run_id(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("must not be empty".to_owned()),
        1..=RUN_ID_MAX if text.chars().all(is_in_run_id) => Ok(text.to_owned()),
        1..=RUN_ID_MAX => Err("may consist of letters, digits, '.', '_' and '-'".to_owned()),
        _ => Err(format!("may have at most {RUN_ID_MAX} characters")),
    }
}

/// True for a character that an identifier may contain: all of a file's name.
pub(super) fn is_in_run_id(char: char) -> bool {
    char.is_ascii_alphanumeric() || "._-".contains(char)
}
