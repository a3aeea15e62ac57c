//! Shared by the experiments on listening: the depth of an accept queue over time, the kernel's
//! settings, and lists without duplicates.

use std::fs;
use std::time::Duration;

use lockstep_results::backlog::{Depth, Kernel};
use rustix::system::uname;

/// The values without duplicates, in order.
pub(super) fn unique<T: Clone + PartialEq>(values: &[T]) -> Vec<T> {
    let mut unique = Vec::new();
    for value in values {
        if !unique.contains(value) {
            unique.push(value.clone());
        }
    }
    unique
}

/// Records a depth of the accept queues if it differs from the last one.
pub(super) fn record_depth(depths: &mut Vec<Depth>, at: Duration, depth: u32) {
    if depths.last().is_none_or(|last| last.depth != depth) {
        depths.push(Depth { at_s: at.as_secs_f64(), depth });
    }
}

/// Reads the settings of this network namespace that determine how a listener behaves. Settings
/// that cannot be read are absent.
pub(super) fn kernel_settings() -> Kernel {
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
