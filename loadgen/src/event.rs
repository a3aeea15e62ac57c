//! Events that the main thread waits for, sent to it over a channel by every other thread.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use crate::exit::Failure;

/// An event for the main thread.
#[derive(Debug)]
pub enum Event {
    /// This signal arrived.
    Signal(i32),
    /// The target's address, or the error of its look-up.
    Resolved(Result<SocketAddr, Failure>),
    /// The embedded server is ready; `None` if it ended before that.
    Ready(Option<Ready>),
    /// The ranks have agreed on the instant of their start, `None` for none, or cannot start.
    Agreed(Result<Option<SystemTime>, Failure>),
    /// Every connection of a thread has done its first exchange or has failed. That many were
    /// established.
    Opened(u64),
    /// A thread has nothing outstanding any more, or one of several runs has ended.
    Finished,
}

/// The contents of a server's ready line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ready {
    /// Listen address.
    pub addr: SocketAddr,
    /// Name of the backend that runs.
    pub backend: String,
    /// Number of shards.
    pub shards: u32,
    /// Length of each shard's listen queue.
    pub backlog: u32,
    /// Address of its metrics, if it publishes them.
    pub metrics: Option<SocketAddr>,
}

/// Sends [`Event::Finished`] when dropped, so that it is sent after an error or a panic, too.
#[derive(Debug)]
pub struct FinishGuard(pub Sender<Event>);

impl Drop for FinishGuard {
    fn drop(&mut self) {
        let _receiver_is_gone = self.0.send(Event::Finished);
    }
}
