//! Limits of control groups, cgroups(7), versions 1 and 2.
//!
//! A group is bound by its own limits and by those of every group around it: the least counts. In a
//! container the outer groups may be out of sight.

use std::path::{Component, Path, PathBuf};

use procfs::process::MountInfos;
use procfs::{FromRead, ProcessCGroups};

use super::read;

/// Limits of a control group and of the groups around it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Limits {
    /// CPUs' worth of time; `None` if unlimited.
    pub cpus: Option<f64>,
    /// Bytes of memory; `None` if unlimited.
    pub memory_bytes: Option<u64>,
}

/// CPU quota of a control group, and its effect since the group's creation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuQuota {
    /// CPUs' worth of time that the group may use in each period.
    pub cpus: f64,
    /// Time for which its threads were kept from the CPUs, having used up the quota, seconds;
    /// summed over the CPUs.
    pub throttled_s: f64,
    /// Periods in which the group had something to run.
    pub periods: f64,
    /// Periods in which it used up the quota.
    pub throttled_periods: f64,
}

impl CpuQuota {
    /// Reads the quota of the group with this directory; `None` if it is unlimited.
    pub fn read(group: &Path) -> Option<CpuQuota> {
        let stat = read(group.join("cpu.stat")).unwrap_or_default();
        let value = |name| value(&stat, name).unwrap_or(0.0);
        Some(CpuQuota {
            cpus: cpus(group)?,
            throttled_s: throttled_s(&stat).unwrap_or(0.0),
            periods: value("nr_periods"),
            throttled_periods: value("nr_throttled"),
        })
    }
}

