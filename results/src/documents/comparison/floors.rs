//! Floors of the machine during a comparison, round by round.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::{Cell, Measured, Metric, Run, by_round};
use crate::Spread;
use crate::statistics::{Ratio, median};

/// Floor of a round of a cell, measured just before the round's runs: see [`Floor`](crate::Floor).
#[skip_serializing_none]
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RoundFloor {
    /// The round, from 1.
    pub round: u32,
    /// CPU time of an exchange with both sides in one thread, nanoseconds.
    pub one_thread_ns: f64,
    /// Lowest and highest value behind that median; absent in older files.
    pub one_thread_low_ns: Option<f64>,
    /// See `one_thread_low_ns`.
    pub one_thread_high_ns: Option<f64>,
    /// Time from one reply to the next between two spinning threads on two CPUs, nanoseconds;
    /// absent if there is one CPU, or other programs used them.
    pub two_threads_ns: Option<f64>,
}

/// Floor of every round that has one, from the records of its runs.
pub(super) fn floors(runs: &[&Run]) -> Vec<RoundFloor> {
    let of_run = |run: &&Run| {
        let (floor, conns) = (run.record.floor.as_ref()?, run.record.conns);
        let one_thread = floor.one_thread_spread(conns)?;
        let floor = RoundFloor {
            round: run.round,
            one_thread_ns: one_thread.median,
            one_thread_low_ns: Some(one_thread.low),
            one_thread_high_ns: Some(one_thread.high),
            two_threads_ns: floor.two_threads_per_s(conns).map(|most| 1e9 / most),
        };
        Some((run.round, floor))
    };
    let by_round: BTreeMap<u32, RoundFloor> = runs.iter().filter_map(of_run).collect();
    by_round.into_values().collect()
}

impl RoundFloor {
    fn one_thread(&self) -> Option<Spread> {
        let (low, high) = (self.one_thread_low_ns?, self.one_thread_high_ns?);
        Some(Spread { median: self.one_thread_ns, low, high })
    }
}

impl Cell {
    /// Floors of the fastest and of the slowest round, and their ratio, if the machine changed its
    /// speed between rounds.
    pub(super) fn changed_speed(&self) -> Option<(&RoundFloor, &RoundFloor, f64)> {
        let spreads = || self.floors.iter().filter_map(|floor| Some((floor, floor.one_thread()?)));
        let fastest = spreads().min_by(|a, b| a.1.high.total_cmp(&b.1.high))?;
        let slowest = spreads().max_by(|a, b| a.1.low.total_cmp(&b.1.low))?;
        let ratio = slowest.1.changed_from(&fastest.1)?;
        Some((fastest.0, slowest.0, ratio))
    }

    /// Median of `limit` over the floors.
    pub fn at_the_floor(&self, limit: impl Fn(&RoundFloor) -> Option<f64>) -> Option<f64> {
        median(&self.floors.iter().filter_map(limit).collect::<Vec<_>>())
    }

    /// Ratio of a subject's metric to `limit` of the floor, round by round.
    pub fn over_the_floor(
        &self,
        subject: &Measured,
        metric: Metric,
        limit: impl Fn(&RoundFloor) -> Option<f64>,
    ) -> Option<Ratio> {
        let of_round = |(round, value)| {
            let floor = self.floors.iter().find(|floor| floor.round == round)?;
            Some((limit(floor)?, value))
        };
        let pairs: Vec<_> = by_round(&subject.runs, metric).filter_map(of_round).collect();
        Ratio::of(&pairs, 1)
    }
}
