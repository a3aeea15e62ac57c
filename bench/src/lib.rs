//! What the benches share: a server in this process, clients that check every byte, and the
//! comparison of both sides' books at the end.
//!
//! ```no_run
//! use lockstep_backends::BACKENDS;
//! use lockstep_core::Echo;
//! use lockstep_bench::{Clients, Placement, Subject};
//!
//! let placement = Placement::of_this_process();
//! placement.pin_client();
//! let subject = Subject::start(BACKENDS[0], Echo, &placement);
//! let mut clients = Clients::connect(subject.addr(), 64, 1024);
//! clients.exchange(); // 64 exchanges, the replies compared
//! subject.finish(&clients.finish()); // the server counted 64, too
//! ```
//!
//! A bench that measures the wrong thing is worse than one that stops: whatever does not go as
//! planned panics, with the backend and the cause.

mod arguments;
mod clients;
mod one_shots;
mod payload;
mod placement;
mod subject;

pub use arguments::drop_libtest_arguments;
pub use clients::Clients;
pub use one_shots::OneShots;
pub use placement::Placement;
pub use subject::{Books, Subject, backends};
