//! The address of a server that runs already.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender};

use crate::clients::socket::source_of_route;
use crate::event::Event;
use crate::exit::{self, Failure};
use lockstep_sys::address::{self, is_local};
use lockstep_sys::errno::describe;
use lockstep_sys::memory;
use lockstep_sys::sock_diag::SockDiag;

/// Looks up the address of a target in a thread of its own, so that a signal ends the wait.
///
/// # Errors
///
/// The exit code and the text for the user if the target is malformed, unknown, or a signal
/// arrived.
pub(crate) fn resolve(
    target: &str,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<SocketAddr, Failure> {
    let failed =
        |cause: &str| Failure::new(exit::FAILURE, format!("cannot look up {target}: {cause}"));
    let (sender, name) = (sender.clone(), target.to_owned());
    let lookup = move || {
        let found = look_up(&name).map(|addrs| choose(&addrs));
        drop(sender.send(Event::Resolved(found)));
    };
    memory::thread("resolver")
        .and_then(|thread| thread.spawn(lookup))
        .map_err(|error| failed(&describe(&error)))?;
    loop {
        match events.recv() {
            Ok(Event::Resolved(found)) => return found,
            Ok(Event::Signal(signal)) => return Err(Failure::signal(signal)),
            Ok(_) => {}
            Err(_) => return Err(failed("the thread has ended")),
        }
    }
}

/// Looks up the addresses of a target, of which there is at least one.
///
/// # Errors
///
/// The exit code and the text for the user if the target is malformed or unknown.
pub(crate) fn look_up(target: &str) -> Result<Vec<SocketAddr>, Failure> {
    address::resolve(target).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => {
            let hint = "write it as 127.0.0.1:8898, [::1]:8898 or localhost:8898";
            Failure::new(exit::USAGE, format!("--target {target}: {error}")).hint(hint)
        }
        _ => {
            let cause = describe(&error);
            let cause = cause.trim_start_matches("failed to lookup address information: ");
            let error = format!("cannot look up {target}: {}", cause.to_lowercase());
            let hint = "check the name, or write the address in numbers";
            Failure::new(exit::ADDRESS, error).hint(hint)
        }
    })
}

/// Chooses one of several addresses of a name: the first on this machine with a listener, else the
/// first of another machine with a route, else the last, to which the run's connect reports the
/// error. `localhost` may stand for `::1` and `127.0.0.1`, and a server may listen on only one of
/// them. Nothing is sent to any address, since a server would take a trial for a client.
fn choose(addrs: &[SocketAddr]) -> SocketAddr {
    let (local, remote): (Vec<SocketAddr>, Vec<_>) =
        addrs.iter().partition(|addr| is_local(**addr));
    let listens = |addr: &&SocketAddr| {
        let listeners = SockDiag::open().and_then(|mut diag| diag.listeners(**addr));
        listeners.is_ok_and(|listeners| !listeners.is_empty())
    };
    let found = local
        .iter()
        .find(listens)
        .or_else(|| remote.iter().find(|addr| source_of_route(**addr).is_some()));
    *found.unwrap_or(&addrs[addrs.len() - 1])
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn address_with_a_listener_is_chosen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
        let (one, other, absent) = (at("127.0.0.1"), at("127.0.0.9"), at("240.0.0.1"));
        for addrs in [vec![one], vec![one, other], vec![other, one], vec![absent, one, other]] {
            assert_eq!(choose(&addrs), one, "{addrs:?}");
        }
        drop(listener);
        assert_eq!(choose(&[one, other]), other);
    }

    #[test]
    fn malformed_and_unknown_targets_differ() {
        assert_eq!(look_up("nothing").unwrap_err().code, exit::USAGE);
        assert_eq!(look_up("[fe80::1%nosuch0]:80").unwrap_err().code, exit::ADDRESS);
    }
}
