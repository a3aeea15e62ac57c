//! The load generator: the clients, the clock, the verdict on itself, and the experiments.
//!
//! A run opens connections to a lockstep server, sends a request on each as soon as the reply to
//! the last one is complete (a closed loop) or when a schedule says so (an open loop), and compares
//! every byte.
//!
//! * [`cli`]: the command line; each command has a module of its name.
//! * [`run`](mod@run): one measured run, from the options to the record.
//! * [`experiments`]: arrangements of several runs: compare, sweep, floor, backlog, storm.
//! * [`clients`]: what loads a server. [`servers`]: what is loaded. [`machine`]: where both run.

pub mod cli;
pub mod clients;
pub mod event;
pub mod exit;
pub mod experiments;
pub mod machine;
pub mod options;
pub mod progress;
pub mod run;
pub mod servers;
