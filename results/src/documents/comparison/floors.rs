//! What the machine could do at all while a comparison went on, round by round.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::{Cell, Measured, Metric, Run, by_round};
use crate::statistics::{Ratio, median};

/// The floor of a round of a cell, measured just before the round's runs: see
/// [`Floor`](crate::Floor).
#[skip_serializing_none]
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RoundFloor {
    /// The round, from 1.
    pub round: u32,
    /// Processor time of an exchange of which one thread does both sides, nanoseconds.
    pub one_thread_ns: f64,
    /// Time from a reply to the next between two threads that spin on two processors, nanoseconds;
    /// absent where there is one processor, or other programs used them.
    pub two_threads_ns: Option<f64>,
}

/// The floor of every round that has one, as its runs' records hold it.
pub(super) fn floors(runs: &[&Run]) -> Vec<RoundFloor> {
    let of_run = |run: &&Run| {
        let (floor, conns) = (run.record.floor.as_ref()?, run.record.conns);
        let floor = RoundFloor {
            round: run.round,
            one_thread_ns: floor.one_thread_ns(conns)?,
            two_threads_ns: floor.two_threads_per_s(conns).map(|most| 1e9 / most),
        };
        Some((run.round, floor))
    };
    let by_round: BTreeMap<u32, RoundFloor> = runs.iter().filter_map(of_run).collect();
    by_round.into_values().collect()
}

impl Cell {
    /// The median of what `limit` makes of the floors.
    pub fn at_the_floor(&self, limit: impl Fn(&RoundFloor) -> Option<f64>) -> Option<f64> {
        median(&self.floors.iter().filter_map(limit).collect::<Vec<_>>())
    }

    /// How a subject's metric compares with what `limit` makes of the floor, round by round.
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
