//! Addresses as people write them: numbers or a name, and a port.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};

use lockstep_sys::errno;

/// Why a text stands for no address.
#[derive(Debug)]
pub(super) struct Unresolved {
    pub(super) cause: String,
    pub(super) hint: &'static str,
}

/// The addresses that `text` stands for: at least one.
///
/// # Errors
///
/// If it is not an address with a port, or the resolver knows no such name.
pub(super) fn resolve(text: &str) -> Result<Vec<SocketAddr>, Unresolved> {
    let found: io::Result<Vec<_>> = text.to_socket_addrs().map(Iterator::collect);
    let (cause, hint) = match found {
        Ok(addrs) if !addrs.is_empty() => return Ok(addrs),
        Ok(_none) => ("the name has no address".to_owned(), ANOTHER_NAME),
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            ("not an address with a port".to_owned(), "write it as 127.0.0.1:8898 or [::1]:8898")
        }
        Err(error) => (errno::text(&error), ANOTHER_NAME),
    };
    Err(Unresolved { cause, hint })
}

const ANOTHER_NAME: &str = "check the name, or write the address in numbers";
