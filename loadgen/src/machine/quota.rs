//! CPU quotas of control groups, and their effect on one side of a run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockstep_results::Quota;
use lockstep_results::cgroup::{CpuQuota, groups_of};
use rustix::process::Pid;

/// Reads the quotas of some processes at both edges of a window.
#[derive(Debug)]
pub struct QuotaMeter {
    groups: Vec<PathBuf>,
    begin: Instant,
    before: Vec<Option<CpuQuota>>,
}

/// Quota that was in force in a window, and its effect.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaUse {
    /// Directory of the control group.
    group: PathBuf,
    /// CPUs' worth of time.
    cpus: f64,
    /// Length of the window; unlike the clock of the run, it does not stop.
    wall: Duration,
    /// Time for which threads of the group were kept from the CPUs, summed over CPUs, seconds.
    throttled_s: f64,
    /// Share of the periods in which the quota was used up.
    throttled_periods: f64,
}

impl QuotaMeter {
    /// Finds the groups of these processes, and all groups around them.
    pub fn find(pids: &[Pid]) -> Self {
        let processes: Vec<String> =
            pids.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
        let groups = groups_of(Path::new("/"), &processes, "cpu");
        Self { groups, begin: Instant::now(), before: Vec::new() }
    }

    /// Reads the quotas at the window's start.
    pub fn begin(&mut self) {
        self.begin = Instant::now();
        self.before = self.groups.iter().map(|group| CpuQuota::read(group)).collect();
    }

    /// Returns the quota that kept its group from the CPUs for the longest time; if none did, the
    /// smallest one. `None` without a quota, or without a start.
    pub fn end(&self) -> Option<QuotaUse> {
        let wall = self.begin.elapsed();
        let used = self.groups.iter().zip(&self.before).filter_map(|(group, before)| {
            Some(QuotaUse::between(group, wall, (*before)?, CpuQuota::read(group)?))
        });
        used.max_by(|a, b| a.throttled_s.total_cmp(&b.throttled_s).then(b.cpus.total_cmp(&a.cpus)))
    }
}

impl QuotaUse {
    fn between(group: &Path, wall: Duration, before: CpuQuota, after: CpuQuota) -> Self {
        let periods = after.periods - before.periods;
        let throttled_periods = after.throttled_periods - before.throttled_periods;
        Self {
            group: group.to_owned(),
            cpus: after.cpus,
            wall,
            throttled_s: (after.throttled_s - before.throttled_s).max(0.0),
            throttled_periods: if periods > 0.0 { throttled_periods / periods } else { 0.0 },
        }
    }

    /// True if both quotas are those of the same group.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        self.group == other.group
    }

    /// Returns the share of the window for which a side that runs on `cpus` CPUs was kept from
    /// them. The kernel adds up the time of all CPUs, also of those that other programs of the
    /// group use; but no group is kept for longer than the periods in which it used up its quota.
    fn throttled(&self, cpus: usize) -> f64 {
        let share = self.throttled_s / (self.wall.as_secs_f64() * cpus.max(1) as f64);
        if share.is_finite() { share.min(self.throttled_periods).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Returns the record of the quota of a side that runs on `cpus` CPUs. `shared`: the other side
    /// has the same quota.
    pub fn record(&self, cpus: usize, shared: bool) -> Quota {
        Quota { cpus: self.cpus, throttled: self.throttled(cpus), shared }
    }

    /// Returns the part of the quota that `used_s` seconds of CPU time are.
    pub fn used(&self, used_s: f64) -> f64 {
        let used = used_s / (self.wall.as_secs_f64() * self.cpus);
        if used.is_finite() { used } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(cpus: f64, throttled_s: f64, periods: f64, throttled_periods: f64) -> CpuQuota {
        CpuQuota { cpus, throttled_s, periods, throttled_periods }
    }

    fn between(before: CpuQuota, after: CpuQuota) -> QuotaUse {
        QuotaUse::between(Path::new("/g"), Duration::from_secs(10), before, after)
    }

    #[test]
    fn throttled_share_never_exceeds_the_whole() {
        let before = quota(0.5, 3.0, 50.0, 7.0);
        for (throttled_s, periods, throttled_periods, cpus, share) in [
            (0.0, 100.0, 0.0, 1, 0.0),
            (4.8, 100.0, 95.0, 1, 0.48),
            (4.8, 100.0, 95.0, 2, 0.24),
            (19.0, 100.0, 95.0, 2, 0.95),
            (19.0, 100.0, 95.0, 1, 0.95), // other programs of the group, on another CPU
            (19.0, 100.0, 100.0, 1, 1.0),
            (4.8, 0.0, 0.0, 1, 0.0),
            (-1.0, 100.0, 95.0, 1, 0.0), // the counters were reset
        ] {
            let after = quota(0.5, 3.0 + throttled_s, 50.0 + periods, 7.0 + throttled_periods);
            let found = between(before, after).throttled(cpus);
            assert!((found - share).abs() < 1e-9, "{found}, not {share}");
        }
        let instant = QuotaUse { wall: Duration::ZERO, ..between(before, before) };
        assert_eq!((instant.throttled(1), instant.used(1.0)), (0.0, 0.0));
    }

    #[test]
    fn used_part_is_of_the_quota() {
        let half = between(quota(0.5, 0.0, 0.0, 0.0), quota(0.5, 0.0, 0.0, 0.0));
        assert_eq!((half.used(5.0), half.used(1.0)), (1.0, 0.2));
    }
}
