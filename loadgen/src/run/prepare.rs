//! Before a run: a server is started or found, and everybody is put on processors of their own.

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use crate::event::{Event, Ready};
use crate::exit::{self, Failure};
use crate::machine::placement::{Place, Placement, pin};
use crate::machine::processes::Processes;
use crate::run::args::RunArgs;
use crate::run::record::{self, Subject};
use crate::servers::embedded::{Ended, READY_MAX, Server, ServerOptions};
use crate::servers::{command, target};
use lockstep_sys::cpus::format_list;
use lockstep_sys::errno::describe;

/// The server under test, while it runs.
pub(crate) struct Prepared {
    pub(crate) addr: SocketAddr,
    pub(super) processes: Option<Processes>,
    pub(super) server: Option<Started>,
    pub(super) ready: Option<Ready>,
}

impl Prepared {
    /// Ends the server if it is ours; what it was, and what was wrong about its end.
    pub(crate) fn into_subject(
        self,
        args: &RunArgs,
    ) -> (lockstep_results::Subject, Option<String>) {
        let ended = self.server.and_then(Started::stop);
        let trouble = ended.and_then(|ended| ended.error);
        let subject = Subject { addr: self.addr, ready: self.ready, ended: None };
        (record::subject(&subject, args), trouble)
    }
}

/// A server that we have started.
pub(super) enum Started {
    Embedded(Server),
    Command(command::Server),
}

impl Started {
    /// Ends it; nothing is to be said of how a command ends that is told to.
    pub(super) fn stop(self) -> Option<Ended> {
        match self {
            Self::Embedded(server) => Some(server.stop()),
            Self::Command(server) => {
                server.stop().map(|error| Ended { statistics: None, error: Some(error) })
            }
        }
    }
}

/// Starts a server or finds the target, and confines this process to its processors.
pub(super) fn prepare(
    args: &RunArgs,
    command: Option<&command::Subject>,
    allowed: &[usize],
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(Prepared, Placement), Failure> {
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    if let Some(target) = &args.target {
        let addr = target::resolve(target, sender, events)?;
        // An address that can be bound is this machine's.
        let local = UdpSocket::bind((addr.ip(), 0)).is_ok();
        let placement =
            Placement::choose(allowed, args.placement.pin.as_deref(), None, local, false);
        pin(&placement.client).map_err(failed)?;
        let processes = local.then_some(Processes::At(addr));
        return Ok((Prepared { addr, processes, server: None, ready: None }, placement));
    }
    let placement = place(args, allowed);
    let cpus = placement.server.as_deref().unwrap_or_default();
    // The child inherits where it may run; so even what it does not pin itself stays there.
    pin(cpus).map_err(failed)?;
    if let Some(command) = command {
        let server = command::Server::start(command)?;
        server.await_ready(events)?;
        pin(&placement.client).map_err(failed)?;
        let (addr, processes) = (server.addr(), Some(server.processes()));
        let server = Some(Started::Command(server));
        return Ok((Prepared { addr, processes, server, ready: None }, placement));
    }
    let (server, ready) = start(&options(args, cpus), sender, events)?;
    pin(&placement.client).map_err(failed)?;
    let (addr, processes) = (ready.addr, Some(Processes::One(server.pid())));
    let server = Some(Started::Embedded(server));
    Ok((Prepared { addr, processes, server, ready: Some(ready) }, placement))
}

/// Several embedded servers on one port, and where both sides lie.
pub(crate) struct Several {
    pub(crate) servers: Vec<Server>,
    /// What the first of them said.
    pub(crate) ready: Ready,
    pub(crate) placement: Placement,
}

/// Starts so many embedded servers, and confines this process to the generator's processors.
pub(super) fn several(
    args: &RunArgs,
    count: u32,
    allowed: &[usize],
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<Several, Failure> {
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    let placement = place(args, allowed);
    let cpus = placement.server.as_deref().unwrap_or_default();
    let mut options =
        ServerOptions { shared_port: (count > 1).then_some(0), ..options(args, cpus) };
    pin(cpus).map_err(failed)?;
    let (first, ready) = start(&options, sender, events)?;
    let mut servers = vec![first];
    for _ in 1..count {
        options.shared_port = Some(ready.addr.port());
        servers.push(start(&options, sender, events)?.0);
    }
    pin(&placement.client).map_err(failed)?;
    Ok(Several { servers, ready, placement })
}

/// Where both sides of a run with an embedded server, or with a command, lie.
fn place(args: &RunArgs, allowed: &[usize]) -> Placement {
    let (client, server) = (args.placement.pin.as_deref(), args.placement.server_pin.as_deref());
    match args.server.place {
        Place::Apart => Placement::choose(allowed, client, server, true, true),
        Place::Steered => Placement::steered(allowed, client),
    }
}

/// What is asked of an embedded server on these processors.
fn options(args: &RunArgs, cpus: &[usize]) -> ServerOptions {
    let steered = args.server.place == Place::Steered;
    ServerOptions {
        backend: args.backend.clone(),
        service: args.service.name(),
        backlog: args.backlog,
        // Every processor has clients, so every one needs a shard.
        shards: args.server.shards.or(steered.then_some(cpus.len())),
        pin: format_list(cpus),
        steered,
        spin: args.server.server_spin.unwrap_or_default(),
        shared_port: None,
    }
}

/// Starts an embedded server, and waits until it is ready.
fn start(
    options: &ServerOptions,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(Server, Ready), Failure> {
    let ready = sender.clone();
    let server = Server::start(options, move |line| drop(ready.send(Event::Ready(line)))).map_err(
        |error| {
            let error = format!("cannot start a server: {}", describe(&error));
            Failure::new(exit::FAILURE, error)
        },
    )?;
    match await_ready(events)? {
        Some(ready) => Ok((server, ready)),
        None => Err(server.into_failure()),
    }
}

fn await_ready(events: &Receiver<Event>) -> Result<Option<Ready>, Failure> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Ready(ready)) => return Ok(ready),
            Ok(Event::Signal(signal)) => return Err(Failure::signal(signal)),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let error = format!("the server was not ready within {} s", READY_MAX.as_secs());
                return Err(Failure::new(exit::FAILURE, error));
            }
        }
    }
}
