//! Linux's rules for connects to a listener that does not accept.
//!
//! Nothing here depends on the measurement: the prediction follows from `listen(n)`, the settings
//! and the plan, and the experiment tests it. The rules are those of Linux 6.x on the loopback
//! interface, where a handshake is over before connect(2) returns.
//!
//! 1. The limit of the accept queue is `min(n, net.core.somaxconn)` (listen(2); `__sys_listen` in
//!    net/socket.c).
//! 2. The queue is full when it holds *more* than the limit, so it holds one more than the limit
//!    (`sk_acceptq_is_full` in include/net/sock.h).
//! 3. The queue of half-open connections holds as many (`inet_csk_reqsk_queue_is_full` in
//!    include/net/inet_connection_sock.h). Without SYN cookies it also holds no more than three
//!    quarters of `tcp_max_syn_backlog` (`tcp_conn_request` in net/ipv4/tcp_input.c).
//! 4. A SYN that meets a full accept queue is dropped without an answer, and counted in
//!    `ListenOverflows` and `ListenDrops` (`tcp_conn_request`). `tcp_abort_on_overflow` has no
//!    effect on this.
//! 5. A SYN that meets a full queue of half-open connections is answered with a SYN cookie, and
//!    the kernel keeps no state of it. With `tcp_syncookies` 0 it is dropped (`tcp_conn_request`).
//! 6. The last segment of a handshake that meets a full accept queue is ignored
//!    (`tcp_v4_syn_recv_sock` in net/ipv4/tcp_ipv4.c, `tcp_check_req` in
//!    net/ipv4/tcp_minisocks.c). The client has an answer to its SYN and is connected on its own
//!    side only: a ghost.
//! 7. A client sends its SYN again after 1 s. The first `tcp_syn_linear_timeouts` repetitions
//!    (none before Linux 6.5) are one second apart, the following `tcp_syn_retries` double their
//!    distance each time (tcp(7); `tcp_retransmit_timer` and `tcp_write_timeout` in
//!    net/ipv4/tcp_timer.c).

use std::time::Duration;

use lockstep_results::backlog::{Kernel, Prediction, Range};

/// Default of `net.core.somaxconn` since Linux 5.4, used where it cannot be read.
const SOMAXCONN: u32 = 4096;

/// Default of `net.ipv4.tcp_syn_retries`, used where it cannot be read.
const SYN_RETRIES: u32 = 6;

/// Smallest distance of the release from a SYN at which their order is certain.
const RELEASE_MARGIN: Duration = Duration::from_millis(50);

/// Smallest distance of a SYN from the end at which its success is certain.
const END_MARGIN: Duration = Duration::from_millis(500);

/// Longest distance between two SYNs (`TCP_RTO_MAX`, include/net/tcp.h).
const RTO_MAX: Duration = Duration::from_secs(120);

/// TrialPlan of a trial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TrialPlan {
    /// Limit of each accept queue (rule 1).
    pub(super) limit: u32,
    /// Number of listeners.
    pub(super) listeners: u32,
    /// Number of connects.
    pub(super) conns: u32,
    /// Time from the first connect to the last.
    pub(super) fill: Duration,
    /// Time from the last connect to the release.
    pub(super) hold: Duration,
    /// Time from the last connect to the end.
    pub(super) end: Duration,
}

/// Limit of the accept queue of `listen(n)` (rule 1).
pub(super) fn limit(n: u32, somaxconn: Option<u32>) -> u32 {
    n.min(somaxconn.unwrap_or(SOMAXCONN))
}

/// Number of connections that the accept queues hold together (rule 2).
pub(super) fn capacity(limit: u32, listeners: u32) -> u32 {
    listeners.saturating_mul(limit.saturating_add(1))
}

/// Predicts a trial from the rules.
pub(super) fn predict(plan: &TrialPlan, kernel: &Kernel) -> Prediction {
    let room = u64::from(capacity(plan.limit, plan.listeners));
    let conns = u64::from(plan.conns);
    let instant = conns.min(room);
    let waiting = conns - instant;
    let late = late(plan, kernel, waiting);
    let cookies = kernel.syncookies != Some(0);
    // The queue was empty when they connected, so that many of their last segments fit. The others
    // race against the server's accepts (rule 6).
    let fit = u64::from(plan.limit) + 1;
    let ghosts = if cookies { late.most.saturating_sub(fit) } else { 0 };
    let reset = if kernel.abort_on_overflow == Some(1) { ghosts } else { 0 };
    let syns = |at: Range| Range { least: waiting * at.least, most: waiting * at.most };
    Prediction {
        instant: Range::exactly(instant),
        late: Range { least: late.least.saturating_sub(reset), most: late.most },
        ghosts: Range { least: 0, most: ghosts },
        refused: Range::exactly(0),
        reset: Range { least: 0, most: reset },
        timed_out: Range { least: waiting - late.most, most: waiting - late.least },
        overflows: syns(syns_until_release(plan, kernel)),
    }
}

