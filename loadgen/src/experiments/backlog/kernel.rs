//! The settings that decide what a listener does, as this network namespace has them.

use std::fs;

use lockstep_results::backlog::Kernel;
use rustix::system::uname;

/// Reads them; what cannot be read is left out.
pub(crate) fn settings() -> Kernel {
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).ok();
    let number = |name: &str| setting(name)?.trim().parse().ok();
    Kernel {
        release: uname().release().to_string_lossy().into_owned(),
        somaxconn: number("core/somaxconn"),
        syncookies: number("ipv4/tcp_syncookies"),
        abort_on_overflow: number("ipv4/tcp_abort_on_overflow"),
        max_syn_backlog: number("ipv4/tcp_max_syn_backlog"),
        syn_retries: number("ipv4/tcp_syn_retries"),
        syn_linear_timeouts: number("ipv4/tcp_syn_linear_timeouts"),
    }
}
