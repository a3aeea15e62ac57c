//! The load generator: clients, runs, and experiments that arrange runs.
//!
//! A run opens connections to a server, sends a request on each when the reply to the previous one
//! is complete (closed loop) or when a schedule demands (open loop), and verifies every byte.
//!
//! * [`cli`]: the command line; [`options`]: options that commands share; [`exit`]: exit codes;
//!   [`printer`], [`progress`]: standard output and standard error.
//! * [`run`](mod@run): one measured run, from its options to its record.
//! * [`ranks`]: several processes that share the load of a run.
//! * [`experiments`]: the commands compare, sweep, floor, backlog and storm.
//! * [`clients`]: the threads that load a server. [`servers`]: the servers. [`machine`]: CPUs,
//!   processes, limits.

#![forbid(unsafe_code)]

pub mod cli;
pub mod clients;
pub mod event;
pub mod exit;
pub mod experiments;
pub mod machine;
pub mod options;
pub mod printer;
pub mod progress;
pub mod ranks;
pub mod run;
pub mod servers;
