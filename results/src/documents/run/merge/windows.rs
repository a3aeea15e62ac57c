//! Measured windows of the ranks on one clock: when they started, and what they have in common.

use super::input::Part;
use super::notes::{ALIKE_SHOWN, likewise};
use crate::documents::run::rank::{LATE_MAX_US, Merge, Rank};
use crate::format;

/// Least share of the longest window that all ranks have to measure concurrently.
const OVERLAP_MIN: f64 = 0.9;

/// Instants of a rank, microseconds of Unix time.
#[derive(Clone, Copy, Debug)]
struct Instants {
    start: i64,
    window_start: i64,
    window_end: i64,
}

/// Windows of the ranks whose load started.
#[derive(Debug)]
pub(super) struct Windows {
    /// True if the instants are of one clock of one machine.
    one_clock: bool,
    ranks: Vec<Instants>,
    /// Share of the longest window that is common to all.
    overlap: f64,
}

impl Windows {
    /// Ranks of the same boot have a monotonic clock in common. Others are compared by their
    /// realtime clocks.
    pub(super) fn new(parts: &[Part<'_>]) -> Self {
        let started = || parts.iter().map(|part| part.rank).filter(|rank| rank.has_window());
        let first = started().next().unwrap_or(parts[0].rank);
        let one_clock = first.boot.is_some() && started().all(|rank| rank.boot == first.boot);
        // The instants are below 2^53.
        let instants = |rank: &Rank| {
            let [start, window_start, window_end, monotonic] = [
                rank.start_unix_us,
                rank.window_start_unix_us,
                rank.window_end_unix_us,
                rank.start_monotonic_us,
            ]
            .map(|instant| instant as i64);
            let common = first.start_unix_us as i64 + monotonic - first.start_monotonic_us as i64;
            let shift = if one_clock { common - start } else { 0 };
            Instants {
                start: start + shift,
                window_start: window_start + shift,
                window_end: window_end + shift,
            }
        };
        let ranks: Vec<Instants> = started().map(instants).collect();
        let mut windows = Self { one_clock, ranks, overlap: 0.0 };
        if let (Some((start, end)), Some(longest)) = (
            windows.common(),
            windows.ranks.iter().map(|rank| rank.window_end - rank.window_start).max(),
        ) {
            windows.overlap = (end - start) as f64 / longest as f64;
        }
        windows
    }

    /// Start and end of the common window.
    fn common(&self) -> Option<(i64, i64)> {
        let start = self.ranks.iter().map(|rank| rank.window_start).max()?;
        let end = self.ranks.iter().map(|rank| rank.window_end).min()?;
        (start < end).then_some((start, end))
    }

    /// Time between the first and the last start of a window.
    pub(super) fn spread_us(&self) -> u64 {
        spread(self.ranks.iter().map(|rank| rank.window_start)).unwrap_or(0)
    }

    /// The part of the record.
    pub(super) fn merge(&self, rank: &Rank) -> Merge {
        let unix = |instant: Option<i64>| instant.map(|instant| instant.max(0) as u64);
        let common = self.common();
        let (starts, ends) =
            (self.ranks.iter().map(|rank| rank.start), self.ranks.iter().map(|it| it.window_end));
        Merge {
            run_id: rank.run_id.clone(),
            expected: rank.count,
            missing: Vec::new(),
            start_skew_us: spread(starts.clone()),
            clock: if self.one_clock { "monotonic" } else { "realtime" }.to_owned(),
            first_start_unix_us: unix(starts.min()),
            common_start_unix_us: unix(common.map(|(start, _)| start)),
            common_end_unix_us: unix(common.map(|(_, end)| end)),
            last_end_unix_us: unix(ends.max()),
            overlap: self.overlap,
        }
    }

    /// Reasons for an invalid run: late starts, and windows that are not those of one run.
    pub(super) fn reasons(&self, parts: &[Part<'_>]) -> Vec<String> {
        let missed = parts.iter().filter_map(|part| Some((part.rank.index, missed_start(part)?)));
        let (indices, mut reasons): (Vec<u32>, Vec<String>) = missed.unzip();
        if reasons.len() > ALIKE_SHOWN {
            reasons.truncate(ALIKE_SHOWN);
            reasons.push(likewise("rank-late", indices[ALIKE_SHOWN..].iter().copied()));
        }
        if self.overlap < OVERLAP_MIN && !self.ranks.is_empty() {
            reasons.push(format!(
                "overlap: all ranks measured concurrently for {:.0} % of the longest window, and \
                 not for at least {:.0} %",
                (self.overlap * 100.0).floor(),
                OVERLAP_MIN * 100.0
            ));
        }
        reasons
    }
}

fn spread(instants: impl Iterator<Item = i64> + Clone) -> Option<u64> {
    Some(instants.clone().max()?.abs_diff(instants.min()?))
}

/// `rank-late: rank 2 started 40.0ms after the agreed instant`.
fn missed_start(part: &Part<'_>) -> Option<String> {
    let Rank { index, start_unix_us, planned_start_unix_us, .. } = *part.rank;
    if !part.rank.has_window() {
        return Some(format!("rank-absent: rank {index} did not start its load"));
    }
    let off_us = start_unix_us.abs_diff(planned_start_unix_us);
    if off_us <= LATE_MAX_US && part.rank.met_deadline {
        return None;
    }
    let (word, side) = match start_unix_us < planned_start_unix_us {
        true => ("rank-early", "before"),
        false => ("rank-late", "after"),
    };
    let off = format::duration(off_us * 1000);
    Some(format!("{word}: rank {index} started {off} {side} the agreed instant"))
}
