//! The load generator: the clients, the clock, the verdict on itself, and the experiments.
//!
//! A run opens connections to a lockstep server, sends a request on each as soon as the reply to
//! the last one is complete (a closed loop) or when a schedule says so (an open loop), and compares
//! every byte.
//!
//! * [`cli`]: the command line; each command has a module of its name.
//! * [`run`](mod@run): one measured run, from the options to the record.
//! * [`compare`](mod@compare): several servers, in rounds. [`sweep`](mod@sweep): one server under
//!   several loads, and the highest that meets an objective. [`floor`](mod@floor): what the
//!   machine can do at all.
//! * [`backlog`](mod@backlog): what `listen(n)` does to clients while nobody accepts.
//!   [`storm`](mod@storm): new connections by the thousand while somebody does.
//! * [`many`](mod@many): what a server costs with few connections and with many.
//! * [`clients`]: what loads a server. [`servers`]: what is loaded. [`machine`]: where both run.

pub mod backlog;
pub mod cli;
pub mod clients;
pub mod compare;
pub mod exit;
pub mod floor;
pub mod machine;
pub mod many;
pub mod output;
pub mod progress;
pub mod run;
pub mod servers;
pub mod storm;
pub mod sweep;
pub mod units;
