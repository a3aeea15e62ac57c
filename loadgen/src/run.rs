//! One measured run, from the options to the record.
//!
//! * [`args`]: the options. `session`: one run, or several in time slices. `prepare`: the server
//!   under test.
//! * [`measure`]: the threads of the clients and the controller of their phases. [`warmup`]: the
//!   end of the warm-up. `server_usage`: CPU time of the server; `server_page`: as it publishes it.
//!   [`spread`]: its shards. `floor`: cost of the bare system calls.
//! * `record`: the record. [`verdict`]: its limit and validity. [`condition`]: its thresholds.
//! * [`observer`]: callbacks while a run goes on. [`live`], [`hlog`]: its intervals on standard
//!   output, and as an interval log.

pub mod args;
pub mod condition;
pub(crate) mod floor;
pub mod hlog;
pub mod live;
pub mod measure;
pub mod observer;
mod prepare;
pub(crate) mod record;
mod server_page;
mod server_usage;
mod session;
pub mod spread;
pub mod verdict;
pub mod warmup;

pub use prepare::Job;
pub(crate) use prepare::Several;
pub use server_page::{PageUsage, ServerPage};
pub use server_usage::ServerUsage;
pub use session::{Finished, Session, run};
