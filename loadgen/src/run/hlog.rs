//! HdrHistogram interval logs: the histograms of each interval, in the format of the standard
//! tools.
//!
//! A line is written when its interval is over, whole or not at all: a line that a full disk cuts
//! off is removed, so that the file stays readable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};

use crate::clients::intervals::{self, FinishedInterval};
use crate::exit::{self, Failure};
use crate::options::check_file;
use lockstep_sys::errno::describe;

/// A log that is being written.
#[derive(Debug)]
pub struct Hlog {
    path: PathBuf,
    /// True if the file was created for this log. Without a line it is removed when dropped.
    created: bool,
    lines: WholeLines,
}

impl Hlog {
    /// Creates the file. With `force`, an existing one is overwritten from the first line on.
    ///
    /// # Errors
    ///
    /// [`exit::USAGE`] if the file exists and `force` is absent, or open(2) fails.
    pub fn create(path: &Path, force: bool) -> Result<Self, Failure> {
        check_file(path, force)?;
        let mut options = OpenOptions::new();
        let (created, file) = match options.write(true).create_new(true).open(path) {
            Err(error) if force && error.kind() == ErrorKind::AlreadyExists => {
                (false, options.create_new(false).open(path))
            }
            file => (true, file),
        };
        let file = file.map_err(|error| Failure::file(exit::USAGE, path, &error))?;
        let lines = WholeLines { file, line: Vec::new(), written: 0 };
        Ok(Self { path: path.to_owned(), created, lines })
    }

    /// Writes a line for each latency of an interval that is not empty.
    ///
    /// # Errors
    ///
    /// Those of write(2), with the path.
    pub fn write(&mut self, finished: &FinishedInterval<'_>) -> io::Result<()> {
        let result = self.lines.write_interval(finished);
        result.map_err(|error| {
            io::Error::other(format!("{}: {}", self.path.display(), describe(&error)))
        })
    }
}

impl Drop for Hlog {
    fn drop(&mut self) {
        if self.created && self.lines.written == 0 {
            // The file was created early only to test that it can be.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A file that holds only whole lines.
#[derive(Debug)]
struct WholeLines {
    file: File,
    line: Vec<u8>,
    written: u64,
}

impl WholeLines {
    fn write_interval(&mut self, finished: &FinishedInterval<'_>) -> io::Result<()> {
        let mut log = IntervalLogWriterBuilder::new();
        if self.written == 0 {
            let tool = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
            log.add_comment(&format!("[{tool}; latencies in nanoseconds]"));
            log.with_start_time(finished.started).with_base_time(finished.started);
        }
        let mut serializer = V2DeflateSerializer::new();
        let mut log = log.begin_log_with(self, &mut serializer)?;
        let start = Duration::from_secs_f64(finished.interval.start_s);
        let length = Duration::from_secs_f64(finished.interval.length_s);
        for (name, histogram) in finished.counts.latencies() {
            if histogram.is_empty() {
                continue;
            }
            // With the same bounds in every line, readers can add them.
            let mut bounded = intervals::histogram();
            intervals::add(&mut bounded, histogram);
            let written = log.write_histogram(&bounded, start, length, Tag::new(name));
            written.map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                error => io::Error::other(error.to_string()),
            })?;
        }
        Ok(())
    }
}

impl Write for WholeLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if bytes.ends_with(b"\n") {
            if self.written == 0 {
                self.file.set_len(0)?;
            }
            let written = self.file.write_all(&self.line);
            let whole = self.written + self.line.len() as u64;
            self.line.clear();
            if let Err(error) = written {
                // Truncating a file needs no space.
                let _ = self.file.set_len(self.written);
                return Err(match error.kind() {
                    // write(2) returns 0 on a full disk in some cases.
                    ErrorKind::WriteZero => rustix::io::Errno::NOSPC.into(),
                    _ => error,
                });
            }
            self.written = whole;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use lockstep_results::Interval;

    use super::*;
    use crate::clients::intervals::IntervalCounts;

    fn interval(start_s: f64) -> Interval {
        Interval {
            start_s,
            length_s: 1.0,
            exchanges: 1,
            errors: 0,
            p50_ns: None,
            p90_ns: None,
            p99_ns: None,
            max_ns: None,
        }
    }

    #[test]
    fn log_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.hlog");
        let mut counts = IntervalCounts::new(true);
        counts.exchange.record(1000).unwrap();
        counts.open.as_mut().unwrap().response.record(2000).unwrap();
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut log = Hlog::create(&path, false).unwrap();
        for start_s in [0.0, 1.0] {
            log.write(&FinishedInterval { interval: &interval(start_s), counts: &counts, started })
                .unwrap();
        }
        drop(log);
        let text = fs::read(&path).unwrap();
        let mut lines = Vec::new();
        let mut times = Vec::new();
        for entry in IntervalLogIterator::new(&text) {
            match entry.unwrap() {
                LogEntry::StartTime(time) | LogEntry::BaseTime(time) => times.push(time),
                LogEntry::Interval(line) => lines.push((
                    line.tag().unwrap().as_str(),
                    line.start_timestamp().as_secs(),
                    line.duration().as_secs(),
                )),
            }
        }
        assert_eq!(times, [Duration::from_secs(1_700_000_000); 2]);
        assert_eq!(
            lines,
            [("response", 0, 1), ("service", 0, 1), ("response", 1, 1), ("service", 1, 1)],
        );
        assert!(Hlog::create(&path, false).unwrap_err().error.contains("EEXIST"));
    }

    #[test]
    fn empty_log_is_removed_unless_it_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.hlog");
        drop(Hlog::create(&path, false).unwrap());
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        drop(Hlog::create(&path, true).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
