//! Signals: the first SIGINT, SIGTERM, SIGQUIT or SIGHUP ends the run in order, the second
//! immediately.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use procfs::process::Process;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::event::Event;
use crate::exit;
use lockstep_sys::memory;

/// Lets a write beyond RLIMIT_FSIZE fail with `EFBIG` instead of ending the process by SIGXFSZ.
///
/// # Errors
///
/// Those of sigaction(2).
pub fn ignore_file_size_signal() -> io::Result<()> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// Sends the first signal as an event and lets the second end the process. SIGHUP stays ignored if
/// it was, as nohup(1) has it.
///
/// # Errors
///
/// Those of sigaction(2), and `EAGAIN` if no thread can be started.
pub fn watch(events: Sender<Event>) -> io::Result<()> {
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT].into_iter().chain(hangup))?;
    let wait = move || {
        for (number, signal) in signals.forever().enumerate() {
            // Without a receiver the result is being printed: nothing is left to end in order.
            if number > 0 || events.send(Event::Signal(signal)).is_err() {
                process::exit(exit::of_signal(signal).into());
            }
        }
    };
    memory::thread("signals")?.spawn(wait).map(drop)
}

/// Ends this process after a time, if it still runs then.
pub fn exit_after(time: Duration, code: u8) {
    let _no_thread = thread::Builder::new().name("exit".to_owned()).spawn(move || {
        thread::sleep(time);
        process::exit(code.into());
    });
}

/// True if this process ignores the signal.
fn is_ignored(signal: i32) -> bool {
    let status = Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.sigign >> (signal - 1) & 1 == 1)
}
