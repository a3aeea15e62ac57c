//! Limits of this process's control group, cgroups(7), versions 1 and 2.
//!
//! A group is bound by its own limits and by those of every group around it: the least counts. In a
//! container the outer groups may be out of sight.

use std::path::{Path, PathBuf};

use procfs::ProcessCGroups;
use procfs::process::{MountInfos, Process};

use super::read;

/// Limits of a control group and of the groups around it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Limits {
    /// CPUs' worth of time; `None` if unlimited.
    pub cpus: Option<f64>,
    /// Bytes of memory; `None` if unlimited.
    pub memory_bytes: Option<u64>,
}

/// The directories of this process's group for `controller` and of every group around it.
fn directories_of_this_process(controller: &str) -> Vec<PathBuf> {
    let found = Process::myself().and_then(|me| Ok((me.cgroups()?, me.mountinfo()?)));
    found.map(|(groups, mounts)| directories(&groups, &mounts, controller)).unwrap_or_default()
}

/// Time since boot for which a group of this process was kept from the CPUs, having used up its
/// share, seconds; of several groups, the longest.
pub(super) fn throttled_s_of_this_process() -> Option<f64> {
    let directories = directories_of_this_process("cpu");
    let stats = directories.iter().filter_map(|at| throttled_s(&read(at.join("cpu.stat"))?));
    stats.reduce(f64::max)
}

/// From a group's `cpu.stat`: in nanoseconds in version 1, microseconds in version 2.
fn throttled_s(stat: &str) -> Option<f64> {
    let value = |name: &str| {
        let found = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found?.parse::<f64>().ok()
    };
    value("throttled_time")
        .map(|ns| ns / 1e9)
        .or_else(|| value("throttled_usec").map(|us| us / 1e6))
}

impl Limits {
    pub(super) fn of_this_process() -> Limits {
        let directories = directories_of_this_process;
        Limits {
            cpus: directories("cpu").iter().filter_map(|at| cpus(at)).reduce(f64::min),
            memory_bytes: directories("memory").iter().filter_map(|at| memory_bytes(at)).min(),
        }
    }
}

/// The limit of one group. The two versions name their files differently.
fn cpus(group: &Path) -> Option<f64> {
    if let Some(text) = read(group.join("cpu.max")) {
        return cpu_share(&text);
    }
    let quota = read(group.join("cpu.cfs_quota_us"))?;
    let period = read(group.join("cpu.cfs_period_us"))?;
    cpu_share(&format!("{quota} {period}"))
}

fn memory_bytes(group: &Path) -> Option<u64> {
    let text = read(group.join("memory.max"));
    memory_limit(&text.or_else(|| read(group.join("memory.limit_in_bytes")))?)
}

/// CPUs' worth of time in `quota period`, both in microseconds; the quota is `max` (version
/// 2) or -1 (version 1) when unlimited.
fn cpu_share(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota as f64 / period as f64)
}

/// Bytes, unless the text says unlimited: `max` (version 2), or 2^63 rounded down to a page
/// (version 1).
fn memory_limit(text: &str) -> Option<u64> {
    const UNLIMITED: u64 = 1 << 62;
    text.parse().ok().filter(|&bytes| bytes < UNLIMITED)
}

/// The directories of a process's group for `controller` and of every group around it; the own one
/// first.
fn directories(groups: &ProcessCGroups, mounts: &MountInfos, controller: &str) -> Vec<PathBuf> {
    // A controller belongs to version 1 where such a hierarchy has it, else to version 2.
    let v1 = groups.0.iter().find(|group| group.controllers.iter().any(|name| name == controller));
    let v2 = || groups.0.iter().find(|group| group.hierarchy == 0);
    let Some(group) = v1.or_else(v2) else { return Vec::new() };
    let mount = mounts.0.iter().find(|mount| match group.hierarchy {
        0 => mount.fs_type == "cgroup2",
        _ => mount.fs_type == "cgroup" && mount.super_options.contains_key(controller),
    });
    let Some(mount) = mount else { return Vec::new() };
    let inner = Path::new(&group.pathname);
    let inner = inner.strip_prefix(&mount.root).unwrap_or(Path::new(""));
    inner.ancestors().map(|inner| mount.mount_point.join(inner)).collect()
}

#[cfg(test)]
mod tests {
    use procfs::FromRead;

    use super::*;

    fn directories(groups: &str, mounts: &str, controller: &str) -> Vec<PathBuf> {
        let groups = ProcessCGroups::from_read(groups.as_bytes()).unwrap();
        let mounts = MountInfos::from_read(mounts.as_bytes()).unwrap();
        super::directories(&groups, &mounts, controller)
    }

    const V1_MOUNTS: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V1_GROUPS: &str = "\
        4:memory:/batch/job7\n3:cpuset:/\n2:cpu,cpuacct:/\n9:name=systemd:/\n0::/\n";

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller() {
        let found = directories(V1_GROUPS, V1_MOUNTS, "memory");
        let memory = "/sys/fs/cgroup/memory";
        let own = format!("{memory}/batch/job7");
        assert_eq!(found, paths(&[&own, &format!("{memory}/batch"), &format!("{memory}/")]));
        let found = directories(V1_GROUPS, V1_MOUNTS, "cpu");
        assert_eq!(found, paths(&["/sys/fs/cgroup/cpu,cpuacct/"]));
    }

    #[test]
    fn version_2_has_one_hierarchy() {
        let mounts = "29 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let found = directories("0::/user.slice/a.scope\n", mounts, "cpu");
        let root = "/sys/fs/cgroup";
        let expected =
            [&*format!("{root}/user.slice/a.scope"), &format!("{root}/user.slice"), root];
        assert_eq!(found, paths(&expected));
    }

    #[test]
    fn container_sees_its_own_group_as_the_root() {
        let mounts = "712 700 0:26 /docker/4f2 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        let found = directories("2:cpu:/docker/4f2/inner\n", mounts, "cpu");
        assert_eq!(found, paths(&["/sys/fs/cgroup/cpu/inner", "/sys/fs/cgroup/cpu"]));
        // Seen from a namespace below it, the path leads nowhere: the mount's root is what is left.
        let found = directories("2:cpu:/\n", mounts, "cpu");
        assert_eq!(found, paths(&["/sys/fs/cgroup/cpu"]));
    }

    #[test]
    fn missing_control_groups_have_no_directories() {
        assert_eq!(directories("", "", "cpu"), paths(&[]));
        assert_eq!(directories(V1_GROUPS, "", "cpu"), paths(&[]));
        assert_eq!(directories("0::/\n", V1_MOUNTS, "cpu"), paths(&["/sys/fs/cgroup/unified"]));
    }

    #[test]
    fn cpu_limits_of_both_versions() {
        assert_eq!(cpu_share("150000 100000"), Some(1.5));
        assert_eq!(cpu_share("max 100000"), None);
        assert_eq!(cpu_share("-1 100000"), None);
        assert_eq!(cpu_share("100000 0"), None);
    }

    #[test]
    fn throttling_of_both_versions() {
        let v1 = "nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\n";
        let v2 = "usage_usec 9\nuser_usec 5\nnr_throttled 3\nthrottled_usec 250000\n";
        assert_eq!([v1, v2, "usage_usec 9"].map(throttled_s), [Some(1.5), Some(0.25), None]);
    }

    #[test]
    fn memory_limits_of_both_versions() {
        assert_eq!(memory_limit("536870912"), Some(512 << 20));
        assert_eq!(memory_limit("max"), None);
        assert_eq!(memory_limit("9223372036854771712"), None);
    }
}
