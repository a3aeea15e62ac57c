//! Addresses as users write them: numbers or a name, and a port.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

/// Looks up the addresses that `text` stands for: at least one, and each once. An IPv6 address is
/// in brackets, and may name its interface: `[fe80::1%eth0]:8898`.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`] if the text is malformed, otherwise the error of getaddrinfo(3), or
/// that the name has no address.
pub fn resolve(text: &str) -> io::Result<Vec<SocketAddr>> {
    let (host, port) = split(text)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "not an address with a port"))?;
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in (host, port).to_socket_addrs()? {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    match addrs.is_empty() {
        true => Err(io::Error::other("the name has no address")),
        false => Ok(addrs),
    }
}

/// Splits an address into its host, without brackets, and its port.
fn split(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').filter(|host| host.contains(':'))?,
        None => host,
    };
    let port = port.parse().ok().filter(|_| digits)?;
    (!host.is_empty()).then_some((host, port))
}

/// True if this machine has the address.
pub fn is_local(addr: SocketAddr) -> bool {
    let mut addr = addr;
    addr.set_port(0);
    UdpSocket::bind(addr).is_ok()
}

/// Returns the error that matters to the user, of attempts at several addresses of a name: a
/// missing address family or route says less than a refusal.
pub fn most_telling(errors: Vec<io::Error>) -> Option<io::Error> {
    let says_little = |error: &io::Error| {
        let code = error.raw_os_error();
        let little = [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL, libc::ENETUNREACH];
        code.is_some_and(|code| little.contains(&code))
    };
    errors.into_iter().min_by_key(says_little)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_split_into_host_and_port() {
        for (text, expected) in [
            ("127.0.0.1:8898", Some(("127.0.0.1", 8898))),
            ("localhost:0", Some(("localhost", 0))),
            ("[::1]:80", Some(("::1", 80))),
            ("[fe80::1%eth0]:80", Some(("fe80::1%eth0", 80))),
            ("::1:80", Some(("::1", 80))),
            ("", None),
            (":80", None),
            ("localhost", None),
            ("localhost:", None),
            ("localhost:+80", None),
            ("localhost:65536", None),
            ("[localhost]:80", None),
            ("[::1:80", None),
            ("[]:80", None),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn interface_of_an_address_is_named_or_numbered() {
        for text in ["[fe80::1%lo]:80", "[fe80::1%1]:80"] {
            let Ok(addrs) = resolve(text) else { continue }; // no IPv6, or another name
            let [SocketAddr::V6(addr)] = addrs[..] else { panic!("{text}: {addrs:?}") };
            assert_eq!((addr.scope_id(), addr.port()), (1, 80), "{text}");
        }
        assert_eq!(resolve("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
        assert!(resolve("[fe80::1%nosuch0]:80").is_err());
        assert_eq!(resolve("nothing").unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(is_local("127.0.0.1:80".parse().unwrap()));
        assert!(!is_local("192.0.2.77:80".parse().unwrap()));
    }

    #[test]
    fn refusal_matters_more_than_a_missing_family() {
        let telling = |codes: &[i32]| {
            let errors = codes.iter().map(|&code| io::Error::from_raw_os_error(code)).collect();
            most_telling(errors).and_then(|error| error.raw_os_error())
        };
        let (family, absent, route) = (libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL, libc::ENETUNREACH);
        for little in [family, absent, route] {
            assert_eq!(telling(&[little, libc::ECONNREFUSED]), Some(libc::ECONNREFUSED));
            assert_eq!(telling(&[libc::ETIMEDOUT, little]), Some(libc::ETIMEDOUT));
            assert_eq!(telling(&[little]), Some(little));
        }
        assert_eq!(telling(&[]), None);
    }
}
