//! Preparation of a run: the server is started or found, and both sides are confined to their CPUs.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use lockstep_results::{Floor, Subject};

use crate::clients::connection::Service;
use crate::event::{Event, Ready};
use crate::exit::{self, Failure};
use crate::machine::placement::{Cpus, Place, Placement, pin};
use crate::machine::processes::Processes;
use crate::machine::usage::capacity_of;
use crate::ranks::Member;
use crate::run::args::RunArgs;
use crate::run::server_page::ServerPage;
use crate::servers::embedded::{Ended, Server, ServerOptions};
use crate::servers::metrics::Url;
use crate::servers::remote::{self, Remote};
use crate::servers::{command, target};
use lockstep_sys::address::is_local;
use lockstep_sys::cpus::format_list;
use lockstep_sys::errno::describe;

/// Hint for a server on another host that is not like this program.
const SAME_VERSION: &str =
    "install the same version on both hosts; --remote-lockstep PATH names another program";

/// One run of a session.
#[derive(Debug)]
pub struct Job<'a> {
    /// Options of the run.
    pub args: &'a RunArgs,
    /// Server to start instead of the one that the options name.
    pub command: Option<&'a command::Subject>,
    /// Command line, for the record.
    pub argv: Vec<String>,
    /// Label of the progress line.
    pub label: String,
    /// Lower bound of the machine's cost, for the record.
    pub floor: Option<Floor>,
    /// Membership in a run of ranks.
    pub member: Option<&'a Member>,
}

/// The server under test, while it runs.
pub(crate) struct Prepared {
    pub(crate) addr: SocketAddr,
    /// Processes of the server, if it is on this machine.
    pub(super) processes: Option<Processes>,
    /// Page on which the server publishes its usage.
    pub(super) page: Option<ServerPage>,
    server: Option<Started>,
    ready: Option<Ready>,
}

/// A server that was started for the run.
enum Started {
    Embedded(Server),
    Command(command::Server),
    Remote(remote::Server),
}

impl Prepared {
    /// Reads the CPUs that the server may use, if it is on this machine.
    pub(crate) fn cpus(&self) -> Vec<usize> {
        self.processes.and_then(cpus_of).unwrap_or_default()
    }

    /// Ends the server if it was started for the run. Returns its description, and what it reported
    /// at its end: of a command, only an error.
    pub(crate) fn stop(self, job: &Job<'_>) -> (Subject, Option<Ended>) {
        let ended = self.server.and_then(|server| match server {
            Started::Embedded(server) => Some(server.stop()),
            Started::Remote(server) => Some(server.stop()),
            Started::Command(server) => {
                server.stop().map(|error| Ended { statistics: None, error: Some(error) })
            }
        });
        let (args, ready) = (job.args, self.ready);
        let addr = self.addr.to_string();
        let name = match (job.command, &ready) {
            (Some(command), _) => &command.name,
            (None, Some(ready)) => &ready.backend,
            (None, None) => &addr,
        };
        let subject = Subject {
            name: name.clone(),
            backend: ready.as_ref().map(|ready| ready.backend.clone()),
            service: args.service.name().to_owned(),
            via: args.server.via.clone(),
            shards: ready.as_ref().map(|ready| ready.shards),
            backlog: ready.as_ref().map(|ready| ready.backlog),
            spin_ns: ready
                .and(args.server.server_spin)
                .map(|spin| spin.as_nanos() as u64)
                .filter(|&ns| ns > 0),
            addr,
        };
        (subject, ended)
    }
}

/// Reads the CPUs that a server may use; `None` if its processes are not readable.
fn cpus_of(server: Processes) -> Option<Vec<usize>> {
    Some(capacity_of(&server.list(&[]))?.1)
}

