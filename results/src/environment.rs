//! Where a run took place: the machine, its settings, its limits, and the build.
//!
//! A number is worth what can be said about the place it comes from. Capturing never fails: what
//! this kernel does not tell, or does not tell us, is absent.

mod cgroup;
pub(crate) mod circumstances;
mod cpu;
mod during;
mod kernel;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

/// The machine, its settings and the build.
///
/// Lists of processors are as the kernel writes them: `0,2-3`.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Environment {
    /// Eight hexadecimal digits that stay the same for a machine and do not tell its name: a hash
    /// of `/etc/machine-id`, else of the host name.
    pub host: Option<String>,
    /// The maker's and the product's name (DMI); a cloud's instance type stands here.
    pub product: Option<String>,
    /// What the kernel runs on, such as `KVM`, or `unknown` when it only knows that there is one.
    /// Absent on bare metal.
    pub hypervisor: Option<String>,
    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub kernel: Option<String>,
    /// The kernel's build, such as `#1 SMP PREEMPT_DYNAMIC …`.
    pub kernel_build: Option<String>,
    /// The machine's architecture, such as `x86_64`.
    pub arch: Option<String>,
    /// The processors' model.
    pub cpu_model: Option<String>,
    /// The processors in service.
    pub cpus_online: Option<String>,
    /// The processors this process might use when it captured the environment.
    pub cpus_allowed: Option<String>,
    /// Whether two of the processors may share a core.
    pub smt: Option<bool>,
    /// Whether a processor may exceed its nominal frequency.
    pub turbo: Option<bool>,
    /// What chooses the processors' frequency, such as `performance`; several are listed.
    pub governor: Option<String>,
    /// The kernel's clock source, such as `tsc`.
    pub clocksource: Option<String>,
    /// Each known flaw of the processors, and what the kernel does about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mitigations: BTreeMap<String, String>,
    /// Bytes of memory the kernel manages.
    pub memory_bytes: Option<u64>,
    /// Processors' worth of time the control group allows; absent when unlimited.
    pub cgroup_cpus: Option<f64>,
    /// Bytes of memory the control group allows; absent when unlimited.
    pub cgroup_memory_bytes: Option<u64>,
    /// The soft limit of open files, `RLIMIT_NOFILE`; absent when unlimited.
    pub nofile_soft: Option<u64>,
    /// The hard limit of open files; absent when unlimited.
    pub nofile_hard: Option<u64>,
    /// The kernel's settings that bear on a TCP exchange, by their sysctl(8) names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// How busy the machine was before the run.
    pub load_before: Option<Load>,
    /// How busy the machine was after the run.
    pub load_after: Option<Load>,
    /// What was no longer the same after the run, as it was then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<String, String>,
    /// The build of the program that wrote the record.
    pub build: Build,
}

/// How busy the machine is, the run itself included.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Load {
    /// Threads running or waiting for a processor or a disk, averaged over a minute.
    pub loadavg_1m: f64,
    /// Threads running or ready to run at the instant of asking.
    pub runnable: u64,
    /// Processor time, since boot and over all processors, in which the hypervisor ran something
    /// else although this machine had work (proc_stat(5), `steal`).
    pub steal_s: Option<f64>,
    /// Time since boot, in which the control group had used up its share of the processors and was
    /// kept from them.
    pub throttled_s: Option<f64>,
    /// The mean frequency of the processors, where it can change.
    pub frequency_mhz: Option<f64>,
    /// Seconds since boot, at which this was asked.
    pub uptime_s: Option<f64>,
}

/// The build of a program.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Build {
    /// `release` or `debug`: the profile it is, or inherits from.
    pub profile: Option<String>,
    /// The target triple.
    pub target: Option<String>,
    /// The compiler, as `rustc -V` names itself.
    pub rustc: Option<String>,
    /// Flags for the compiler from outside the profile.
    pub rustflags: Option<String>,
    /// The commit; absent in a build from outside a git repository.
    pub git_revision: Option<String>,
    /// Whether the sources differed from that commit.
    pub git_dirty: Option<bool>,
}

