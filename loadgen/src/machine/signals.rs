//! Signals: the first SIGINT or SIGTERM ends the run in order, the second immediately.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::event::Event;
use crate::exit;

/// Lets a write beyond RLIMIT_FSIZE fail with `EFBIG` instead of ending the process by SIGXFSZ.
///
/// # Errors
///
/// Those of sigaction(2).
pub fn ignore_file_size_signal() -> io::Result<()> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// Sends the first signal as an event and lets the second end the process.
///
/// # Errors
///
/// Those of sigaction(2), and `EAGAIN` if no thread can be started.
pub fn watch(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        for (number, signal) in signals.forever().enumerate() {
            // Without a receiver the result is being printed: nothing is left to end in order.
            if number > 0 || events.send(Event::Signal(signal)).is_err() {
                process::exit(exit::of_signal(signal).into());
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}
