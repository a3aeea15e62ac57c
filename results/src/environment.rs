//! The machine, its settings, its limits, and the build of the program.
//!
//! Capturing never fails: what the kernel does not show is absent.

pub mod cgroup;
pub(crate) mod circumstances;
mod cpu;
mod during;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use procfs::{Current, CurrentSI};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::digest::fnv1a;

/// The machine, its settings and the build. Lists of CPUs are as the kernel writes them: `0,2-3`.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Environment {
    /// Eight hexadecimal digits that identify the machine without its name: a hash of
    /// `/etc/machine-id`, else of the host name.
    pub host: Option<String>,
    /// Names of the maker and of the product (DMI), such as a cloud's instance type.
    pub product: Option<String>,
    /// Hypervisor, such as `KVM`, or `unknown` if it has no name. Absent on bare metal.
    pub hypervisor: Option<String>,
    /// Release of the kernel, such as `6.1.0-18-amd64`.
    pub kernel: Option<String>,
    /// Build of the kernel, such as `#1 SMP PREEMPT_DYNAMIC …`.
    pub kernel_build: Option<String>,
    /// Architecture, such as `x86_64`.
    pub arch: Option<String>,
    /// Model of the CPUs.
    pub cpu_model: Option<String>,
    /// CPUs that are online.
    pub cpus_online: Option<String>,
    /// CPUs that this process could use when it captured the environment.
    pub cpus_allowed: Option<String>,
    /// True if CPUs may share a core.
    pub smt: Option<bool>,
    /// True if a CPU may exceed its nominal frequency.
    pub turbo: Option<bool>,
    /// Frequency governors, such as `performance`.
    pub governor: Option<String>,
    /// Clock source of the kernel, such as `tsc`.
    pub clocksource: Option<String>,
    /// Known flaws of the CPUs, with the kernel's mitigation of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mitigations: BTreeMap<String, String>,
    /// Bytes of memory that the kernel manages.
    pub memory_bytes: Option<u64>,
    /// CPUs' worth of time that the control group allows; absent if unlimited.
    pub cgroup_cpus: Option<f64>,
    /// Bytes of memory that the control group allows; absent if unlimited.
    pub cgroup_memory_bytes: Option<u64>,
    /// Soft limit of open files, `RLIMIT_NOFILE`; absent if unlimited.
    pub nofile_soft: Option<u64>,
    /// Hard limit of open files; absent if unlimited.
    pub nofile_hard: Option<u64>,
    /// Kernel settings that affect a TCP exchange, by their sysctl(8) names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Load of the machine before the run.
    pub load_before: Option<Load>,
    /// Load of the machine after the run.
    pub load_after: Option<Load>,
    /// Settings that the run found changed at its end, with their new values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<String, String>,
    /// Build of the program that wrote the record.
    pub build: Build,
}

/// Load of the machine, including the run itself.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Load {
    /// Threads that run or wait for a CPU or a disk, averaged over a minute.
    pub loadavg_1m: f64,
    /// Threads that run or are ready to run.
    pub runnable: u64,
    /// Time since boot, summed over all CPUs, in which the hypervisor ran something else although
    /// this machine had work (proc_stat(5), `steal`).
    pub steal_s: Option<f64>,
    /// Time since boot in which the control group had used up its share of the CPUs and was kept
    /// from them.
    pub throttled_s: Option<f64>,
    /// Mean frequency of the CPUs, where it can change.
    pub frequency_mhz: Option<f64>,
    /// Seconds since boot at the time of this reading.
    pub uptime_s: Option<f64>,
}

/// Build of a program.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Build {
    /// Profile, or the one that it inherits from: `release` or `debug`.
    pub profile: Option<String>,
    /// Target triple.
    pub target: Option<String>,
    /// Compiler, as `rustc -V` prints it.
    pub rustc: Option<String>,
    /// Compiler flags from outside the profile.
    pub rustflags: Option<String>,
    /// Commit; absent outside a git repository.
    pub git_revision: Option<String>,
    /// True if the sources differed from that commit.
    pub git_dirty: Option<bool>,
}

/// Settings that affect the cost of a TCP exchange, or forbid it.
const SYSCTLS: [&str; 24] = [
    "fs.file-max",
    "fs.nr_open",
    "kernel.io_uring_disabled",
    "kernel.io_uring_group",
    "kernel.numa_balancing",
    "kernel.sched_autogroup_enabled",
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.default_qdisc",
    "net.core.netdev_max_backlog",
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_autocorking",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_wmem",
];

impl Environment {
    /// Captures the environment before a run, before any thread is pinned. Never fails.
    pub fn capture() -> Environment {
        let uname = rustix::system::uname();
        let text = |field: &std::ffi::CStr| field.to_str().ok().map(str::to_owned);
        let files = getrlimit(Resource::Nofile);
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let cgroup = cgroup::Limits::of_this_process();
        Environment {
            host: read("/etc/machine-id").or_else(|| text(uname.nodename())).map(|id| hash(&id)),
            product: cpu::product(),
            hypervisor: cpu::hypervisor_of_this_machine(&cpuinfo),
            kernel: text(uname.release()),
            kernel_build: text(uname.version()),
            arch: text(uname.machine()),
            cpu_model: cpu::model(&cpuinfo),
            cpus_online: read("/sys/devices/system/cpu/online"),
            cpus_allowed: read("/proc/self/status")
                .and_then(|status| cpu::field(&status, "Cpus_allowed_list")),
            smt: read("/sys/devices/system/cpu/smt/active").and_then(|text| cpu::flag(&text)),
            turbo: cpu::turbo_of_this_machine(),
            governor: cpu::governor_of_this_machine(),
            clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            mitigations: directory("/sys/devices/system/cpu/vulnerabilities"),
            memory_bytes: procfs::Meminfo::current().ok().map(|memory| memory.mem_total),
            cgroup_cpus: cgroup.cpus,
            cgroup_memory_bytes: cgroup.memory_bytes,
            nofile_soft: files.current,
            nofile_hard: files.maximum,
            sysctl: SYSCTLS.iter().filter_map(|&name| Some((name.into(), sysctl(name)?))).collect(),
            load_before: Load::now(),
            load_after: None,
            changed: BTreeMap::new(),
            build: Build::of_this_program(),
        }
    }

