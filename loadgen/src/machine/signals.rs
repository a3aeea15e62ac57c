//! Ctrl-C and its relatives: the first ends the run in order, the second at once.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::thread;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::event::Event;
use crate::exit;

/// Has the kernel end this process with `parent`, which has started it; `false` if that is gone
/// already.
pub fn end_with(parent: i32) -> bool {
    signal_with(parent, Signal::KILL)
}

/// Has the kernel send this process a signal when `parent` is gone, which has started it; `false`
/// if it is already.
pub fn signal_with(parent: i32, signal: Signal) -> bool {
    // Where it is refused, the parent still ends its children whenever it can.
    let _ = set_parent_process_death_signal(Some(signal));
    getppid() == Pid::from_raw(parent)
}

/// Lets a write beyond RLIMIT_FSIZE fail with an error that can be told, and not by a signal.
///
/// # Errors
///
/// When the signal cannot be caught.
pub fn tell_of_full_files() -> io::Result<()> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// Sends the first signal as an event and lets the second end the process.
///
/// # Errors
///
/// When signals cannot be caught, or no thread started.
pub fn watch(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        for (number, signal) in signals.forever().enumerate() {
            // When nobody listens any more, the result is being printed and need not be ended.
            if number > 0 || events.send(Event::Signal(signal)).is_err() {
                process::exit(exit::of_signal(signal).into());
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}
