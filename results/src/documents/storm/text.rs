//! Text of bursts of new connections.

use std::fmt::Write as _;

use super::Storm;
use crate::documents::backlog::picture::{bar, timeline};
use crate::documents::run::text::latencies;
use crate::text::{COLUMNS, line, polling, printable, shorten, wrap};
use crate::{Latencies, Latency, format};

/// One line for each storm.
pub(super) fn table(storms: &[Storm]) -> String {
    let mut text = format!(
        "{:<14} {:>7} {:>6} {:>8} {:>7} {:>7} {:>9} {:>7} {:>6}\n",
        "server", "backlog", "conns", "conns/s", "p50", "p99", "overflows", "retried", "failed"
    );
    for storm in storms {
        let shards = match storm.subject.shards {
            Some(shards @ 2..) => format!(" x {shards}"),
            _ => String::new(),
        };
        let connect = |value: fn(&Latency) -> u64| {
            let latency = storm.latency.connect.as_ref();
            latency.map_or_else(|| "-".to_owned(), |latency| format::duration(value(latency)))
        };
        let overflows = storm.counters.get("ListenOverflows");
        let _ = writeln!(
            text,
            "{:<14} {:>7} {:>6} {:>8} {:>7} {:>7} {:>9} {:>7} {:>6}",
            shorten(&(printable(&storm.subject.name) + &shards), 14),
            storm.subject.backlog.map_or_else(|| "-".to_owned(), |backlog| backlog.to_string()),
            storm.conns,
            format::count(storm.served_per_s()),
            connect(|latency| latency.p50_ns),
            connect(|latency| latency.p99_ns),
            overflows.map_or_else(|| "-".to_owned(), i64::to_string),
            storm.retried(),
            storm.errors_total + storm.unfinished,
        );
    }
    text + "p50, p99: of connect; overflows: of all servers in this network namespace;\n    \
            retried: connections that needed more than one SYN\n"
}

impl Storm {
    /// Text of one storm.
    pub(super) fn text(&self) -> String {
        let mut text = self.header();
        text += &self.latencies();
        text += &self.pictures();
        for sentence in self.signature() {
            text += &line(&sentence);
            text.push('\n');
        }
        text + &self.failures()
    }

    fn header(&self) -> String {
        let pace = match self.rate_per_s {
            Some(rate) => format!("{} a second", format::count(rate)),
            None => format!("at once (in {:.1} ms)", self.issued_s * 1e3),
        };
        let exchanges = match self.exchanges_each {
            1 => "1 exchange".to_owned(),
            count => format!("{count} exchanges"),
        };
        let storm = format!(
            "{} connections {pace}, {exchanges} of {} bytes each, closed by {}",
            self.conns,
            self.size,
            self.close.to_uppercase()
        );
        let subject = &self.subject;
        let server = match (&subject.backend, subject.shards, subject.backlog) {
            (Some(backend), Some(shards), Some(backlog)) => format!(
                "server {} at {}, shards {shards}, backlog {backlog}{}{}",
                printable(backend),
                printable(&subject.addr),
                polling(subject.spin_ns),
                self.placement.as_ref().map_or_else(String::new, |how| format!(", {how}")),
            ),
            _ => format!("server {}", printable(&subject.addr)),
        };
        let cut = if self.interrupted { ", interrupted" } else { "" };
        let outcome = format!(
            "{} served, {} failed, {} unfinished in {:.2} s{cut}: {} connections/s",
            self.completed,
            self.errors_total,
            self.unfinished,
            self.length_s,
            format::count(self.served_per_s()),
        );
        [line(&storm), line(&server), String::new(), outcome].join("\n") + "\n"
    }

    fn latencies(&self) -> String {
        let Latencies { connect, first_exchange, exchange, .. } = &self.latency;
        // With one exchange on each connection, all are first ones.
        let all = if self.exchanges_each == 1 { &None } else { exchange };
        latencies(&[("connect", connect), ("first exchange", first_exchange), ("exchange", all)])
    }

    fn pictures(&self) -> String {
        let mut text = "\n".to_owned();
        let most = self.by_syn.iter().map(|by| by.connections).max().unwrap_or(0);
        for by in &self.by_syn {
            let time = match by.connections {
                0 => "-".to_owned(),
                _ => format::duration(by.connect_p50_ns),
            };
            let line = format!(
                "SYN {:<3} {time:>8} {:>8} {}",
                by.syn,
                by.connections,
                bar(by.connections as usize, most as usize)
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if let Some(queue) = &self.queue {
            let _ = writeln!(
                text,
                "queue, {:>6.2} s        {} max {} of {}",
                self.length_s,
                timeline(&queue.depth, queue.room(), self.length_s),
                queue.deepest(),
                queue.room()
            );
        }
        text + "\n"
    }

    /// Explanation of the numbers, if an overflow of the accept queue caused them.
    pub fn signature(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let overflows = self.counters.get("ListenOverflows").copied();
        let overflowed = match overflows {
            Some(count @ 1..) => format!(
                "the accept queue overflowed {count} time{}",
                if count == 1 { "" } else { "s" }
            ),
            Some(_) => "the accept queue did not overflow, so they were lost elsewhere".to_owned(),
            None => "this kernel does not count overflows".to_owned(),
        };
        let percentiles = [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999), ("max", 1000)];
        let cliff = percentiles
            .into_iter()
            .find_map(|(name, permille)| Some((name, self.syns_at(permille).filter(|&n| n > 1)?)));
        match cliff {
            Some((name, syns)) => {
                let retries = match syns {
                    2 => "one SYN retry".to_owned(),
                    syns => format!("{} SYN retries", syns - 1),
                };
                sentences.push(format!(
                    "{name} of connect is {retries}: {overflowed}, and {} of {} connections needed \
                     more than one SYN",
                    self.retried(),
                    self.conns,
                ));
            }
            None if overflows.is_some_and(|count| count > 0) => sentences.push(format!(
                "{overflowed} (or another in this network namespace), but no SYN of these \
                 connections was lost"
            )),
            None => sentences.push("no SYN was lost: the accept queue had room".to_owned()),
        }
        if self.resent > 0 {
            sentences.push(format!(
                "{} connection{} had to send a request again: it came before the server's side of \
                 the connection was there",
                self.resent,
                if self.resent == 1 { "" } else { "s" }
            ));
        }
        sentences
    }

    fn failures(&self) -> String {
        let mut text =
            if self.errors.is_empty() { "errors         none\n" } else { "errors\n" }.to_owned();
        for error in &self.errors {
            let errno = error.errno.as_deref().unwrap_or("-");
            let first = printable(&error.first);
            let line = format!("{:<12} {errno:<14} {:>9}   {first}", error.kind, error.count);
            text += &wrap(&line, COLUMNS, 15);
            text.push('\n');
        }
        for note in &self.notes {
            text += &wrap(&format!("note           {}", printable(note)), COLUMNS, 15);
            text.push('\n');
        }
        text
    }
}