    /// Captures load and changed settings after the run.
    pub fn capture_after(&mut self) {
        let mut after = Self::capture();
        self.load_after = after.load_before.take();
        // The run has pinned this thread.
        after.cpus_allowed.clone_from(&self.cpus_allowed);
        self.changed = during::changes(self, &after);
    }

    /// Disturbances during the run: each is a word for programs, a colon, and a sentence.
    pub fn warnings(&self) -> Vec<String> {
        during::warnings(self)
    }
}

impl Load {
    /// Present load; `None` if the kernel does not show it.
    pub fn now() -> Option<Load> {
        let (loadavg_1m, runnable) = loadavg(&read("/proc/loadavg")?)?;
        let steal = procfs::KernelStats::current().ok().and_then(|stats| stats.total.steal);
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Some(Load {
            loadavg_1m,
            runnable,
            steal_s: steal.map(|ticks| ticks as f64 / per_second),
            throttled_s: cgroup::throttled_s_of_this_process(),
            frequency_mhz: cpu::frequency_mhz_of_this_machine(),
            uptime_s: procfs::Uptime::current().ok().map(|uptime| uptime.uptime),
        })
    }
}

impl Build {
    /// Build that this code is part of.
    pub fn of_this_program() -> Build {
        let text = |fact: Option<&str>| fact.map(str::to_owned);
        Build {
            profile: text(option_env!("LOCKSTEP_BUILD_PROFILE")),
            target: text(option_env!("LOCKSTEP_BUILD_TARGET")),
            rustc: text(option_env!("LOCKSTEP_BUILD_RUSTC")),
            rustflags: text(option_env!("LOCKSTEP_BUILD_RUSTFLAGS")),
            git_revision: text(option_env!("LOCKSTEP_BUILD_GIT_REVISION")),
            git_dirty: option_env!("LOCKSTEP_BUILD_GIT_DIRTY").map(|dirty| dirty == "true"),
        }
    }
}

/// Text of a small file without the white space around it; `None` if unreadable or empty.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Texts of a directory's files, by name.
fn directory(path: &str) -> BTreeMap<String, String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, read(entry.path())?)))
        .collect()
}

/// A kernel setting; numbers in a row are separated by one space.
fn sysctl(name: &str) -> Option<String> {
    let text = read(format!("/proc/sys/{}", name.replace('.', "/")))?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Load average of a minute and number of runnable threads, from `/proc/loadavg`. The crate procfs
/// reads the former in single precision.
fn loadavg(text: &str) -> Option<(f64, u64)> {
    let mut words = text.split_whitespace();
    let minute = words.next()?.parse().ok()?;
    let (runnable, _all) = words.nth(2)?.split_once('/')?;
    Some((minute, runnable.parse().ok()?))
}

/// Eight hexadecimal digits for an identity: FNV-1a, 64 bits folded to 32. The machine's id cannot
/// be recovered from them, as machine-id(5) demands.
fn hash(identity: &str) -> String {
    let hash = fnv1a(identity);
    format!("{:08x}", (hash >> 32) as u32 ^ hash as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capture_has_what_every_linux_shows() {
        let mut environment = Environment::capture();
        assert!(environment.kernel.is_some());
        assert!(environment.arch.is_some());
        assert!(environment.cpus_allowed.is_some());
        assert!(environment.memory_bytes > Some(1 << 20));
        assert!(environment.sysctl.contains_key("net.core.somaxconn"));
        assert_eq!(environment.host.as_ref().map(String::len), Some(8));
        assert_eq!(environment.host, Environment::capture().host, "the host's hash is stable");

        assert!(environment.load_before.is_some() && environment.load_after.is_none());
        environment.capture_after();
        assert!(environment.load_after.is_some());
    }

    #[test]
    fn build_has_its_profile_and_compiler() {
        let build = Build::of_this_program();
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        assert_eq!(build.profile.as_deref(), Some(profile));
        assert!(build.rustc.unwrap().starts_with("rustc "));
        assert!(build.target.unwrap().contains("linux"));
        if let Some(revision) = build.git_revision {
            assert!(revision.len() >= 40 && revision.bytes().all(|b| b.is_ascii_hexdigit()));
            assert!(build.git_dirty.is_some());
        }
    }

    #[test]
    fn captured_environment_round_trips() {
        let environment = Environment::capture();
        let text = serde_json::to_string(&environment).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), environment);
        assert!(!text.contains("null"), "what is absent is left out: {text}");
    }

    #[test]
    fn settings_are_sorted_and_distinct() {
        assert!(SYSCTLS.is_sorted_by(|a, b| a < b));
    }

    /// Old records are comparable with new ones only while the hash stays the same.
    #[test]
    fn hash_is_fnv_1a_folded() {
        // The test vectors of the FNV authors for 64 bits: "" cbf29ce484222325,
        // "foobar" 85944171f73967e8.
        assert_eq!(hash(""), format!("{:08x}", 0xcbf2_9ce4_u32 ^ 0x8422_2325));
        assert_eq!(hash("foobar"), format!("{:08x}", 0x8594_4171_u32 ^ 0xf739_67e8));
    }
}
