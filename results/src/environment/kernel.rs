//! Reading the kernel's text files in `/proc`.

/// The value of `name` in lines of `name: value`, such as `/proc/self/status`.
pub(super) fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        let value = value.trim();
        (found.trim_end() == name && !value.is_empty()).then(|| value.to_owned())
    })
}

/// Bytes of memory in all, from `/proc/meminfo`.
pub(super) fn memory_total(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 = field(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The load average of a minute and the runnable threads, from `/proc/loadavg`.
pub(super) fn loadavg(text: &str) -> Option<(f64, u64)> {
    let mut words = text.split_whitespace();
    let minute = words.next()?.parse().ok()?;
    let (runnable, _all) = words.nth(2)?.split_once('/')?;
    Some((minute, runnable.parse().ok()?))
}

/// Clock ticks stolen by the hypervisor since boot, from `/proc/stat`: the eighth number of the
/// line for all processors.
pub(super) fn steal_ticks(stat: &str) -> Option<u64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    all.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_by_name() {
        let status = "Name:\tloadgen\nUmask:\t0022\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n\
                      Groups:\t \n";
        assert_eq!(field(status, "Cpus_allowed_list").as_deref(), Some("0-1"));
        assert_eq!(field(status, "Cpus_allowed").as_deref(), Some("3"));
        assert_eq!(field(status, "Groups"), None, "empty is absent");
        assert_eq!(field(status, "Cpus"), None, "a whole name, not its beginning");
    }

    #[test]
    fn memory() {
        let meminfo = "MemTotal:       24684092 kB\nMemFree:        24369856 kB\n";
        assert_eq!(memory_total(meminfo), Some(24_684_092 * 1024));
        assert_eq!(memory_total("MemFree: 1 kB\n"), None);
        assert_eq!(memory_total("MemTotal: 18446744073709551615 kB\n"), None);
    }

    #[test]
    fn load() {
        assert_eq!(loadavg("0.52 0.06 0.07 3/83 4603\n"), Some((0.52, 3)));
        assert_eq!(loadavg("0.52 0.06"), None);
    }

    #[test]
    fn steal() {
        let stat = "cpu  9048 0 3508 253409 362 0 51 845 0 0\ncpu0 4379 0 1554 127127 56 0 11 455";
        assert_eq!(steal_ticks(stat), Some(845));
        assert_eq!(steal_ticks("cpu0 4379 0 1554 127127 56 0 11 455"), None);
        // Kernels before 2.6.11 did not count it.
        assert_eq!(steal_ticks("cpu  132 0 21 4000 3 0 1\n"), None);
    }
}
