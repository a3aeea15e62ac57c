//! End-to-end tests of the `loadgen` command, against scripted and embedded servers.

mod backlog;
mod compare;
mod connection_failures;
mod embedded;
mod engine;
mod floor;
mod full_disk;
mod harness;
mod intervals;
mod kernel_counters;
mod machine_load;
mod one_shot;
mod open_loop;
mod output;
mod placement;
mod processes;
mod replies;
mod report_page;
mod signals;
mod storm;
mod sweep;
mod sweep_connections;
mod thresholds;
mod usage;
mod validity;
mod warmup;
