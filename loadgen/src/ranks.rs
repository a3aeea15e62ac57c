//! Ranks: processes that share the load of one run, started by a launcher on one or several
//! machines.
//!
//! Nothing coordinates them. All ranks have the same options and know their place, so each computes
//! its share of the connections and of the schedule. They begin at an instant that all know. Each
//! writes a record, and `loadgen merge` adds the records.
//!
//! * [`args`]: the options. [`launcher`]: place of a rank, from the options or the launcher's
//!   environment. [`instant`]: the common start. [`member`]: all that a rank has to know.
//! * [`agreement`]: of all ranks on their options and start, through their launcher.
//! * [`merge`](mod@merge): the command that adds their records.

pub mod agreement;
pub mod args;
pub mod instant;
pub mod launcher;
pub mod member;
pub mod merge;
mod pmi;
#[cfg(test)]
mod scripted_launcher;

pub use member::{Member, Start};
