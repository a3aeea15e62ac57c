//! The measured window as one thread sees it: its intervals, and what the thread used in it.

use crate::clients::engine::Sockets;
use crate::clients::worker::Worker;
use crate::machine::procfs::{self, Usage};

/// Readings of the clock and of the thread's processor time at the edges of the measured window.
#[derive(Clone, Copy)]
pub(crate) enum ProcessorTime {
    Ahead,
    Inside { clock_ns: u64, usage: Option<Usage>, waited_ns: Option<u64> },
    Over,
}

impl<S: Sockets> Worker<'_, S> {
    /// Goes to the interval of that instant, if that is another one.
    #[inline]
    pub(crate) fn next_lap_if_due(&mut self, at_ns: u64) {
        if at_ns >= self.lap_end_ns {
            self.next_lap(at_ns);
        }
    }

    #[cold]
    fn next_lap(&mut self, at_ns: u64) {
        let (start_ns, length_ns) = (self.control.start_ns(), self.plan.interval_ns);
        let number = at_ns.saturating_sub(start_ns) / length_ns;
        self.hand_over_lap(number);
        self.lap_end_ns = start_ns.saturating_add((number + 1).saturating_mul(length_ns));
    }

    pub(crate) fn hand_over_lap(&mut self, next: u64) {
        let mailbox = &self.control.mailboxes()[self.share.thread];
        mailbox.hand_over(self.lap_number, next, &mut self.lap);
        self.lap_number = next;
    }

    pub(crate) fn note_window_edges(&mut self) {
        if matches!(self.processor_time, ProcessorTime::Ahead) {
            // The window is known some turns before it starts.
            self.lap_end_ns = self.control.start_ns().saturating_add(self.plan.interval_ns);
        }
        self.next_lap_if_due(self.now);
        match self.processor_time {
            ProcessorTime::Ahead if self.now >= self.control.start_ns() => {
                self.processor_time = ProcessorTime::Inside {
                    clock_ns: self.now,
                    waited_ns: procfs::thread_waited_ns(),
                    usage: procfs::thread_usage(),
                };
            }
            ProcessorTime::Inside { .. } if self.now >= self.control.end_ns() => {
                self.note_window_end();
            }
            _ => {}
        }
    }

    pub(crate) fn note_window_end(&mut self) {
        if let ProcessorTime::Inside { clock_ns, usage, waited_ns } = self.processor_time {
            self.now = self.control.clock.now();
            let window_ns = self.now.saturating_sub(clock_ns).max(1) as f64;
            let spun_ns = self.tally.spun_ns;
            let usage = procfs::thread_usage().zip(usage).map(|(now, before)| now.since(before));
            let used_ns = usage.map_or(0, |usage| usage.cpu_ns);
            self.tally.usage = usage;
            self.tally.busy = used_ns.saturating_sub(spun_ns) as f64 / window_ns;
            self.tally.waiting = waited_ns
                .zip(procfs::thread_waited_ns())
                .map_or(0.0, |(before, after)| after.saturating_sub(before) as f64 / window_ns);
        }
        self.processor_time = ProcessorTime::Over;
    }
}
