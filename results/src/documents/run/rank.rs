//! Ranks: the load-generating processes of one run, often on several machines.
//!
//! Each rank writes a record with its [`Rank`]. `loadgen merge` adds the records to one, with a
//! [`RankRow`] for each rank and a [`Merge`].
//!
//! Instants are microseconds of Unix time, so that readers that have only floating-point numbers
//! keep them.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

/// Place of a record among those of its run.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rank {
    /// Number of the rank, from 0.
    pub index: u32,
    /// Number of ranks.
    pub count: u32,
    /// Identifier that all ranks of the run have in common.
    pub run_id: String,
    /// Source of index and count: `--rank`, or environment variables such as `PMI_RANK, PMI_SIZE`.
    pub source: String,
    /// Source of the start instant: `--start-at` or `PMI`.
    pub start_source: String,
    /// Digest of the options that all ranks must have in common.
    pub options_digest: String,
    /// Identifier of the boot of the machine (`/proc/sys/kernel/random/boot_id`), hashed. Ranks
    /// with the same one share a clock, and the monotonic instant below.
    pub boot: Option<String>,
    /// Agreed start of the load.
    pub planned_start_unix_us: u64,
    /// Start of the load.
    pub start_unix_us: u64,
    /// Start of the load on CLOCK_MONOTONIC.
    pub start_monotonic_us: u64,
    /// Start of the measured window.
    pub window_start_unix_us: u64,
    /// End of the measured window.
    pub window_end_unix_us: u64,
    /// True if the load started within 10 ms after the agreed instant.
    pub met_deadline: bool,
    /// Clock of the machine before the run.
    pub clock_before: Option<ClockState>,
    /// Clock of the machine after the run.
    pub clock_after: Option<ClockState>,
}

/// State of the realtime clock, as the kernel was told (adjtimex(2)). Not a proof: chrony may leave
/// a good clock marked as unsynchronized, systemd-timesyncd reports an error of 0.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClockState {
    /// False if the kernel regards the clock as unsynchronized (`STA_UNSYNC`).
    pub synchronized: bool,
    /// Bound of the error, microseconds.
    pub max_error_us: i64,
    /// Estimate of the error, microseconds.
    pub estimated_error_us: i64,
    /// Offset that is still being corrected, nanoseconds.
    pub offset_ns: i64,
}