/// Settings that change what a TCP exchange costs, or whether it is possible.
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
    /// Looks around, before the run and before any thread is pinned. Never fails.
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
                .and_then(|status| kernel::field(&status, "Cpus_allowed_list")),
            smt: read("/sys/devices/system/cpu/smt/active").and_then(|text| cpu::flag(&text)),
            turbo: cpu::turbo_of_this_machine(),
            governor: cpu::governor_of_this_machine(),
            clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            mitigations: directory("/sys/devices/system/cpu/vulnerabilities"),
            memory_bytes: read("/proc/meminfo").and_then(|text| kernel::memory_total(&text)),
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

    /// Looks around again after the run, and notes how busy the machine is and what has changed.
    pub fn capture_after(&mut self) {
        let mut after = Self::capture();
        self.load_after = after.load_before.take();
        // The run has confined the thread that asks, and may have raised its own limit.
        after.cpus_allowed.clone_from(&self.cpus_allowed);
        self.changed = during::changes(self, &after);
    }

    /// What happened during the run that a reader of its numbers should know: a word for programs,
    /// a colon, and words for people.
    pub fn warnings(&self) -> Vec<String> {
        during::warnings(self)
    }
}

impl Load {
    /// How busy the machine is now; `None` where the kernel does not say.
    pub fn now() -> Option<Load> {
        let (loadavg_1m, runnable) = kernel::loadavg(&read("/proc/loadavg")?)?;
        let steal = read("/proc/stat").and_then(|stat| kernel::steal_ticks(&stat));
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let uptime = || read("/proc/uptime")?.split_once(' ')?.0.parse().ok();
        Some(Load {
            loadavg_1m,
            runnable,
            steal_s: steal.map(|ticks| ticks as f64 / per_second),
            throttled_s: cgroup::throttled_s_of_this_process(),
            frequency_mhz: cpu::frequency_mhz_of_this_machine(),
            uptime_s: uptime(),
        })
    }
}

impl Build {
    /// The build this code is part of.
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

/// A small file's text without the white space around it; `None` when unreadable or empty.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The texts of a directory's files, by name.
fn directory(path: &str) -> BTreeMap<String, String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, read(entry.path())?)))
        .collect()
}

/// One of the kernel's settings; numbers in a row are separated by one space.
fn sysctl(name: &str) -> Option<String> {
    let text = read(format!("/proc/sys/{}", name.replace('.', "/")))?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Eight hexadecimal digits for an identity: FNV-1a, 64 bits folded to 32.
///
/// Half the hash and a quarter of the identity's bits: the machine's id cannot be told from it,
/// as machine-id(5) asks.
fn hash(identity: &str) -> String {
    let hash = identity.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{:08x}", (hash >> 32) as u32 ^ hash as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_linux_tells_is_there() {
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
    fn the_build_knows_its_profile_and_compiler() {
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
    fn a_captured_environment_round_trips() {
        let environment = Environment::capture();
        let text = serde_json::to_string(&environment).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), environment);
        assert!(!text.contains("null"), "what is absent is left out: {text}");
    }

    #[test]
    fn the_names_of_the_settings_are_in_order_and_distinct() {
        assert!(SYSCTLS.is_sorted_by(|a, b| a < b));
    }

    /// Kept for ever: old records stay comparable with new ones only while it gives the same.
    #[test]
    fn the_hash_is_fnv_1a_folded() {
        // The test vectors of the FNV authors for 64 bits: "" cbf29ce484222325,
        // "foobar" 85944171f73967e8.
        assert_eq!(hash(""), format!("{:08x}", 0xcbf2_9ce4_u32 ^ 0x8422_2325));
        assert_eq!(hash("foobar"), format!("{:08x}", 0x8594_4171_u32 ^ 0xf739_67e8));
    }
}
