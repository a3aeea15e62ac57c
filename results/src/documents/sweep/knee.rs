//! Knee of a curve.
//!
//! Over rates, the response stays nearly the same until the server has hardly any time left, and
//! then grows without bound: the knee is the highest rate before that. Over connections of a closed
//! loop, throughput first grows and then stays: the knee is the fewest connections that reach
//! nearly all of it, since every further connection only waits (Little's law).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::{Axis, Outcome, Point, Purpose, Sweep};
use crate::Latency;
use crate::statistics::median;

/// Largest multiple of the lowest 99th percentile that a rate before the knee may have. Noise of a
/// shared machine moves a 99th percentile by less, saturation by far more.
const GROWTH: f64 = 3.0;

/// Share of the highest throughput that counts as all of it: runs differ by that much.
const ALL: f64 = 0.95;

/// Point beyond which more load costs more than it brings.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Knee {
    /// Level: of the rates below the first that overloads the server, the highest whose 99th
    /// percentile is at most 3 times the lowest among them; or the fewest connections with 95 % of
    /// the highest throughput.
    pub level: f64,
    /// Exchanges a second there.
    pub achieved_per_s: f64,
    /// The 99th percentile of the response there, nanoseconds.
    pub p99_ns: Option<f64>,
}

/// All runs of a server and a level that count, as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Name of the server, in a sweep of several.
    pub subject: Option<String>,
    /// The rate or the number of connections.
    pub level: f64,
    /// True if most of its runs that count overloaded the server.
    pub overloaded: bool,
    /// Median of the achieved exchanges a second.
    pub achieved_per_s: f64,
    /// Median of their medians, nanoseconds.
    pub p50_ns: Option<f64>,
    /// Median of their 99th percentiles.
    pub p99_ns: Option<f64>,
    /// Median of their 99.9th percentiles.
    pub p999_ns: Option<f64>,
    /// Median of the server's CPU time for an exchange, microseconds.
    pub server_cpu_us: Option<f64>,
}

impl Sweep {
    /// Levels with a run that counts, ascending; at each, the servers in their order.
    pub fn levels(&self) -> Vec<Level> {
        let runs = self.by_level(|point| point.outcome != Outcome::Invalid);
        runs.into_iter().map(|runs| Level::of(&runs)).collect()
    }

    /// True if every server and level that was measured has a run that counts.
    pub fn is_complete(&self) -> bool {
        self.levels().len() == self.by_level(|_| true).len()
    }

    /// Names of the servers in the order asked for; one `None` in a sweep of one.
    pub(crate) fn servers(&self) -> Vec<Option<&str>> {
        let mut servers = Vec::new();
        for point in &self.points {
            if !servers.contains(&point.subject.as_deref()) {
                servers.push(point.subject.as_deref());
            }
        }
        let place = |name: &str| self.plan.subject.split(", ").position(|asked| asked == name);
        servers.sort_by_key(|server| server.map(place));
        servers
    }

    /// Runs that count, of the same server and level together; ascending by level, then in the
    /// order of the servers.
    pub(crate) fn by_level(&self, counts: impl Fn(&Point) -> bool) -> Vec<Vec<&Point>> {
        let servers = self.servers();
        let key = |point: &Point| {
            let server = servers.iter().position(|server| *server == point.subject.as_deref());
            // The bits of positive numbers are in their order.
            (point.level.to_bits(), server)
        };
        let mut groups: BTreeMap<_, Vec<&Point>> = BTreeMap::new();
        for point in self.points.iter().filter(|point| counts(point)) {
            groups.entry(key(point)).or_default().push(point);
        }
        groups.into_values().collect()
    }

    /// Knee of the points so far; `None` if every level lies on one side, for a search, and for
    /// several servers.
    pub fn find_knee(&self) -> Option<Knee> {
        let searched = self.points.iter().any(|point| point.purpose != Purpose::Level);
        if searched || self.servers().len() > 1 {
            return None;
        }
        let levels = self.levels();
        let level = match self.plan.axis {
            Axis::Rate => knee_of_rates(&levels),
            Axis::Conns => knee_of_conns(&levels),
        }?;
        Some(Knee {
            level: level.level,
            achieved_per_s: level.achieved_per_s,
            p99_ns: level.p99_ns,
        })
    }
}

