//! Parts of the benches: a server in this process, clients that check every byte, and the
//! comparison of both sides' counts at the end.
//!
//! ```no_run
//! use lockstep_backends::BACKENDS;
//! use lockstep_bench::{Clients, Load, Placement, Subject};
//! use lockstep_core::Echo;
//!
//! let placement = Placement::of_this_process();
//! placement.pin_client();
//! let subject = Subject::start(BACKENDS[0], Echo, &placement);
//! let mut clients = Clients::connect(subject.addr(), 64, 1024);
//! clients.exchange(); // 64 exchanges, the replies compared
//! subject.finish(&clients.finish()); // the server has counted 64, too
//! ```
//!
//! A bench that measures the wrong thing is worse than one that stops: any deviation panics, with
//! the backend and the cause.

#![forbid(unsafe_code)]

mod arguments;
mod clients;
mod one_shots;
mod pair;
mod payload;
mod placement;
mod subject;

pub use arguments::drop_libtest_arguments;
pub use clients::Clients;
pub use one_shots::OneShots;
pub use pair::{Load, Pair};
pub use placement::Placement;
pub use subject::{Counts, Subject, backends};
