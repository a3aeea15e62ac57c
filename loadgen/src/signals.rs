//! Ctrl-C and its relatives: the first ends the run in order, the second at once.

use std::io;
use std::process;
use std::sync::mpsc::Sender;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit;
use crate::measure::News;

/// Sends the first signal as news and lets the second end the process.
///
/// # Errors
///
/// When signals cannot be caught, or no thread started.
pub fn watch(news: Sender<News>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        for (number, signal) in signals.forever().enumerate() {
            // When nobody listens any more, the result is being printed and need not be ended.
            if number > 0 || news.send(News::Signal(signal)).is_err() {
                process::exit(exit::of_signal(signal).into());
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}