/// Returns the directories of the control groups of some processes for `controller`, and of every
/// group around them. `root` stands for `/`; a process is `self` or a number.
pub fn groups_of(root: &Path, processes: &[String], controller: &str) -> Vec<PathBuf> {
    let Ok(mounts) = MountInfos::from_file(root.join("proc/self/mountinfo")) else {
        return Vec::new();
    };
    let groups = processes.iter().filter_map(|process| {
        ProcessCGroups::from_file(root.join("proc").join(process).join("cgroup")).ok()
    });
    let mut found: Vec<PathBuf> = groups
        .flat_map(|groups| directories(&groups, &mounts, controller))
        .map(|path| root.join(path.strip_prefix("/").unwrap_or(&path)))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn groups_of_this_process(controller: &str) -> Vec<PathBuf> {
    groups_of(Path::new("/"), &["self".to_owned()], controller)
}

/// Time since boot for which a group of this process was kept from the CPUs, having used up its
/// share, seconds; of several groups, the longest.
pub(super) fn throttled_s_of_this_process() -> Option<f64> {
    let directories = groups_of_this_process("cpu");
    let stats = directories.iter().filter_map(|at| throttled_s(&read(at.join("cpu.stat"))?));
    stats.reduce(f64::max)
}

/// From a group's `cpu.stat`: in nanoseconds in version 1, microseconds in version 2.
fn throttled_s(stat: &str) -> Option<f64> {
    value(stat, "throttled_time")
        .map(|ns| ns / 1e9)
        .or_else(|| value(stat, "throttled_usec").map(|us| us / 1e6))
}

/// A value of a group's `cpu.stat` or `memory.stat`.
fn value(stat: &str, name: &str) -> Option<f64> {
    let found = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found?.parse().ok()
}

impl Limits {
    pub(super) fn of_this_process() -> Limits {
        let directories = groups_of_this_process;
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

/// The limit of one group, bytes; `None` if it is unlimited.
fn memory_bytes(group: &Path) -> Option<u64> {
    let text = read(group.join("memory.max"));
    memory_limit(&text.or_else(|| read(group.join("memory.limit_in_bytes")))?)
}

/// Returns the bytes of memory that the group with this directory may still take: its limit without
/// what it uses, except files in the page cache, which the kernel drops first. `None` without a
/// limit.
pub fn memory_left(group: &Path) -> Option<u64> {
    let limit = memory_bytes(group)?;
    let used = read(group.join("memory.current"))
        .or_else(|| read(group.join("memory.usage_in_bytes")))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let stat = read(group.join("memory.stat")).unwrap_or_default();
    // Version 1 has the sum over the groups inside under names of their own.
    let bytes = |name: &str| value(&stat, &format!("total_{name}")).or_else(|| value(&stat, name));
    let files = ["inactive_file", "active_file"].into_iter().filter_map(bytes).sum::<f64>();
    Some(limit.saturating_sub(used) + (files as u64).min(used).min(limit))
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
    // A group outside of this process's namespace is out of sight (cgroup_namespaces(7)).
    if inner.components().any(|part| part == Component::ParentDir) {
        return Vec::new();
    }
    let inner = inner.strip_prefix(&mount.root).unwrap_or(Path::new(""));
    inner.ancestors().map(|inner| mount.mount_point.join(inner)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn quota_is_read_below_a_root() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/mountinfo", V1_MOUNTS);
        write("proc/7/cgroup", "2:cpu,cpuacct:/web/a\n");
        let cpu = "sys/fs/cgroup/cpu,cpuacct";
        write(&format!("{cpu}/web/a/cpu.cfs_quota_us"), "-1");
        write(&format!("{cpu}/web/a/cpu.cfs_period_us"), "100000");
        write(&format!("{cpu}/web/cpu.cfs_quota_us"), "50000");
        write(&format!("{cpu}/web/cpu.cfs_period_us"), "100000");
        let stat = "nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\n";
        write(&format!("{cpu}/web/cpu.stat"), stat);
        let groups = groups_of(root, &["7".into(), "8".into()], "cpu");
        let quotas: Vec<_> = groups.iter().map(|group| CpuQuota::read(group)).collect();
        let expected =
            CpuQuota { cpus: 0.5, throttled_s: 1.5, periods: 9.0, throttled_periods: 3.0 };
        assert_eq!(quotas, [None, Some(expected), None], "the root, /web and /web/a");

        write("proc/self/mountinfo", "29 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        write("proc/7/cgroup", "0::/job\n");
        write("sys/fs/cgroup/job/cpu.max", "150000 100000\n");
        let stat = "usage_usec 9\nnr_periods 4\nnr_throttled 1\nthrottled_usec 250000\n";
        write("sys/fs/cgroup/job/cpu.stat", stat);
        let groups = groups_of(root, &["7".into()], "cpu");
        let expected =
            CpuQuota { cpus: 1.5, throttled_s: 0.25, periods: 4.0, throttled_periods: 1.0 };
        assert_eq!(CpuQuota::read(&groups[1]), Some(expected));
    }

    #[test]
    fn group_outside_of_the_namespace_has_no_directories() {
        let mounts = "29 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(directories("0::/../other\n", mounts, "cpu"), paths(&[]));
    }

    #[test]
    fn memory_limits_of_both_versions() {
        assert_eq!(memory_limit("536870912"), Some(512 << 20));
        assert_eq!(memory_limit("max"), None);
        assert_eq!(memory_limit("9223372036854771712"), None);
    }

    #[test]
    fn memory_left_counts_the_page_cache_as_free() {
        let group = tempfile::tempdir().unwrap();
        let left = |files: &[(&str, &str)]| {
            fs::read_dir(&group)
                .unwrap()
                .for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
            files.iter().for_each(|(name, text)| fs::write(group.path().join(name), text).unwrap());
            memory_left(group.path())
        };
        let v1 = "inactive_file 1\nactive_file 1\ntotal_inactive_file 200\ntotal_active_file 30\n";
        let [limit, usage] = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
        let found = left(&[(limit, "1000"), (usage, "700\n"), ("memory.stat", v1)]);
        assert_eq!(found, Some(530));
        assert_eq!(left(&[(limit, "9223372036854771712"), (usage, "700")]), None);
        let v2 = "anon 5\ninactive_file 200\nactive_file 30\n";
        let [limit, usage] = ["memory.max", "memory.current"];
        assert_eq!(left(&[(limit, "1000"), (usage, "700"), ("memory.stat", v2)]), Some(530));
        assert_eq!(left(&[(limit, "1000"), (usage, "1100"), ("memory.stat", v2)]), Some(230));
        assert_eq!(left(&[(limit, "1000"), (usage, "100"), ("memory.stat", v2)]), Some(1000));
        assert_eq!(left(&[(limit, "1000")]), Some(1000));
        assert_eq!(left(&[(limit, "max\n"), (usage, "700")]), None);
        assert_eq!(left(&[]), None);
    }
}
