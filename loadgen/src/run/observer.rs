//! Callbacks of a run.

use std::time::Duration;

use rustix::process::Pid;

use crate::clients::intervals::FinishedInterval;

/// Receives the events of a run while it goes on. Each method has no effect by default.
pub trait Observer {
    /// The server is ready, and no connection has been opened. `server` is empty if its processes
    /// are unknown. `sleep` sleeps, and is false after a signal, which ends the run.
    fn ready(&mut self, server: &[Pid], sleep: &mut dyn FnMut(Duration) -> bool) {
        let _ = (server, sleep);
    }

    /// Connections are being opened, `opened` so far.
    fn opening(&mut self, opened: u64) {
        let _ = opened;
    }

    /// Every connection has been opened and has had its first exchange, in the time `opening`. The
    /// connections stay idle until this returns.
    fn opened(&mut self, server: &[Pid], opening: Duration) {
        let _ = (server, opening);
    }

    /// An interval of the measured window is over.
    fn interval(&mut self, over: &FinishedInterval<'_>) {
        let _ = over;
    }
}

/// Ignores all events.
impl Observer for () {}
