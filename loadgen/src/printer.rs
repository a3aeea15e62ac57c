//! Output that holds nothing up.
//!
//! A thread of its own writes it, so that a reader that stops reading, or a terminal that is
//! stopped, delays neither a run nor the command's end after a signal.

use lockstep_sys::memory;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Writes texts in order.
#[derive(Debug)]
pub struct Printer {
    texts: Sender<String>,
    /// Number of texts that are not written yet.
    queued: Arc<AtomicUsize>,
    result: Receiver<io::Result<()>>,
}

impl Printer {
    /// Starts the thread. It ends at the first error.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if no thread can be started.
    pub fn start(mut output: impl Write + Send + 'static) -> io::Result<Self> {
        let (texts, receiver) = channel::<String>();
        let (sender, result) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let unwritten = queued.clone();
        let write = move |text: String| {
            output.write_all(text.as_bytes()).and_then(|()| output.flush())?;
            unwritten.fetch_sub(1, Relaxed);
            Ok(())
        };
        let work = move || drop(sender.send(receiver.iter().try_for_each(write)));
        memory::thread("printer")?.spawn(work)?;
        Ok(Self { texts, queued, result })
    }

    /// Queues a text if fewer than `most` are queued, and is false otherwise. After an error, texts
    /// are discarded: [`finish`](Self::finish) returns it.
    pub fn print(&self, text: String, most: usize) -> bool {
        if self.queued.load(Relaxed) >= most {
            return false;
        }
        self.queued.fetch_add(1, Relaxed);
        let _ended_by_an_error = self.texts.send(text);
        true
    }

    /// Queues the last text, and waits for at most `longest` until all are written. A closed pipe
    /// is no error.
    ///
    /// # Errors
    ///
    /// Those of write(2); `TimedOut`.
    pub fn finish(self, last: String, longest: Duration) -> io::Result<()> {
        self.print(last, usize::MAX);
        drop(self.texts);
        match self.result.recv_timeout(longest) {
            Ok(Err(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("its thread panicked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    #[test]
    fn texts_are_written_in_order() {
        let (mut reader, writer) = pipe().unwrap();
        let printer = Printer::start(writer).unwrap();
        assert!(printer.print("one\n".to_owned(), 1));
        printer.finish("two\n".to_owned(), Duration::MAX).unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "one\ntwo\n");
    }

    #[test]
    fn reader_that_does_not_read_holds_nothing_up() {
        let (reader, writer) = pipe().unwrap();
        let printer = Printer::start(writer).unwrap();
        // More than the pipe takes.
        let text = "x".repeat(1 << 20);
        let queued = (0..10).filter(|_| printer.print(text.clone(), 3)).count();
        assert_eq!(queued, 3);
        let result = printer.finish(String::new(), Duration::from_millis(10));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(reader);
    }

    #[test]
    fn closed_pipe_is_no_error_and_a_full_disk_is_one() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let printer = Printer::start(writer).unwrap();
        assert!(printer.print("one".to_owned(), 5));
        printer.finish("two".to_owned(), Duration::MAX).unwrap();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let result = Printer::start(full).unwrap().finish("one".to_owned(), Duration::MAX);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
}
