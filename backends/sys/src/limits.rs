//! Limits of open files, threads and memory.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory mappings of a thread: its stack and the guard page.
const MAPPINGS_PER_THREAD: usize = 2;

/// Mappings for all else: program, libraries, heaps, and stacks kept for the next thread.
const MAPPINGS_RESERVED: usize = 1024;

/// The default of `vm.max_map_count` (Documentation/admin-guide/sysctl/vm.rst).
const MAPPINGS_DEFAULT: usize = 65_530;

/// Soft limit of open files before it was raised.
static OPEN_FILES_BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit of open files to the hard limit (`RLIMIT_NOFILE`, getrlimit(2)), and
/// returns the limit that then holds; `u64::MAX` if there is none. Where raising is refused, the
/// limit stays.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    OPEN_FILES_BEFORE.get_or_init(|| limit.current);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let limit = setrlimit(Resource::Nofile, raised).map_or(limit, |()| raised);
    limit.current.unwrap_or(u64::MAX)
}

/// Returns the soft limit of open files that this process was started with; `None` if there was
/// none. Programs that it starts may rely on it: select(2) takes no descriptor above 1023.
pub fn open_files_before() -> Option<u64> {
    *OPEN_FILES_BEFORE.get_or_init(|| getrlimit(Resource::Nofile).current)
}

/// Sets the soft limit of open files. Where that is refused, the limit stays.
pub fn set_open_files(soft: u64) {
    let limit = Rlimit { current: Some(soft), ..getrlimit(Resource::Nofile) };
    let _refused = setrlimit(Resource::Nofile, limit);
}

/// Returns the limit of address space in bytes (`RLIMIT_AS`), if there is one.
pub fn address_space() -> Option<u64> {
    getrlimit(Resource::As).current
}

/// Returns a hint for an error that a limit may have caused: the limits that apply, with their
/// values. `None` for other errors.
pub fn hint(errno: &str) -> Option<String> {
    let soft = |resource| getrlimit(resource).current;
    let memory = soft(Resource::As).map(|bytes| format!("ulimit -v ({})", bytes / 1024));
    let limits = match errno {
        "EAGAIN" => {
            let pids = pids_max().map(|pids| format!("pids.max of the cgroup ({pids})"));
            let user = soft(Resource::Nproc).map(|count| format!("ulimit -u ({count})"));
            let machine =
                sysctl("kernel/threads-max").map(|count| format!("kernel.threads-max ({count})"));
            ("threads", vec![pids, user, memory, machine])
        }
        "ENOMEM" => ("memory", vec![memory, Some("memory of the cgroup or machine".to_owned())]),
        "EMFILE" => {
            let files = soft(Resource::Nofile).map(|count| format!("ulimit -n ({count})"));
            ("descriptors", vec![files])
        }
        _ => return None,
    };
    let (what, limits) = (limits.0, limits.1.into_iter().flatten().collect::<Vec<_>>());
    (!limits.is_empty()).then(|| format!("what limits {what}: {}", limits.join(", ")))
}

/// Returns the smallest limit of processes and threads of this process's cgroup and those above it.
fn pids_max() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().filter_map(pids_folder).filter_map(|folder| smallest(&folder)).min()
}

/// Returns the folder that limits processes, from a line of `/proc/self/cgroup` (cgroups(7)).
fn pids_folder(line: &str) -> Option<String> {
    let mut fields = line.splitn(3, ':').skip(1);
    match (fields.next()?, fields.next()?) {
        ("", path) => Some(format!("/sys/fs/cgroup{path}")),
        (names, path) if names.split(',').any(|name| name == "pids") => {
            Some(format!("/sys/fs/cgroup/{names}{path}"))
        }
        _ => None,
    }
}

fn smallest(folder: &str) -> Option<u64> {
    let limit =
        |folder: &Path| fs::read_to_string(folder.join("pids.max")).ok()?.trim().parse().ok();
    Path::new(folder)
        .ancestors()
        .take_while(|it| *it != Path::new("/sys/fs"))
        .filter_map(limit)
        .min()
}

/// Returns the number of threads that this process may have beside others, and the name of the
/// limit: the least of `kernel.pid_max`, which numbers them, `kernel.threads-max`, and `pids.max`
/// of the cgroup. `None` if none is readable.
pub fn threads() -> Option<(u64, &'static str)> {
    let read = |name| sysctl(name)?.parse().ok();
    let limits = [
        (read("kernel/pid_max"), "kernel.pid_max"),
        (read("kernel/threads-max"), "kernel.threads-max"),
        (pids_max(), "pids.max of the cgroup"),
    ];
    let limits = limits.into_iter().filter_map(|(limit, name)| Some((limit?, name)));
    limits.min_by_key(|&(limit, _)| limit)
}

/// Returns the number of threads, of one connection each, that this process has mappings for
/// (`vm.max_map_count`). Without mappings left, an allocation may fail and abort the process.
pub fn threads_of_process() -> usize {
    threads_that_fit(sysctl("vm/max_map_count").and_then(|text| text.parse().ok()))
}

fn threads_that_fit(max_map_count: Option<usize>) -> usize {
    max_map_count.unwrap_or(MAPPINGS_DEFAULT).saturating_sub(MAPPINGS_RESERVED)
        / MAPPINGS_PER_THREAD
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_a_process_leave_mappings_for_all_else() {
        assert_eq!(threads_that_fit(Some(65_530)), 32_253);
        assert_eq!(threads_that_fit(Some(1_048_576)), 523_776);
        assert_eq!(threads_that_fit(None), 32_253);
        assert_eq!(threads_that_fit(Some(7)), 0);
        assert!(threads_of_process() > 0);
        assert!(threads().is_some_and(|(threads, _)| threads > 1));
    }

    #[test]
    fn folder_of_the_process_limit_is_found_in_both_versions() {
        for (line, folder) in [
            ("8:pids:/a/b", Some("/sys/fs/cgroup/pids/a/b")),
            ("0::/user.slice", Some("/sys/fs/cgroup/user.slice")),
            ("4:cpu,cpuacct:/", None),
            ("1:name=systemd:/", None),
            ("", None),
        ] {
            assert_eq!(pids_folder(line).as_deref(), folder, "{line}");
        }
    }

    #[test]
    fn hint_names_limits_with_their_values() {
        let files = getrlimit(Resource::Nofile).current;
        let hints = files.map(|count| format!("what limits descriptors: ulimit -n ({count})"));
        assert_eq!(hint("EMFILE").is_some(), hints.is_some());
        assert!(hint("EAGAIN").unwrap().contains("kernel.threads-max ("));
        assert!(hint("ENOMEM").is_some() && hint("ECONNREFUSED").is_none());
    }

    #[test]
    fn raising_open_files_reaches_the_hard_limit() {
        let raised = raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX), raised);
        assert_eq!(raise_open_files(), raised);
    }
}
