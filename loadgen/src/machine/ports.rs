//! Ports of outgoing connections: each takes one of its source address.

use std::fs;
use std::io;

/// Linux's default range.
const RANGE_DEFAULT: (u32, u32) = (32_768, 60_999);

/// Hint for an error about ports that are all in use.
pub const HINT: &str =
    "--source ADDR,ADDR adds source addresses; storm --close rst leaves no TIME_WAIT";

/// Returns the number of ports that a source address has (`net.ipv4.ip_local_port_range`, ip(7)).
pub fn per_source() -> u32 {
    let (first, last) = range();
    last - first + 1
}

/// Checks that `conns` connections from `sources` addresses to one target have a port each.
///
/// # Errors
///
/// A text for the user that names the range.
pub fn check(conns: u32, sources: usize) -> Result<(), String> {
    let ports = u64::from(per_source()) * sources as u64;
    if u64::from(conns) <= ports {
        return Ok(());
    }
    Err(format!("--conns {conns} needs a port for each, and there are {ports}: {}", shown(sources)))
}

/// Describes the ports of `sources` addresses: `32768-60999 of 1 source address, 7 connections of
/// this machine in TIME_WAIT`.
pub fn shown(sources: usize) -> String {
    let (first, last) = range();
    let addresses = if sources == 1 { "address" } else { "addresses" };
    let waiting = fs::read_to_string("/proc/net/sockstat").ok();
    let waiting = waiting.as_deref().and_then(time_wait).map(|count| match count {
        1 => ", 1 connection of this machine in TIME_WAIT".to_owned(),
        count => format!(", {count} connections of this machine in TIME_WAIT"),
    });
    format!("{first}-{last} of {sources} source {addresses}{}", waiting.unwrap_or_default())
}

/// True for the error of bind(2) or connect(2) that no port is free. connect(2) also returns
/// `EADDRNOTAVAIL` if there is no source address.
pub fn ran_out(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL))
}

fn range() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    parse(&text).unwrap_or(RANGE_DEFAULT)
}

fn parse(range: &str) -> Option<(u32, u32)> {
    let mut words = range.split_whitespace().map(str::parse);
    match (words.next()?.ok()?, words.next()?.ok()?) {
        (first, last) if first <= last => Some((first, last)),
        _ => None,
    }
}

/// Returns the number of connections in TIME_WAIT from `/proc/net/sockstat`.
fn time_wait(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let mut words = line.split(' ').skip_while(|&word| word != "tw");
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_and_time_wait_are_parsed() {
        assert_eq!(parse("32768\t60999\n"), Some((32_768, 60_999)));
        for wrong in ["", "1", "2 1", "a b"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let sockstat =
            "sockets: used 9\nTCP: inuse 1 orphan 0 tw 3 alloc 5 mem 0\nUDP: inuse 0 mem 0";
        assert_eq!(time_wait(sockstat), Some(3));
        assert_eq!(time_wait("UDP: inuse 0"), None);
    }

    #[test]
    fn too_many_connections_name_the_ports() {
        let ports = per_source();
        assert_eq!(check(ports, 1), Ok(()));
        assert_eq!(check(2 * ports, 2), Ok(()));
        let error = check(2 * ports + 1, 2).unwrap_err();
        assert!(error.contains(&(2 * ports).to_string()) && error.contains("2 source"), "{error}");
    }
}
