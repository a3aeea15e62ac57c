//! One measured run.
//!
//! * [`args`]: the options. `session`: all steps in order. `prepare`: the server, and the CPUs of
//!   both sides.
//! * [`measure`]: the controller of the phases. [`warmup`]: the end of a warm-up. `server_usage`:
//!   the server's CPU time.
//! * [`verdict`]: the side that was the limit, and whether the run is valid. [`condition`]:
//!   thresholds.
//! * `record`: the record. [`live`], [`hlog`]: intervals during the run. [`observer`]: its events.
//! * `floor`: the cost of an exchange without an event loop.

pub mod args;
pub mod condition;
pub(crate) mod floor;
pub mod hlog;
pub mod live;
pub mod measure;
pub mod observer;
mod prepare;
pub(crate) mod record;
mod server_usage;
mod session;
pub mod verdict;
pub mod warmup;

pub use prepare::Job;
pub(crate) use prepare::Several;
pub use server_usage::ServerUsage;
pub(crate) use session::check_cpus;
pub use session::{Finished, Session, run};
