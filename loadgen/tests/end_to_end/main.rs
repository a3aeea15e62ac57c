//! The `loadgen` command against servers that follow a script, and against its own.

mod backlog;
mod compare;
mod embedded;
mod engine;
mod floor;
mod full_disk;
mod harness;
mod intervals;
mod kernel;
mod loaded;
mod losses;
mod many;
mod one_shot;
mod open_loop;
mod output;
mod page;
mod places;
mod processes;
mod replies;
mod signals;
mod storm;
mod sweep;
mod thresholds;
mod usage;
mod warmup;
