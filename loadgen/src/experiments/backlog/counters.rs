//! The kernel's counters of a network namespace (`/proc/net/netstat`, `/proc/net/snmp`).
//!
//! They are totals since the namespace was made; only differences say anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use lockstep_results::backlog::Counters;

/// The counters that have to do with listening and connecting, by the protocol they stand under.
const NAMES: [(&str, &str); 20] = [
    ("TcpExt", "ListenOverflows"),
    ("TcpExt", "ListenDrops"),
    ("TcpExt", "TCPReqQFullDrop"),
    ("TcpExt", "TCPReqQFullDoCookies"),
    ("TcpExt", "SyncookiesSent"),
    ("TcpExt", "SyncookiesRecv"),
    ("TcpExt", "SyncookiesFailed"),
    ("TcpExt", "EmbryonicRsts"),
    ("TcpExt", "TCPSynRetrans"),
    ("TcpExt", "TCPTimeouts"),
    ("TcpExt", "TCPAbortOnTimeout"),
    ("TcpExt", "TCPBacklogDrop"),
    ("TcpExt", "TCPMigrateReqSuccess"),
    ("TcpExt", "TCPMigrateReqFailure"),
    ("Tcp", "ActiveOpens"),
    ("Tcp", "PassiveOpens"),
    ("Tcp", "AttemptFails"),
    ("Tcp", "EstabResets"),
    ("Tcp", "RetransSegs"),
    ("Tcp", "OutRsts"),
];

/// A reading.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Reading(BTreeMap<&'static str, i64>);

impl Reading {
    /// Reads the counters of this thread's network namespace.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub(crate) fn take() -> io::Result<Self> {
        let netstat = fs::read_to_string("/proc/thread-self/net/netstat")?;
        let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
        Ok(Self::parse(&netstat, &snmp))
    }

    /// Both files have two lines a protocol: the names, and the values.
    fn parse(netstat: &str, snmp: &str) -> Self {
        let mut found = BTreeMap::new();
        for file in [netstat, snmp] {
            let mut lines = file.lines();
            while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
                let (Some((protocol, names)), Some((_, values))) =
                    (names.split_once(':'), values.split_once(':'))
                else {
                    continue;
                };
                let pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
                for (name, value) in pairs {
                    let wanted =
                        NAMES.iter().find(|(under, wanted)| *under == protocol && *wanted == name);
                    if let (Some((_, name)), Ok(value)) = (wanted, value.parse()) {
                        found.insert(*name, value);
                    }
                }
            }
        }
        Self(found)
    }

    /// What was counted from `before` to this reading.
    pub(crate) fn since(&self, before: &Self) -> Counters {
        let differences = self.0.iter().map(|(name, value)| {
            let before = before.0.get(name).copied().unwrap_or(0);
            ((*name).to_owned(), value.wrapping_sub(before))
        });
        differences.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETSTAT: &str = "\
TcpExt: SyncookiesSent SyncookiesRecv EmbryonicRsts ListenOverflows ListenDrops TCPSynRetrans\n\
TcpExt: 7 7 0 522 524 216\n\
IpExt: InNoRoutes ListenOverflows\n\
IpExt: 1 99\n";

    const SNMP: &str = "\
Ip: Forwarding DefaultTTL\n\
Ip: 1 64\n\
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens OutRsts InCsumErrors\n\
Tcp: 1 200 120000 -1 120 110 3 0\n";

    #[test]
    fn counters_are_found_under_their_protocol() {
        let reading = Reading::parse(NETSTAT, SNMP);
        assert_eq!(reading.0["ListenOverflows"], 522);
        assert_eq!(reading.0["ListenDrops"], 524);
        assert_eq!(reading.0["ActiveOpens"], 120);
        assert_eq!(reading.0["OutRsts"], 3);
        assert_eq!(reading.0.get("TCPReqQFullDrop"), None, "this kernel has none");
        assert_eq!(Reading::parse("", "Tcp:\n"), Reading::default());
    }

    #[test]
    fn only_differences_count() {
        let before = Reading::parse(NETSTAT, SNMP);
        let after = Reading::parse(&NETSTAT.replace(" 522 524 ", " 530 532 "), SNMP);
        let counters = after.since(&before);
        assert_eq!(counters["ListenOverflows"], 8);
        assert_eq!(counters["ActiveOpens"], 0);
    }

    #[test]
    fn this_machine_has_them() {
        let reading = Reading::take().unwrap();
        assert!(reading.0.contains_key("ListenOverflows"), "{reading:?}");
        assert!(reading.0.contains_key("ActiveOpens"), "{reading:?}");
    }
}
