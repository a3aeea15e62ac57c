//! The kernel's counters of a network namespace (`/proc/net/netstat` and `/proc/net/snmp`,
//! proc_pid_net(5)). They count from the creation of the namespace; only differences mean
//! anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;

/// The counters of listening and connecting, each with its protocol.
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

/// One reading of the counters of listening and connecting.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetCounters(BTreeMap<&'static str, i64>);

impl NetCounters {
    /// Reads the counters of the calling thread's network namespace. A counter that this kernel
    /// does not have is left out.
    ///
    /// # Errors
    ///
    /// `ENOENT` without `/proc` or without IPv4.
    pub fn read() -> io::Result<Self> {
        let netstat = fs::read_to_string("/proc/thread-self/net/netstat")?;
        let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
        Ok(Self::parse(&netstat, &snmp))
    }

    /// Parses two lines for each protocol: the names, and the values in the same order.
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
                for pair in pairs {
                    let known = NAMES.iter().find(|known| **known == (protocol, pair.0));
                    if let (Some((_, name)), Ok(value)) = (known, pair.1.parse()) {
                        found.insert(*name, value);
                    }
                }
            }
        }
        Self(found)
    }

    /// Returns the increments from `before` to this reading, by name.
    pub fn since(&self, before: &Self) -> BTreeMap<String, i64> {
        let increments = self.0.iter().map(|(name, value)| {
            let before = before.0.get(name).copied().unwrap_or(0);
            ((*name).to_owned(), value.wrapping_sub(before))
        });
        increments.collect()
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
        let counters = NetCounters::parse(NETSTAT, SNMP);
        assert_eq!(counters.0["ListenOverflows"], 522);
        assert_eq!(counters.0["ListenDrops"], 524);
        assert_eq!(counters.0["ActiveOpens"], 120);
        assert_eq!(counters.0["OutRsts"], 3);
        assert_eq!(counters.0.get("TCPReqQFullDrop"), None);
        assert_eq!(NetCounters::parse("", "Tcp:\n"), NetCounters::default());
    }

    #[test]
    fn increments_are_differences_of_two_readings() {
        let before = NetCounters::parse(NETSTAT, SNMP);
        let after = NetCounters::parse(&NETSTAT.replace(" 522 524 ", " 530 532 "), SNMP);
        let increments = after.since(&before);
        assert_eq!((increments["ListenOverflows"], increments["ActiveOpens"]), (8, 0));
    }

    #[test]
    fn this_kernel_has_counters() {
        let counters = NetCounters::read().unwrap();
        assert!(counters.0.contains_key("ListenOverflows"), "{counters:?}");
        assert!(counters.0.contains_key("ActiveOpens"), "{counters:?}");
    }
}