impl Level {
    /// Runs of the same server and level, at least one.
    pub(super) fn of(runs: &[&Point]) -> Level {
        let overloaded = runs.iter().filter(|run| run.outcome == Outcome::Overloaded).count();
        let over = |value: &dyn Fn(&Point) -> Option<f64>| {
            median(&runs.iter().filter_map(|run| value(run)).collect::<Vec<_>>())
        };
        Level {
            subject: runs[0].subject.clone(),
            level: runs[0].level,
            overloaded: overloaded * 2 > runs.len(),
            achieved_per_s: over(&|run| Some(run.achieved_per_s)).unwrap_or(0.0),
            p50_ns: over(&|run| percentile(run, 0.5, |latency| latency.p50_ns)),
            p99_ns: over(&|run| percentile(run, 0.99, |latency| latency.p99_ns)),
            p999_ns: over(&|run| percentile(run, 0.999, |latency| latency.p999_ns)),
            server_cpu_us: over(&|run| run.server_cpu_us_per_exchange),
        }
    }
}

/// A percentile of the response; with no sample beyond it, it would be the maximum under another
/// name.
fn percentile(run: &Point, quantile: f64, value: fn(&Latency) -> u64) -> Option<f64> {
    let latency = run.latency.main()?;
    let beyond = (latency.count as f64 * (1.0 - quantile)).round();
    (beyond >= 1.0).then(|| value(latency) as f64)
}

/// Last level before the bend, if there is one beyond it.
fn knee_of_rates(levels: &[Level]) -> Option<&Level> {
    let end = levels.iter().position(|level| level.overloaded).unwrap_or(levels.len());
    let before = &levels[..end];
    let lowest = before.iter().filter_map(|level| level.p99_ns).fold(f64::INFINITY, f64::min);
    // With too few samples for a percentile, only an overload shows.
    let fits = |level: &Level| level.p99_ns.is_none_or(|p99| p99 <= GROWTH * lowest);
    let knee = before.iter().rposition(fits)?;
    (knee + 1 < levels.len()).then(|| &levels[knee])
}

fn knee_of_conns(levels: &[Level]) -> Option<&Level> {
    let most = levels.iter().map(|level| level.achieved_per_s).reduce(f64::max)?;
    let knee = levels.iter().position(|level| level.achieved_per_s >= ALL * most)?;
    (knee + 1 < levels.len()).then(|| &levels[knee])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(level: f64, p99_us: f64, overloaded: bool) -> Level {
        Level {
            subject: None,
            level,
            overloaded,
            achieved_per_s: level,
            p50_ns: Some(p99_us * 500.0),
            p99_ns: Some(p99_us * 1000.0),
            p999_ns: None,
            server_cpu_us: None,
        }
    }

    fn rates(curve: &[(u32, f64, bool)]) -> Option<u32> {
        let levels: Vec<Level> =
            curve.iter().map(|&(at, p99, full)| level(f64::from(at), p99, full)).collect();
        knee_of_rates(&levels).map(|level| level.level as u32)
    }

    #[test]
    fn knee_is_the_last_rate_before_the_response_grows() {
        let flat = (10, 100.0, false);
        assert_eq!(rates(&[flat, (20, 120.0, false), (30, 299.0, false), (40, 900.0, false)]), {
            Some(30)
        });
        assert_eq!(rates(&[flat, (20, 110.0, false), (30, 150.0, true)]), Some(20));
        // A single spike below is noise; a good level past an overload is, too.
        assert_eq!(rates(&[flat, (20, 900.0, false), (30, 120.0, false), (40, 5e5, true)]), {
            Some(30)
        });
        assert_eq!(rates(&[flat, (20, 5e5, true), (30, 100.0, false)]), Some(10));
    }

    #[test]
    fn straight_curve_has_no_knee() {
        assert_eq!(rates(&[]), None);
        assert_eq!(rates(&[(10, 100.0, false), (20, 120.0, false)]), None);
        assert_eq!(rates(&[(10, 100.0, true), (20, 120.0, true)]), None, "it lies lower");
    }

    #[test]
    fn knee_is_the_fewest_connections_with_full_throughput() {
        let conns = |curve: &[(u32, f64)]| {
            let levels: Vec<Level> = curve
                .iter()
                .map(|&(at, most)| Level {
                    achieved_per_s: most,
                    ..level(f64::from(at), 1.0, false)
                })
                .collect();
            knee_of_conns(&levels).map(|level| level.level as u32)
        };
        assert_eq!(conns(&[(1, 10e3), (4, 40e3), (16, 96e3), (64, 100e3)]), Some(16));
        assert_eq!(conns(&[(1, 10e3), (4, 40e3), (16, 90e3)]), None, "it may grow on");
        assert_eq!(conns(&[]), None);
    }
}