/// Number of the waiting clients that are connected by the end.
fn late(plan: &TrialPlan, kernel: &Kernel, waiting: u64) -> Range {
    let times = syn_times(kernel);
    let surely = times.iter().filter(|&&at| {
        at > plan.hold + plan.fill + RELEASE_MARGIN && latest(at) + END_MARGIN < plan.end
    });
    let surely = surely.count() as u64;
    let possibly = times.iter().any(|&at| latest(at) > plan.hold && at < plan.end);
    let per_syn = match kernel.syncookies {
        Some(0) => half_open(plan.limit, kernel),
        _ => waiting, // All SYNs are answered (rule 5).
    };
    Range {
        least: waiting.min(surely.saturating_mul(per_syn)),
        most: if possibly { waiting } else { 0 },
    }
}

/// Capacity for half-open connections without SYN cookies (rule 3).
fn half_open(limit: u32, kernel: &Kernel) -> u64 {
    let queue = u64::from(limit) + 1;
    kernel.max_syn_backlog.map_or(queue, |most| queue.min(u64::from(most - (most >> 2)) + 1))
}

/// Number of SYNs that a waiting client has sent before the release.
fn syns_until_release(plan: &TrialPlan, kernel: &Kernel) -> Range {
    let times = syn_times(kernel);
    let surely = times.iter().filter(|&&at| latest(at) < plan.hold).count() as u64;
    let possibly = times.iter().filter(|&&at| at < plan.hold + plan.fill + RELEASE_MARGIN);
    let possibly = possibly.count() as u64;
    Range { least: 1 + surely, most: 1 + possibly }
}

/// Times at which a client sends its SYN again, from its connect, without an answer (rule 7).
pub(super) fn syn_times(kernel: &Kernel) -> Vec<Duration> {
    let linear = kernel.syn_linear_timeouts.unwrap_or(0).min(255);
    let retries = kernel.syn_retries.unwrap_or(SYN_RETRIES).min(255);
    let (mut times, mut at, mut timeout) = (Vec::new(), Duration::ZERO, Duration::from_secs(1));
    for number in 1..=linear + retries {
        at += timeout;
        times.push(at);
        if number > linear {
            timeout = (timeout * 2).min(RTO_MAX);
        }
    }
    times
}

