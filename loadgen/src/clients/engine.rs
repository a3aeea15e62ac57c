//! Engines: the system calls with which the sockets of a thread are waited for, read and written.

pub(crate) mod driver;
mod epoll;
mod uring;

use clap::ValueEnum;

pub(crate) use epoll::Epoll;
pub(crate) use uring::Uring;

/// System calls with which sockets are waited for, read and written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Engine {
    /// epoll(7), recv(2) and send(2).
    Epoll,
    /// io_uring(7).
    IoUring,
}

impl Engine {
    /// Name in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::IoUring => "io-uring",
        }
    }

    /// Returns the engine that costs less: io_uring in a closed loop, if the kernel has it; epoll
    /// in an open loop, where a request has an instant of its own and is not to wait for others.
    pub fn best(open: bool) -> Self {
        if !open && Self::IoUring.probe().is_ok() { Self::IoUring } else { Self::Epoll }
    }

    /// Tests whether this kernel has what the engine needs.
    ///
    /// # Errors
    ///
    /// The missing feature and the version of Linux that has it.
    pub fn probe(self) -> Result<(), String> {
        match self {
            Self::Epoll => Ok(()),
            Self::IoUring => uring::probe(),
        }
    }
}
