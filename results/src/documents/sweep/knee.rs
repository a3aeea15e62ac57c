//! Knee of a curve.
//!
//! Over rates, the response stays nearly the same until the server has hardly any time left, and
//! then grows without bound: the knee is the highest rate before that. Over connections of a closed
//! loop, throughput first grows and then stays: the knee is the fewest connections that reach
//! nearly all of it, since every further connection only waits (Little's law).
//!
//! Noise has bends, too. A knee is claimed only if it is larger than the noise ([`NOISE`]), from
//! three levels on, and if no level contradicts it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::{Axis, Outcome, Point, Purpose, Sweep};
use crate::statistics::median;
use crate::text::plural;
use crate::{Latency, Statistic};

/// Largest multiple of the lowest 99th percentile that a rate before the knee may have. Noise of a
/// shared machine moves a 99th percentile by less, saturation by far more.
const GROWTH: f64 = 3.0;

/// Share of the highest throughput that counts as all of it: runs differ by that much.
const ALL: f64 = 0.95;

/// Fewest levels with a run that counts.
const LEVELS_MIN: usize = 3;

/// Noise of the throughput, as a share, if no level has two runs: on a shared machine, two runs of
/// one command differ by as much.
const NOISE: f64 = 0.3;

/// Point beyond which more load costs more than it brings.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Knee {
    /// Level: of the rates below the first that overloads the server, the highest whose 99th
    /// percentile is at most 3 times the lowest among them; or the fewest connections with 95 % of
    /// the highest throughput.
    #[serde(serialize_with = "crate::documents::without_fraction")]
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
    /// Medians of the ends of the intervals in which the samples of the runs put it.
    pub p99_bounds_ns: Option<(f64, f64)>,
    /// Median of their 99.9th percentiles.
    pub p999_ns: Option<f64>,
    /// Median of the server's CPU time for an exchange, microseconds.
    pub server_cpu_us: Option<f64>,
    /// Number of runs that count.
    pub runs: usize,
    /// Largest difference of two runs' throughput, as a share of the larger; `None` for one run.
    pub noise: Option<f64>,
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

    /// Knee of the points so far; `None` if there is none that noise does not explain, for a
    /// search, and for several servers.
    pub fn find_knee(&self) -> Option<Knee> {
        let searched = self.points.iter().any(|point| point.purpose != Purpose::Level);
        if searched || self.servers().len() > 1 {
            return None;
        }
        self.knee_or_reason().ok()
    }

    /// Knee of a sweep over levels of one server.
    ///
    /// # Errors
    ///
    /// The reason why no knee is found, as a sentence.
    pub(super) fn knee_or_reason(&self) -> Result<Knee, String> {
        let levels = self.levels();
        let level = self.knee_of(&levels)?;
        Ok(Knee { level: level.level, achieved_per_s: level.achieved_per_s, p99_ns: level.p99_ns })
    }

    fn knee_of<'a>(&self, levels: &'a [Level]) -> Result<&'a Level, String> {
        let at = |level: &Level| self.level(level.level);
        let (Some(first), Some(last)) = (levels.first(), levels.last()) else {
            return Err("no level counts, so there is no knee".to_owned());
        };
        if levels.len() < LEVELS_MIN {
            let count = plural(levels.len() as u64, "level");
            return Err(format!("no knee found: {count} with a valid run, and it takes three"));
        }
        let bend = match self.plan.axis {
            Axis::Rate => bend_of_rates(levels),
            Axis::Conns => bend_of_conns(levels),
        };
        Err(match bend {
            Bend::At(level) => return Ok(&levels[level]),
            Bend::Below if self.plan.axis == Axis::Rate => {
                format!("the knee is below {}: the server is overloaded already", at(first))
            }
            Bend::Below => {
                format!("no knee found: at {} the throughput is as high as above", at(first))
            }
            Bend::Above => format!(
                "no knee up to {}, the highest level with a valid run: measure higher ones",
                at(last)
            ),
            Bend::Contradicted { bad, good } => format!(
                "no knee found: the server kept up at {} but not at {}, which is lower",
                at(&levels[good]),
                at(&levels[bad])
            ),
            Bend::OneRun(level) => format!(
                "no knee found: only one run, at {}, is beyond it; repeat it with --rounds 3",
                at(&levels[level])
            ),
            Bend::Noise { level, noise } => {
                let known = levels.iter().any(|level| level.noise.is_some());
                let runs = if known { "runs of a level differ" } else { "runs may differ" };
                format!(
                    "no knee found: {runs} by {:.0} %, and the throughput at {} is no further \
                     from the highest; measure with more --rounds",
                    noise * 100.0,
                    at(&levels[level])
                )
            }
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
        let achieved = || runs.iter().map(|run| run.achieved_per_s);
        let (least, most) =
            (achieved().fold(f64::INFINITY, f64::min), achieved().fold(0.0, f64::max));
        let p99 = |run: &Point| run.latency.main()?.bounds(Statistic::P99);
        let bound = |end: fn((f64, f64)) -> f64| over(&|run| p99(run).map(end));
        Level {
            subject: runs[0].subject.clone(),
            level: runs[0].level,
            overloaded: overloaded * 2 > runs.len(),
            achieved_per_s: over(&|run| Some(run.achieved_per_s)).unwrap_or(0.0),
            p50_ns: over(&|run| percentile(run, 0.5, |latency| latency.p50_ns)),
            p99_ns: over(&|run| percentile(run, 0.99, |latency| latency.p99_ns)),
            p99_bounds_ns: bound(|(low, _)| low).zip(bound(|(_, high)| high)),
            p999_ns: over(&|run| percentile(run, 0.999, |latency| latency.p999_ns)),
            server_cpu_us: over(&|run| run.server_cpu_us_per_exchange),
            runs: runs.len(),
            noise: (runs.len() > 1 && most > 0.0).then(|| 1.0 - least / most),
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

/// Bend of a curve, by indices of levels.
#[derive(Debug, PartialEq)]
enum Bend {
    /// At this level.
    At(usize),
    /// Below the lowest level.
    Below,
    /// Above the highest level, if anywhere.
    Above,
    /// A level beyond the knee is lower than one before it.
    Contradicted { bad: usize, good: usize },
    /// A single run is beyond it, which a pause of the machine explains.
    OneRun(usize),
    /// This level differs from the knee by no more than runs do.
    Noise { level: usize, noise: f64 },
}

fn bend_of_rates(levels: &[Level]) -> Bend {
    let end = levels.iter().position(|level| level.overloaded).unwrap_or(levels.len());
    let bounds = |level: &Level| level.p99_bounds_ns;
    let lowest = levels[..end].iter().filter_map(|level| Some(bounds(level)?.1));
    let lowest = lowest.fold(f64::INFINITY, f64::min);
    // With too few samples for a percentile, only an overload shows.
    let grown = |level: &Level| bounds(level).is_some_and(|(low, _)| low > GROWTH * lowest);
    let Some(knee) = levels[..end].iter().rposition(|level| !grown(level)) else {
        return Bend::Below;
    };
    let beyond = &levels[knee + 1..];
    if let Some(good) = beyond.iter().position(|level| !level.overloaded && !grown(level)) {
        return Bend::Contradicted { bad: knee + 1, good: knee + 1 + good };
    }
    match beyond {
        [] => Bend::Above,
        [one] if one.runs == 1 && !one.overloaded => Bend::OneRun(knee + 1),
        _ => Bend::At(knee),
    }
}

fn bend_of_conns(levels: &[Level]) -> Bend {
    let achieved = |level: &Level| level.achieved_per_s;
    let most = levels.iter().map(achieved).fold(0.0, f64::max);
    let noise = levels.iter().filter_map(|level| level.noise).reduce(f64::max);
    let noise = noise.unwrap_or(NOISE).max(1.0 - ALL);
    let all = |level: &Level| achieved(level) >= ALL * most;
    let knee = levels.iter().position(all).unwrap_or(0);
    let near = |level: &Level| achieved(level) > (1.0 - noise) * most;
    match levels[..knee].iter().position(near) {
        _ if knee == 0 => Bend::Below,
        _ if knee + 1 == levels.len() => Bend::Above,
        Some(level) => Bend::Noise { level, noise },
        None => Bend::At(knee),
    }
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
            p99_bounds_ns: Some((p99_us * 990.0, p99_us * 1010.0)),
            p999_ns: None,
            server_cpu_us: None,
            runs: 1,
            noise: None,
        }
    }

    /// A curve over rates 10, 20, 30, ...
    fn rates(curve: &[(f64, bool)]) -> Bend {
        let at = |(index, &(p99, full)): (usize, &(f64, bool))| {
            level(10.0 * (index + 1) as f64, p99, full)
        };
        bend_of_rates(&curve.iter().enumerate().map(at).collect::<Vec<_>>())
    }

    #[test]
    fn knee_is_the_last_rate_before_the_response_grows() {
        let flat = (100.0, false);
        let (grown, full) = ((900.0, false), (150.0, true));
        assert_eq!(rates(&[flat, flat, (290.0, false), grown, grown]), Bend::At(2));
        assert_eq!(rates(&[flat, flat, full]), Bend::At(1));
        assert_eq!(rates(&[flat, flat, grown, full]), Bend::At(1));
        // A single spike below is noise.
        assert_eq!(rates(&[flat, grown, flat, full]), Bend::At(2));
    }

    #[test]
    fn curve_that_noise_explains_has_no_knee() {
        let (flat, grown, full) = ((100.0, false), (900.0, false), (5e5, true));
        assert_eq!(rates(&[flat, (120.0, false), flat]), Bend::Above);
        assert_eq!(rates(&[full, full, full]), Bend::Below);
        assert_eq!(rates(&[flat, full, flat]), Bend::Contradicted { bad: 1, good: 2 });
        assert_eq!(rates(&[flat, flat, grown]), Bend::OneRun(2));
        let repeated = |p99| Level { runs: 3, ..level(10.0, p99, false) };
        assert_eq!(bend_of_rates(&[100.0, 110.0, 900.0].map(repeated)), Bend::At(1));
        // Of few samples, the interval of the percentile is wide.
        let unsure = Level { p99_bounds_ns: Some((0.0, f64::INFINITY)), ..repeated(5e5) };
        let levels = [repeated(100.0), repeated(100.0), unsure];
        assert_eq!(bend_of_rates(&levels), Bend::Above);
    }

    fn conns(curve: &[f64], noise: Option<f64>) -> Bend {
        let at = |&most: &f64| Level { achieved_per_s: most, noise, ..level(1.0, 1.0, false) };
        bend_of_conns(&curve.iter().map(at).collect::<Vec<_>>())
    }

    #[test]
    fn knee_is_the_fewest_connections_with_full_throughput() {
        assert_eq!(conns(&[10e3, 40e3, 96e3, 100e3], None), Bend::At(2));
        assert_eq!(conns(&[10e3, 40e3, 90e3], None), Bend::Above, "it may grow on");
        assert_eq!(conns(&[99e3, 98e3, 100e3], None), Bend::Below);
        // Known noise is less than what has to be assumed.
        let curve = [10e3, 80e3, 96e3, 100e3];
        assert_eq!(conns(&curve, None), Bend::Noise { level: 1, noise: NOISE });
        assert_eq!(conns(&curve, Some(0.04)), Bend::At(2));
        assert_eq!(conns(&curve, Some(0.25)), Bend::Noise { level: 1, noise: 0.25 });
    }

    #[test]
    fn flat_curve_with_noise_has_hardly_ever_a_knee() {
        // Two speeds of the machine, and a tenth of noise.
        let mut rng = fastrand::Rng::with_seed(7);
        for rounds in [1, 3] {
            let mut speed = || [1.0, 0.78][rng.usize(0..2)] * (0.95 + 0.1 * rng.f64());
            let mut level = || {
                let runs: Vec<f64> = (0..rounds).map(|_| speed()).collect();
                let (least, most) = (
                    runs.iter().copied().fold(9.0, f64::min),
                    runs.iter().copied().fold(0.0, f64::max),
                );
                let noise = (rounds > 1).then_some(1.0 - least / most);
                Level { achieved_per_s: median(&runs).unwrap(), noise, ..level(1.0, 1.0, false) }
            };
            let mut claims = || {
                let levels: Vec<Level> = (0..6).map(|_| level()).collect();
                matches!(bend_of_conns(&levels), Bend::At(_))
            };
            let found = (0..1000).filter(|_| claims()).count();
            assert!(found <= 20, "{rounds} rounds: {found} of 1000 by chance");
        }
    }
}
