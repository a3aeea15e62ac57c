//! A floor as plain text that is also Markdown, in at most 100 columns.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use super::{Floor, Spread};
use crate::format;

impl Floor {
    /// Every measurement with its spread and what it is, and what follows from them.
    pub fn text(&self) -> String {
        let place = match self.server_cpu {
            Some(server) => format!("client on CPU {}, server on CPU {server}", self.client_cpu),
            None => format!("CPU {}", self.client_cpu),
        };
        let mut lines = vec![
            format!(
                "what this machine can do: requests of {} bytes over loopback, {place}",
                self.size
            ),
            format!(
                "medians of {} interleaved rounds, {:.1} s in all; every byte is verified",
                self.rounds, self.duration_s
            ),
            String::new(),
        ];
        let grid = self.grid().trim_fmt();
        lines.extend(grid.lines().map(|line| line.trim_end().to_owned()));
        lines.push(String::new());
        lines.extend(self.conclusions());
        lines.join("\n") + "\n"
    }

    fn grid(&self) -> Table {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header(["", "median", "low", "high", "what it is"]);
        for column in table.column_iter_mut().skip(1).take(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for (name, ns, words) in self.rows() {
            // Calls are told apart by less than a nanosecond's rounding.
            let show = |ns: f64| match ns < 99.95 {
                true => format!("{ns:.1}ns"),
                false => format::duration(ns.round() as u64),
            };
            table.add_row([name, show(ns.median), show(ns.low), show(ns.high), words.to_owned()]);
        }
        table
    }

    fn rows(&self) -> Vec<(String, Spread, &'static str)> {
        let conns = |conns: u32| match conns {
            1 => "1 connection".to_owned(),
            conns => format!("{conns} conns"),
        };
        let mut rows = Vec::new();
        for exchange in &self.one_thread {
            let words = match exchange.conns {
                1 => "a whole exchange, both sides, no waiting",
                ..256 => "the same; connections take turns",
                256.. => "the same; more than the caches hold",
            };
            rows.push((format!("1 thread, {}", conns(exchange.conns)), exchange.ns, words));
        }
        for exchange in &self.two_threads {
            let words = match exchange.conns {
                1 => "a round trip between CPUs that spin",
                _ => "from reply to reply, all in flight",
            };
            rows.push((format!("2 spinning, {}", conns(exchange.conns)), exchange.ns, words));
        }
        if let Some(ns) = self.blocking_ns {
            let words = "a round trip between CPUs that sleep";
            rows.push(("2 blocking, 1 connection".to_owned(), ns, words));
        }
        if let Some(calls) = &self.calls {
            let calls = [
                ("clock", calls.clock_ns, "reading the monotonic clock"),
                ("system call", calls.syscall_ns, "the least there is: getppid(2)"),
                ("recv, nothing there", calls.recv_nothing_ns, "EAGAIN"),
                ("epoll_wait, nothing there", calls.epoll_nothing_ns, "with a timeout of zero"),
            ];
            rows.extend(calls.map(|(name, ns, words)| (name.to_owned(), ns, words)));
        }
        rows
    }

    fn conclusions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let per_s = |ns: f64| format::count(1e9 / ns);
        if let Some(best) = best(&self.one_thread) {
            lines.push(format!(
                "a CPU that does both sides in one thread:         at most {}/s",
                per_s(best)
            ));
        }
        match best(&self.two_threads) {
            Some(best) => lines.push(format!(
                "a server on one CPU and its clients on another:   at most {}/s",
                per_s(best)
            )),
            None => lines
                .push("two threads were not measured: there is only one CPU for them".to_owned()),
        }
        let round_trip = self.two_threads.iter().find(|exchange| exchange.conns == 1);
        if let Some((blocking, spinning)) = self.blocking_ns.zip(round_trip) {
            let more_ns = (blocking.median - spinning.ns.median).max(0.0) / 2.0;
            lines.push(format!(
                "waking a thread on another CPU:                   {} each time",
                format::duration(more_ns as u64)
            ));
        }
        lines
    }
}

/// The shortest of the medians.
fn best(measured: &[super::Exchange]) -> Option<f64> {
    measured.iter().map(|exchange| exchange.ns.median).reduce(f64::min).filter(|&ns| ns > 0.0)
}
