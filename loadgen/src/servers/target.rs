//! The address of a server that runs already.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::Duration;

use crate::event::Event;
use crate::exit::{self, Failure};
use lockstep_sys::errno::describe;

/// Timeout of a connect to one of several addresses of a name.
const PROBE_MAX: Duration = Duration::from_secs(1);

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
    if target.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        let error = format!("--target {target}: not an address with a port");
        let hint = "write it as 127.0.0.1:8898, [::1]:8898 or localhost:8898";
        return Err(Failure::new(exit::USAGE, error).hint(hint));
    }
    let failure = |error: String| Failure::new(exit::ADDRESS, error);
    let (sender, name) = (sender.clone(), target.to_owned());
    let lookup = move || drop(sender.send(Event::Resolved(look_up(&name))));
    thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(lookup)
        .map_err(|error| failure(format!("cannot look up {target}: {}", describe(&error))))?;
    loop {
        match events.recv() {
            Ok(Event::Resolved(Ok(addr))) => return Ok(addr),
            Ok(Event::Resolved(Err(error))) => {
                return Err(failure(format!("cannot look up {target}: {error}"))
                    .hint("check the name, or write the address in numbers"));
            }
            Ok(Event::Signal(signal)) => return Err(Failure::signal(signal)),
            Ok(_) => {}
            Err(_) => return Err(failure(format!("cannot look up {target}"))),
        }
    }
}

/// Looks up the address of a name. Of several, the first that accepts a connection: `localhost` may
/// stand for `::1` and `127.0.0.1`, and a server may listen on only one of them.
fn look_up(name: &str) -> Result<SocketAddr, String> {
    let cause = |error| {
        let text = describe(&error);
        text.trim_start_matches("failed to lookup address information: ").to_lowercase()
    };
    let addrs: Vec<SocketAddr> = name.to_socket_addrs().map_err(cause)?.collect();
    let (Some(&first), Some(&last)) = (addrs.first(), addrs.last()) else {
        return Err("the name has no address".to_owned());
    };
    if addrs.iter().all(|&addr| addr == first) {
        return Ok(first);
    }
    let accepts = |addr: &&SocketAddr| TcpStream::connect_timeout(addr, PROBE_MAX).is_ok();
    // If none accepts, the run's connect to the last reports the error.
    Ok(*addrs.iter().find(accepts).unwrap_or(&last))
}
