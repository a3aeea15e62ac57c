//! The server under test: an embedded one as a child process, one from a command line, or one that
//! runs already.

pub mod command;
pub mod embedded;
pub(crate) mod metrics;
pub mod remote;
pub mod supervisor;
pub(crate) mod target;