/// Latest expiry of a timer for `at`: the kernel's timers may be late by an eighth of their length
/// (kernel/time/timer.c), and each step starts after the previous one.
fn latest(at: Duration) -> Duration {
    at + at / 8 + Duration::from_millis(20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(syncookies: u32) -> Kernel {
        Kernel {
            release: "6.18.0".to_owned(),
            somaxconn: Some(4096),
            syncookies: Some(syncookies),
            abort_on_overflow: Some(0),
            max_syn_backlog: Some(2048),
            syn_retries: Some(6),
            syn_linear_timeouts: Some(4),
        }
    }

    fn plan(limit: u32, extra: u32, hold_s: f64, end_s: f64) -> TrialPlan {
        TrialPlan {
            limit,
            listeners: 1,
            conns: limit + 1 + extra,
            fill: Duration::ZERO,
            hold: Duration::from_secs_f64(hold_s),
            end: Duration::from_secs_f64(end_s),
        }
    }

    fn whole_seconds(kernel: &Kernel) -> Vec<u64> {
        syn_times(kernel).iter().map(Duration::as_secs).collect()
    }

    #[test]
    fn capacity_is_the_smaller_limit_plus_one() {
        for (n, somaxconn, admitted) in [
            (0, Some(4096), 1),
            (1, Some(4096), 2),
            (3, Some(4096), 4),
            (5, Some(4096), 6),
            (128, Some(4096), 129),
            (128, Some(10), 11),
            (5000, Some(4096), 4097),
            (5000, None, 4097),
            (u32::MAX, Some(u32::MAX), u32::MAX),
        ] {
            assert_eq!(capacity(limit(n, somaxconn), 1), admitted, "listen({n})");
        }
        assert_eq!(capacity(8, 4), 36);
    }

    #[test]
    fn syn_times_match_measured_retransmissions() {
        let new = kernel(1);
        assert_eq!(whole_seconds(&new), [1, 2, 3, 4, 5, 7, 11, 19, 35, 67]);
        let old = Kernel { syn_linear_timeouts: None, ..kernel(1) };
        assert_eq!(whole_seconds(&old), [1, 3, 7, 15, 31, 63]);
        let few = Kernel { syn_retries: Some(1), syn_linear_timeouts: Some(1), ..kernel(1) };
        assert_eq!(whole_seconds(&few), [1, 2]);
        let many = Kernel { syn_retries: Some(9), ..old };
        assert_eq!(whole_seconds(&many)[6..], [127, 247, 367]);
    }

    /// Linux 6.18, n + 9 connects, released after 9.3 s, as measured with sockets.
    #[test]
    fn prediction_matches_the_measured_table() {
        for (n, instant, ghosts) in [(0, 1, 7), (1, 2, 6), (3, 4, 4), (5, 6, 2), (128, 129, 0)] {
            let predicted = predict(&plan(n, 8, 9.3, 16.0), &kernel(1));
            assert_eq!(predicted.instant, Range::exactly(instant), "listen({n})");
            assert_eq!(predicted.late, Range::exactly(8), "listen({n})");
            assert_eq!(predicted.ghosts.most, ghosts, "listen({n})");
            assert_eq!(predicted.timed_out, Range::exactly(0), "listen({n})");
            // Seven SYNs each: at 0, 1, 2, 3, 4, 5 and 7 s.
            assert_eq!(predicted.overflows, Range::exactly(56), "listen({n})");
        }
    }

    #[test]
    fn overflows_grow_with_every_syn() {
        let overflows = |hold_s| predict(&plan(3, 8, hold_s, 30.0), &kernel(1)).overflows;
        assert_eq!(overflows(0.3), Range::exactly(8));
        assert_eq!(overflows(1.5), Range::exactly(16));
        assert_eq!(overflows(9.0), Range::exactly(56));
        // The release is too near to a SYN to know their order.
        assert_eq!(overflows(1.0), Range { least: 8, most: 16 });
    }

    #[test]
    fn without_cookies_one_queue_connects_per_syn_and_no_ghosts() {
        // Measured: 4 at 3.08 s, 4 more at 4.10 s.
        let predicted = predict(&plan(3, 8, 2.5, 12.0), &kernel(0));
        assert_eq!(predicted.late, Range::exactly(8));
        assert_eq!(predicted.ghosts, Range::exactly(0));
        let predicted = predict(&plan(0, 8, 2.5, 6.0), &kernel(0));
        assert_eq!(predicted.late, Range { least: 2, most: 8 }); // At 3 and 4 s; 5 is not sure.
        assert_eq!(predicted.timed_out, Range { least: 0, most: 6 });
    }

    #[test]
    fn max_syn_backlog_matters_only_without_cookies() {
        // Measured with hand-made SYNs: tcp_max_syn_backlog 8 answers 7.
        let small = Kernel { max_syn_backlog: Some(8), ..kernel(0) };
        assert_eq!(half_open(8, &small), 7);
        assert_eq!(half_open(3, &small), 4);
        assert_eq!(half_open(8, &kernel(0)), 9);
        assert_eq!(half_open(8, &Kernel { max_syn_backlog: None, ..kernel(0) }), 9);
        let cookies = Kernel { max_syn_backlog: Some(8), ..kernel(1) };
        assert_eq!(
            predict(&plan(8, 40, 1.5, 9.0), &cookies),
            predict(&plan(8, 40, 1.5, 9.0), &kernel(1))
        );
    }

    #[test]
    fn clients_without_a_syn_before_the_end_time_out() {
        let predicted = predict(&plan(5, 8, 1.5, 1.8), &kernel(1));
        assert_eq!(predicted.late, Range::exactly(0));
        assert_eq!(predicted.timed_out, Range::exactly(8));
        let predicted = predict(&plan(5, 8, 1.5, 2.1), &kernel(1));
        assert_eq!(predicted.late, Range { least: 0, most: 8 });
    }

    #[test]
    fn no_client_waits_while_the_queue_has_room() {
        let predicted = predict(&TrialPlan { conns: 3, ..plan(5, 0, 1.5, 9.0) }, &kernel(1));
        assert_eq!(predicted.instant, Range::exactly(3));
        assert_eq!(predicted.overflows, Range::exactly(0));
        assert_eq!(predicted.late, Range::exactly(0));
    }

    #[test]
    fn abort_on_overflow_resets_only_ghosts() {
        let abort = Kernel { abort_on_overflow: Some(1), ..kernel(1) };
        let predicted = predict(&plan(5, 8, 1.5, 9.0), &abort);
        assert_eq!(predicted.reset, Range { least: 0, most: 2 });
        assert_eq!(predicted.late, Range { least: 6, most: 8 });
        assert_eq!(predict(&plan(5, 8, 1.5, 9.0), &kernel(1)).reset, Range::exactly(0));
    }

    /// Every client is in one class, for any plan.
    #[test]
    fn prediction_accounts_for_every_client() {
        for syncookies in 0..=2 {
            for limit in [0, 1, 3, 5, 128] {
                for extra in [0, 1, 8, 300] {
                    for hold_s in [0.0, 0.5, 1.5, 3.0, 100.0] {
                        let plan = plan(limit, extra, hold_s, hold_s + 8.0);
                        let predicted = predict(&plan, &kernel(syncookies));
                        let sum = |side: fn(Range) -> u64, other: fn(Range) -> u64| {
                            side(predicted.instant)
                                + side(predicted.late)
                                + other(predicted.timed_out)
                        };
                        let conns = u64::from(plan.conns);
                        assert_eq!(sum(|r| r.least, |r| r.most), conns, "{plan:?}");
                        assert_eq!(sum(|r| r.most, |r| r.least), conns, "{plan:?}");
                        assert!(predicted.ghosts.most <= predicted.late.most, "{plan:?}");
                    }
                }
            }
        }
    }
}
