//! Statistics that a server prints when it has stopped.

use std::time::Duration;

use serde::Serialize;

use crate::Stats;

/// Counts of a stopped server, with its configuration.
#[derive(Debug, Serialize)]
pub(super) struct Statistics<'a> {
    pub(super) schema: u32,
    pub(super) backend: &'a str,
    /// The choice of `auto`, with the reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auto: Option<&'a str>,
    pub(super) service: &'a str,
    pub(super) shards: usize,
    /// `cpu` or `off`.
    pub(super) steer: &'a str,
    #[serde(flatten)]
    pub(super) stats: &'a Stats,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) syscalls_per_exchange: Option<f64>,
}

impl Statistics<'_> {
    /// Returns one JSON object on one line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("counts and names are JSON")
    }

    /// Returns the table for people.
    pub(super) fn text(&self) -> String {
        let stats = self.stats;
        let listed = |title: &str, counts: &mut dyn Iterator<Item = (String, u64)>| {
            let counts: Vec<String> = counts
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            match counts.is_empty() {
                true => String::new(),
                false => format!("{title}{}\n", counts.join(", ")),
            }
        };
        let owned = |(name, count): (&String, &u64)| (name.clone(), *count);
        let per_exchange = self
            .syscalls_per_exchange
            .map_or_else(String::new, |syscalls| format!(", {syscalls:.3} per exchange"));
        let mut closed = lockstep_core::Cause::ALL
            .into_iter()
            .map(|cause| (cause.name().to_owned(), stats.closed.count(cause)));
        [
            format!("{} served {}, shards {}\n", self.backend, self.service, self.shards),
            format!(
                "connections   {} accepted, {} open at most\n",
                stats.accepted, stats.connections_peak
            ),
            self.by_shard(),
            listed("closed        ", &mut closed),
            self.accept_queue(),
            format!(
                "exchanges     {} ({} bytes received, {} sent, {} short sends)\n",
                stats.exchanges, stats.bytes_received, stats.bytes_sent, stats.sends_short
            ),
            format!("system calls  {}{per_exchange}\n", stats.syscalls),
            self.spun(),
            listed("accept errors ", &mut stats.accept_errors.iter().map(owned)),
            listed("i/o errors    ", &mut stats.io_errors.iter().map(owned)),
            listed("drain         ", &mut [("cut".to_owned(), stats.drain_cut)].into_iter()),
        ]
        .concat()
    }

    /// Connections per shard; empty with one shard.
    fn by_shard(&self) -> String {
        let counts: Vec<_> = self.stats.accepted_per_shard.iter().map(u64::to_string).collect();
        match counts.len() {
            0 | 1 => String::new(),
            _ => format!("by shard      {} (steer {})\n", counts.join(", "), self.steer),
        }
    }

    fn spun(&self) -> String {
        match self.stats.spun_us {
            0 => String::new(),
            micros => format!("busy-polled   {:.1?}\n", Duration::from_micros(micros)),
        }
    }

    fn accept_queue(&self) -> String {
        let Stats { accept_queue_peak, accept_queue_limit, .. } = self.stats;
        let per_shard = if self.shards > 1 { " per shard" } else { "" };
        let mut text = format!(
            "accept queue  {accept_queue_peak} at most, limit {accept_queue_limit}{per_shard}\n"
        );
        let drops = self.stats.listen_drops.unwrap_or(0);
        if drops > 0 {
            let overflows = self.stats.listen_overflows.unwrap_or(0);
            let counts = format!("overflows {overflows}, drops {drops}");
            text += &format!("not admitted  {counts} (of all servers in this network namespace)\n");
        }
        text
    }
}
