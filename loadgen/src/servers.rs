//! The server under test: our own as a child process, or anybody's from a command line.

pub mod command;
pub mod embedded;
pub mod supervisor;
pub(crate) mod target;