/// Starts the server of a job or finds its target, and confines this process to its CPUs.
pub(super) fn prepare(
    job: &Job<'_>,
    cpus: &Cpus,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(Prepared, Placement), Failure> {
    let args = job.args;
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    if let Some(target) = &args.target {
        let addr = target::resolve(target, sender, events)?;
        let lasting = args.service == Service::Echo;
        let is_local = is_local(addr);
        let open = |url| ServerPage::open(url, is_local, events);
        let page = args.server_metrics.as_ref().map(open).transpose()?;
        let published = page.as_ref().filter(|(page, _)| page.is_here).map(|(_, reading)| reading);
        let processes = is_local.then_some(Processes::At { addr, lasting });
        let processes = processes.or_else(|| published?.process_here().map(Processes::One));
        let of_server = match published.map(|reading| reading.cpus.clone()) {
            Some(cpus) if !cpus.is_empty() => Some(cpus),
            _ => processes.map(|it| cpus_of(it).unwrap_or_else(|| cpus.given.clone())),
        };
        let named = args.placement.pin.as_deref();
        let placement = Placement::of_client(cpus, named, of_server.as_deref());
        pin(&placement.client).map_err(failed)?;
        let page = page.map(|(page, _)| page);
        return Ok((Prepared { addr, processes, page, server: None, ready: None }, placement));
    }
    if let (Some(via), Some(host)) = (&args.server.via, &args.server.host) {
        return remote(job, cpus, via, host, sender, events);
    }
    let placement = place(args, cpus);
    let of_server = placement.server.as_deref().unwrap_or_default();
    // The child inherits the CPUs, so threads that it does not pin itself stay there, too.
    pin(of_server).map_err(failed)?;
    if let Some(command) = job.command {
        let server = command::Server::start(command)?;
        server.await_ready(args.server.ready_timeout, events)?;
        pin(&placement.client).map_err(failed)?;
        let (addr, processes) = (server.addr(), Some(server.processes()));
        let server = Some(Started::Command(server));
        let prepared = Prepared { addr, processes, page: None, server, ready: None };
        return Ok((prepared, placement));
    }
    let options = options(args, cpus, of_server);
    let (server, ready) = start(&options, args.server.ready_timeout, sender, events)?;
    pin(&placement.client).map_err(failed)?;
    let (addr, processes) = (ready.addr, Some(Processes::One(server.pid())));
    let server = Some(Started::Embedded(server));
    Ok((Prepared { addr, processes, page: None, server, ready: Some(ready) }, placement))
}

/// Starts a server through the prefix `via`, and confines this process to its CPUs: to all of them,
/// unless the server is on this machine.
fn remote(
    job: &Job<'_>,
    cpus: &Cpus,
    via: &str,
    host: &str,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(Prepared, Placement), Failure> {
    let args = job.args;
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    let bracketed = if host.contains(':') { format!("[{host}]:0") } else { format!("{host}:0") };
    let mut addr = target::resolve(&bracketed, sender, events)?;
    let remote = Remote {
        listen: remote::listen(host, addr),
        via: via.to_owned(),
        lockstep: args.server.remote_lockstep.clone().unwrap_or_else(|| "lockstep".to_owned()),
    };
    let options = ServerOptions {
        // The CPUs are those of the other machine.
        pin: args.placement.server_pin.as_deref().map(format_list),
        ..options(args, cpus, &[])
    };
    let ready = sender.clone();
    let server = remote::Server::start(&remote, &options, move |line| {
        drop(ready.send(Event::Ready(line)));
    })
    .map_err(|error| failed(format!("cannot start a server: {}", describe(&error))))?;
    let timeout = args.server.ready_timeout;
    let ready = match await_ready(timeout, events)? {
        Some(Some(ready)) => ready,
        Some(None) => return Err(server.into_failure(None)),
        None => return Err(server.into_failure(Some(timeout))),
    };
    server.print_lines();
    addr.set_port(ready.addr.port());
    let metrics = ready.metrics.ok_or_else(|| {
        failed(format!("the lockstep started through '{via}' does not publish its metrics"))
            .hint(SAME_VERSION)
    })?;
    let is_local = is_local(addr);
    let mut page = addr;
    page.set_port(metrics.port());
    let (page, reading) = ServerPage::open(&Url::at(page), is_local, events)?;
    reading.check_version().map_err(|error| {
        let error = format!("cannot use the lockstep started through '{via}': {error}");
        Failure::new(exit::UNAVAILABLE, error).hint(SAME_VERSION)
    })?;
    let of_server = Some(reading.cpus.as_slice()).filter(|cpus| page.is_here && !cpus.is_empty());
    let placement = Placement::of_client(cpus, args.placement.pin.as_deref(), of_server);
    pin(&placement.client).map_err(failed)?;
    let at = Processes::At { addr, lasting: args.service == Service::Echo };
    let processes = reading.process_here().map(Processes::One).or(is_local.then_some(at));
    let server = Some(Started::Remote(server));
    Ok((Prepared { addr, processes, page: Some(page), server, ready: Some(ready) }, placement))
}

/// Several embedded servers on one port.
pub(crate) struct Several {
    pub(crate) servers: Vec<Server>,
    /// Ready line of the first.
    pub(crate) ready: Ready,
    pub(crate) placement: Placement,
}

/// Starts `count` embedded servers on one port, and confines this process to the generator's CPUs.
pub(super) fn several(
    args: &RunArgs,
    count: u32,
    cpus: &Cpus,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<Several, Failure> {
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    let placement = place(args, cpus);
    let of_server = placement.server.as_deref().unwrap_or_default();
    let mut options =
        ServerOptions { shared_port: (count > 1).then_some(0), ..options(args, cpus, of_server) };
    pin(of_server).map_err(failed)?;
    let timeout = args.server.ready_timeout;
    let (first, ready) = start(&options, timeout, sender, events)?;
    let mut servers = vec![first];
    for _ in 1..count {
        options.shared_port = Some(ready.addr.port());
        servers.push(start(&options, timeout, sender, events)?.0);
    }
    pin(&placement.client).map_err(failed)?;
    Ok(Several { servers, ready, placement })
}

/// Chooses the CPUs of both sides of a run with a server of its own.
pub(super) fn place(args: &RunArgs, cpus: &Cpus) -> Placement {
    let (client, server) = (args.placement.pin.as_deref(), args.placement.server_pin.as_deref());
    match args.server.place {
        Place::Apart => Placement::of_both(cpus, client, server),
        Place::Steered => {
            let threads = args.generator.threads.unwrap_or(usize::MAX).min(args.conns as usize);
            Placement::steered(cpus, client, threads)
        }
    }
}

/// Options of an embedded server on these CPUs.
fn options(args: &RunArgs, cpus: &Cpus, of_server: &[usize]) -> ServerOptions {
    let steered = args.server.place == Place::Steered;
    ServerOptions {
        backend: args.backend.clone(),
        service: args.service.name(),
        backlog: args.backlog,
        // Every CPU has clients, so every one needs a shard.
        shards: args.server.shards.or(steered.then_some(of_server.len())),
        pin: cpus.permitted.is_ok().then(|| format_list(of_server)),
        steered,
        spin: args.server.server_spin.unwrap_or_default(),
        shared_port: None,
    }
}

/// Starts an embedded server and waits until it is ready.
fn start(
    options: &ServerOptions,
    ready_timeout: Duration,
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
    match await_ready(ready_timeout, events)? {
        Some(Some(ready)) => Ok((server, ready)),
        Some(None) => Err(server.into_failure()),
        None => {
            let timeout = humantime::format_duration(ready_timeout);
            let error = format!("the server was not ready within --ready-timeout {timeout}");
            Err(Failure::new(exit::FAILURE, error))
        }
    }
}

/// Waits for a readiness line, which is `None` if the server ended before; `None` after the
/// timeout.
fn await_ready(
    timeout: Duration,
    events: &Receiver<Event>,
) -> Result<Option<Option<Ready>>, Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Ready(ready)) => return Ok(Some(ready)),
            Ok(Event::Signal(signal)) => return Err(Failure::signal(signal)),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}
