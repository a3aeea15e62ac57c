//! The experiments: arrangements of several runs or connections, each a command of its name.
//!
//! * [`compare`](mod@compare): several servers, in rounds.
//! * [`sweep`](mod@sweep): one server under several loads, and the highest load that meets an
//!   objective.
//! * [`floor`](mod@floor): cost of an exchange on this machine without a server.
//! * [`backlog`](mod@backlog): effect of `listen(n)` on clients while no connection is accepted.
//! * [`storm`](mod@storm): a burst of new connections against a server that accepts them.

use crate::exit::Failure;

pub mod backlog;
pub mod compare;
pub mod floor;
mod listening;
pub mod storm;
pub mod sweep;

/// A document, and the end of its command.
#[derive(Debug)]
pub struct Finished<D> {
    /// The document.
    pub document: D,
    /// The exit code.
    pub code: u8,
    /// Failure that ended the measurement early.
    pub failure: Option<Failure>,
}
