//! Relations that must hold between the kernel's counters, and between them and the clients.

use lockstep_results::backlog::{Check, Counters, Kernel, Outcome};

/// Clients at the release.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Waiting {
    /// Connects issued.
    pub(super) conns: u64,
    /// Connects that have succeeded.
    pub(super) connected: u64,
    /// SYNs sent again, by all clients.
    pub(super) retrans: u64,
}

impl Waiting {
    /// SYNs without an answer: the first of each waiting client, and every one sent again.
    fn unanswered(&self) -> u64 {
        self.conns - self.connected + self.retrans
    }
}

/// Checks at the release.
pub(super) fn at_release(counters: &Counters, waiting: &Waiting) -> Vec<Check> {
    let checks = [
        ("hold: ListenOverflows = SYNs without an answer", "ListenOverflows", waiting.unanswered()),
        ("hold: TCPSynRetrans = SYNs the clients sent again", "TCPSynRetrans", waiting.retrans),
        ("hold: ActiveOpens = connects", "ActiveOpens", waiting.conns),
        ("hold: PassiveOpens = clients connected", "PassiveOpens", waiting.connected),
    ];
    let checks = checks.into_iter().filter_map(|(name, counter, seen)| {
        Some(equal(name, *counters.get(counter)?, seen as i64))
    });
    checks.collect()
}

/// Checks at the end. `accepted` is the number of accepted connections, where it is known.
pub(super) fn at_end(
    held: &Counters,
    counters: &Counters,
    kernel: &Kernel,
    measured: &Outcome,
    accepted: Option<u64>,
) -> Vec<Check> {
    let counter = |name: &str| counters.get(name).copied();
    let mut checks = Vec::new();
    if let (Some(drops), Some(overflows), Some(full)) =
        (counter("ListenDrops"), counter("ListenOverflows"), counter("TCPReqQFullDrop"))
    {
        let name = "end: ListenDrops = ListenOverflows + TCPReqQFullDrop";
        checks.push(equal(name, drops, overflows + full));
    }
    // With tcp_syncookies 2 every SYN is answered with a cookie.
    if let (Some(1), Some(sent), Some(full)) =
        (kernel.syncookies, counter("SyncookiesSent"), counter("TCPReqQFullDoCookies"))
    {
        checks.push(equal("end: SyncookiesSent = TCPReqQFullDoCookies", sent, full));
    }
    if let (Some(overflows), Some(before)) =
        (counter("ListenOverflows"), held.get("ListenOverflows"))
    {
        checks.push(Check {
            name: "release to end: ListenOverflows >= ghosts".to_owned(),
            left: overflows - before,
            right: measured.ghosts as i64,
            holds: overflows - before >= measured.ghosts as i64,
        });
    }
    if let (Some(opens), Some(accepted)) = (counter("PassiveOpens"), accepted) {
        checks.push(equal("end: PassiveOpens = accepted", opens, accepted as i64));
    }
    if let Some(resets) = counter("OutRsts") {
        let seen = measured.refused + measured.reset;
        checks.push(equal("end: OutRsts = clients refused or reset", resets, seen as i64));
    }
    checks
}

fn equal(name: &str, left: i64, right: i64) -> Check {
    Check { name: name.to_owned(), left, right, holds: left == right }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(pairs: &[(&str, i64)]) -> Counters {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
    }

    fn broken(checks: &[Check]) -> Vec<&str> {
        checks.iter().filter(|check| !check.holds).map(|check| check.name.as_str()).collect()
    }

    /// listen(5), 14 connects, released after 1.5 s, on Linux 6.18.
    #[test]
    fn checks_hold_for_a_recorded_trial() {
        let held = counters(&[
            ("ListenOverflows", 16),
            ("ListenDrops", 16),
            ("TCPSynRetrans", 8),
            ("ActiveOpens", 14),
            ("PassiveOpens", 6),
        ]);
        let waiting = Waiting { conns: 14, connected: 6, retrans: 8 };
        assert_eq!(at_release(&held, &waiting).len(), 4);
        assert_eq!(broken(&at_release(&held, &waiting)), [""; 0]);
        let one_less = Waiting { retrans: 7, ..waiting };
        assert_eq!(broken(&at_release(&held, &one_less)).len(), 2);

        let ended = counters(&[
            ("ListenOverflows", 18),
            ("ListenDrops", 18),
            ("TCPReqQFullDrop", 0),
            ("SyncookiesSent", 2),
            ("TCPReqQFullDoCookies", 2),
            ("PassiveOpens", 14),
            ("OutRsts", 0),
        ]);
        let kernel = Kernel { syncookies: Some(1), ..Kernel::default() };
        let measured = Outcome { instant: 6, late: 8, ghosts: 2, ..Outcome::default() };
        let checks = at_end(&held, &ended, &kernel, &measured, Some(14));
        assert_eq!(checks.len(), 5);
        assert_eq!(broken(&checks), [""; 0]);
        let more = Outcome { ghosts: 3, reset: 1, ..measured };
        assert_eq!(broken(&at_end(&held, &ended, &kernel, &more, Some(13))).len(), 3);
        assert_eq!(at_end(&held, &ended, &Kernel::default(), &measured, None).len(), 3);
    }

    #[test]
    fn checks_skip_counters_that_the_kernel_lacks() {
        let none = Counters::new();
        assert_eq!(at_release(&none, &Waiting::default()), []);
        let kernel = Kernel { syncookies: Some(1), ..Kernel::default() };
        assert_eq!(at_end(&none, &none, &kernel, &Outcome::default(), Some(1)), []);
    }
}
