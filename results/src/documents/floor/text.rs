//! Text of a floor; its table is also Markdown.

use super::{Floor, Spread};
use crate::format;
use crate::text::{line, plural, table};

impl Floor {
    /// Every measurement with its spread, and what follows from them.
    pub fn text(&self, interrupted: bool) -> String {
        let place = match (self.client_cpu, self.server_cpu) {
            (Some(client), Some(server)) => {
                format!("client on CPU {client}, server on CPU {server}")
            }
            (Some(client), None) => format!("CPU {client}"),
            (None, _) => "on any CPU: threads cannot be pinned here".to_owned(),
        };
        let rows = self.rows().into_iter().map(|(name, ns)| {
            // Calls differ by less than a nanosecond.
            let show = |ns: f64| match ns < 99.95 {
                true => format!("{ns:.1}ns"),
                false => format::duration(ns.round() as u64),
            };
            vec![name, show(ns.median), show(ns.low), show(ns.high)]
        });
        let mut lines = vec![
            line(&format!("floor of this machine: {} bytes over loopback, {place}", self.size)),
            format!(
                "medians of {} interleaved rounds, {:.1} s in all; every byte is verified",
                self.rounds, self.duration_s
            ),
            String::new(),
            table(1, &["", "median", "low", "high"], rows),
            String::new(),
        ];
        lines.extend(self.conclusions(interrupted));
        lines.join("\n") + "\n"
    }

    fn rows(&self) -> Vec<(String, Spread)> {
        let conns = |conns: u32| plural(conns.into(), "connection");
        let mut rows = Vec::new();
        for exchange in &self.one_thread {
            let name = format!("exchange in 1 thread, {}", conns(exchange.conns));
            rows.push((name, exchange.ns));
        }
        for exchange in &self.two_threads {
            let name = format!("2 spinning threads, {}", conns(exchange.conns));
            rows.push((name, exchange.ns));
        }
        let blocking = "2 blocking threads, 1 connection".to_owned();
        rows.extend(self.blocking_ns.map(|ns| (blocking, ns)));
        if let Some(calls) = &self.calls {
            let calls = [
                ("clock_gettime(CLOCK_MONOTONIC)", calls.clock_ns),
                ("system call that does nothing (getppid)", calls.syscall_ns),
                ("recv that finds nothing", calls.recv_nothing_ns),
                ("epoll_wait that finds nothing", calls.epoll_nothing_ns),
            ];
            rows.extend(calls.map(|(name, ns)| (name.to_owned(), ns)));
        }
        rows
    }

    fn conclusions(&self, interrupted: bool) -> Vec<String> {
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
            None if interrupted || self.client_cpu.is_none() => {}
            None if self.server_cpu.is_none() => lines
                .push("two spinning threads were not measured: there is only one CPU".to_owned()),
            None => lines.push(line(
                "two spinning threads were not measured: other programs or a quota took their CPUs \
                 in every round",
            )),
        }
        let round_trip = self.two_threads.iter().find(|exchange| exchange.conns == 1);
        if let Some((blocking, spinning)) = self.blocking_ns.zip(round_trip) {
            let more_ns = (blocking.median - spinning.ns.median).max(0.0) / 2.0;
            lines.push(format!(
                "waking a thread on another CPU:                   {} each time",
                format::duration(more_ns as u64)
            ));
        }
        if interrupted {
            lines.push("interrupted: incomplete".to_owned());
        }
        lines
    }
}

/// The shortest of the medians.
fn best(measured: &[super::Exchange]) -> Option<f64> {
    measured.iter().map(|exchange| exchange.ns.median).reduce(f64::min).filter(|&ns| ns > 0.0)
}
