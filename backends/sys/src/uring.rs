//! The io_uring(7) of one thread: its queues, its receive buffers, and the memory it sends from.
//!
//! [`Ring`] owns all memory that the kernel reads or writes, so submitting is safe. Dropping it
//! cancels what is in flight and waits until the kernel has finished with it. It needs
//! DEFER_TASKRUN (Linux 6.1).

mod buffers;
mod ring;
mod trial;

pub use buffers::BufferId;
pub use ring::{Completion, NO_KEY, Observer, Ring, Sent, Sizes};
