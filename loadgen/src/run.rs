//! One measured run: its options, its phases, and what is made of what was measured.
//!
//! * [`args`]: what is asked for. `session`: all of it in order, up to the record.
//! * [`measure`], `conductor`, [`warmup`]: the clients' threads, and the main thread, which conducts
//!   them; `account`: what the server uses meanwhile.
//! * [`verdict`]: who was the limit, and whether the numbers may be believed; [`condition`]: whether
//!   they are as they should be.
//! * [`record`], [`report`], [`picture`]: the numbers as a record, and the record as text; [`live`],
//!   [`hlog`]: its intervals while it goes on; [`observer`]: callbacks.

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
