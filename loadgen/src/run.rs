//! One measured run, from the options to the record.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use lockstep_results::{Environment, Floor, Record, store};

use crate::args::RunArgs;
use crate::command;
use crate::connection::Service;
use crate::exit::{self, Failure, Outcome};
use crate::failures::with_name;
use crate::floor;
use crate::laps::Over;
use crate::limits;
use crate::live::Live;
use crate::measure::{News, Run, measure};
use crate::pattern::Pattern;
use crate::placement::{self, Placement, pin};
use crate::procfs::{self, Processes};
use crate::record::{self, Asked, Subject, record};
use crate::signals;
use crate::socket::Target;
use crate::subject::{Ended, READY_MAX, Ready, Server, Wish};
use crate::units::format_cpu_list;
use crate::worker::Plan;

/// The longest that one of several addresses of a name is tried.
const PROBE_MAX: Duration = Duration::from_secs(1);

/// A run that has come to an end.
#[derive(Debug)]
pub struct Finished {
    /// The record.
    pub record: Record,
    /// The exit code.
    pub code: u8,
}

/// Carries out a run.
///
/// # Errors
///
/// When there is no result at all. Connections that fail are a result.
pub fn run(args: &RunArgs, argv: Vec<String>, live: &mut Live) -> Result<Finished, Failure> {
    if let Some(path) = &args.output {
        store::check(path, args.force)
            .map_err(|error| Failure::new(exit::USAGE, error.to_string()))?;
    }
    let session = Session::start()?;
    session.check(args)?;
    let floor = floor::brief(args);
    let job = Job { args, command: None, argv, label: String::new(), floor };
    session.run_live(&job, !live.prints(), &mut |over| live.tell(over))
}

/// What all runs of this process share.
#[derive(Debug)]
pub struct Session {
    allowed: Vec<usize>,
    sender: Sender<News>,
    news: Receiver<News>,
}

/// One run of a session.
#[derive(Debug)]
pub struct Job<'a> {
    /// The options.
    pub args: &'a RunArgs,
    /// The server to start in place of what the options name.
    pub command: Option<&'a command::Subject>,
    /// The command line, for the record.
    pub argv: Vec<String>,
    /// What the progress line begins with.
    pub label: String,
    /// What the machine can do at all, for the record; measured by who makes several runs once.
    pub floor: Option<Floor>,
}

impl Session {
    /// Learns where this process may run, and listens to signals from here on. Once a process.
    ///
    /// # Errors
    ///
    /// When either cannot be done.
    pub fn start() -> Result<Self, Failure> {
        let failed = |error: String| Failure::new(exit::FAILURE, error);
        let allowed = placement::allowed()
            .map_err(|error| failed(format!("cannot tell the CPUs: {}", with_name(&error))))?;
        let (sender, news) = channel();
        signals::watch(sender.clone())
            .map_err(|error| failed(format!("cannot catch signals: {}", with_name(&error))))?;
        Ok(Self { allowed, sender, news })
    }

    /// Checks whether there are the processors and descriptors that a run needs, and raises the
    /// limit of the latter.
    ///
    /// # Errors
    ///
    /// One line that names what is missing.
    pub fn check(&self, args: &RunArgs) -> Result<(), Failure> {
        check_cpus("--pin", args.pin.as_deref(), &self.allowed)?;
        check_cpus("--server-pin", args.server_pin.as_deref(), &self.allowed)?;
        let threads = args.threads.unwrap_or(self.allowed.len());
        limits::raise_descriptors(args.conns, threads).map_err(|error| {
            let hint = "raise it with `ulimit -n`, or take fewer connections";
            Failure::new(exit::USAGE, error).hint(hint)
        })
    }

    /// The signal that came between two runs.
    pub fn signal(&self) -> Option<i32> {
        self.news.try_iter().find_map(|news| match news {
            News::Signal(signal) => Some(signal),
            _ => None, // It was about a run that is over.
        })
    }

    /// Waits for a signal, at most so long.
    pub(crate) fn signal_within(&self, longest: Duration) -> Option<i32> {
        match self.news.recv_timeout(longest) {
            Ok(News::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// Starts the server that a job asks for, or finds its target, and confines this process to
    /// its processors.
    pub(crate) fn prepare(&self, job: &Job<'_>) -> Result<Prepared, Failure> {
        // The one before has confined this thread.
        pin(&self.allowed).map_err(|error| Failure::new(exit::FAILURE, error))?;
        prepare(job, &self.allowed, &self.sender, &self.news).map(|(prepared, _)| prepared)
    }

    /// Carries out a run.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub fn run(&self, job: &Job<'_>) -> Result<Finished, Failure> {
        self.run_live(job, true, &mut |_| ())
    }

    /// Carries out a run, with a progress line or without; `over` is told of each interval.
    fn run_live(
        &self,
        job: &Job<'_>,
        progress: bool,
        over: &mut dyn FnMut(&Over<'_>),
    ) -> Result<Finished, Failure> {
        // The run before has confined this thread; the environment is the machine's own state.
        pin(&self.allowed).map_err(|error| Failure::new(exit::FAILURE, error))?;
        carry_out(self, job, progress, over)
    }
}

fn carry_out(
    session: &Session,
    job: &Job<'_>,
    progress: bool,
    over: &mut dyn FnMut(&Over<'_>),
) -> Result<Finished, Failure> {
    let Session { allowed, sender, news } = session;
    let args = job.args;
    let environment = Environment::capture();
    let (subject, placement) = prepare(job, allowed, sender, news)?;
    let threads = args.threads.unwrap_or(placement.client.len().min(args.conns as usize));
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let run = Run {
        plan: Plan {
            target: Target::new(subject.addr),
            service: args.service,
            pattern: Pattern::new(args.size, seed),
            timeout: args.timeout,
            connect_rate: args.connect_rate,
            threads,
            open: args.open_loop(seed),
            interval_ns: args.interval().as_nanos() as u64,
        },
        conns: args.conns,
        requests: args.requests,
        warmup: args.warmup,
        duration: args.duration,
        placement,
        server: subject.processes,
        progress: progress.then(|| job.label.clone()),
    };
    let measured = measure(&run, sender, news, over)?;
    let ended = subject.server.and_then(Started::stop);
    let failures = &measured.tally.failures;
    let mut outcome = Outcome {
        signal: measured.signal,
        wrong_replies: failures.wrong_replies() > 0,
        connected: measured.tally.connected > 0,
        failures: failures.total() > 0 || ended.as_ref().is_some_and(|e| e.trouble.is_some()),
        valid: false,
        held: false,
    };
    let asked = Asked {
        args,
        argv: job.argv.clone(),
        seed,
        run: &run,
        subject: Subject { addr: subject.addr, ready: subject.ready, ended },
        floor: job.floor.clone(),
        environment,
    };
    let mut record = record(asked, measured);
    if let Some(command) = job.command {
        record.subject.name.clone_from(&command.name);
    }
    outcome.valid = record.valid;
    outcome.held = record.thresholds.iter().all(|threshold| threshold.held);
    Ok(Finished { record, code: outcome.code() })
}

/// Checks that there are the processors that an option names.
pub(crate) fn check_cpus(
    option: &str,
    cpus: Option<&[usize]>,
    allowed: &[usize],
) -> Result<(), Failure> {
    match cpus.unwrap_or_default().iter().find(|cpu| !allowed.contains(cpu)) {
        None => Ok(()),
        Some(cpu) => {
            let allowed = format_cpu_list(allowed);
            let error = format!("{option}: there is no CPU {cpu} for this process, only {allowed}");
            Err(Failure::new(exit::USAGE, error))
        }
    }
}

/// The server under test, while it runs.
pub(crate) struct Prepared {
    pub(crate) addr: SocketAddr,
    processes: Option<Processes>,
    server: Option<Started>,
    ready: Option<Ready>,
}

impl Prepared {
    /// Ends the server if it is ours; what it was, and what was wrong about its end.
    pub(crate) fn into_subject(
        self,
        service: Service,
    ) -> (lockstep_results::Subject, Option<String>) {
        let ended = self.server.and_then(Started::stop);
        let trouble = ended.and_then(|ended| ended.trouble);
        let subject = Subject { addr: self.addr, ready: self.ready, ended: None };
        (record::subject(&subject, service), trouble)
    }
}

/// A server that we have started.
enum Started {
    Embedded(Server),
    Command(command::Server),
}

impl Started {
    /// Ends it; nothing is to be said of how a command ends that is told to.
    fn stop(self) -> Option<Ended> {
        match self {
            Self::Embedded(server) => Some(server.stop()),
            Self::Command(server) => {
                server.stop().map(|trouble| Ended { statistics: None, trouble: Some(trouble) })
            }
        }
    }
}

/// Starts a server or finds the target, and confines this process to its processors.
fn prepare(
    job: &Job<'_>,
    allowed: &[usize],
    sender: &Sender<News>,
    news: &Receiver<News>,
) -> Result<(Prepared, Placement), Failure> {
    let failed = |error: String| Failure::new(exit::FAILURE, error);
    let args = job.args;
    let (client, server) = (args.pin.as_deref(), args.server_pin.as_deref());
    if let Some(target) = &args.target {
        let addr = resolve(target, sender, news)?;
        // An address that can be bound is this machine's.
        let local = UdpSocket::bind((addr.ip(), 0)).is_ok();
        let placement = Placement::choose(allowed, client, None, local, false);
        pin(&placement.client).map_err(failed)?;
        let processes = local.then(|| procfs::listener(addr)).flatten().map(Processes::One);
        return Ok((Prepared { addr, processes, server: None, ready: None }, placement));
    }
    let placement = Placement::choose(allowed, client, server, true, true);
    let cpus = placement.server.as_deref().unwrap_or_default();
    let wish = Wish {
        backend: args.backend.clone(),
        service: args.service.name(),
        backlog: args.backlog,
        shards: args.shards,
        pin: format_cpu_list(cpus),
    };
    // The child inherits where it may run; so even what it does not pin itself stays there.
    pin(cpus).map_err(failed)?;
    if let Some(command) = job.command {
        let server = command::Server::start(command)?;
        server.await_ready(news)?;
        pin(&placement.client).map_err(failed)?;
        let (addr, processes) = (server.addr(), Some(Processes::Group(server.pid())));
        let server = Some(Started::Command(server));
        return Ok((Prepared { addr, processes, server, ready: None }, placement));
    }
    let ready = sender.clone();
    let server = Server::start(&wish, move |line| drop(ready.send(News::Ready(line))))
        .map_err(|error| failed(format!("cannot start a server: {}", with_name(&error))))?;
    let ready = match await_ready(news)? {
        Some(ready) => ready,
        None => return Err(server.into_failure()),
    };
    pin(&placement.client).map_err(failed)?;
    let (addr, processes) = (ready.addr, Some(Processes::One(server.pid())));
    let server = Some(Started::Embedded(server));
    Ok((Prepared { addr, processes, server, ready: Some(ready) }, placement))
}

fn await_ready(news: &Receiver<News>) -> Result<Option<Ready>, Failure> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        match news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(News::Ready(ready)) => return Ok(ready),
            Ok(News::Signal(signal)) => return Err(Failure::signal(signal)),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let error = format!("the server was not ready within {} s", READY_MAX.as_secs());
                return Err(Failure::new(exit::FAILURE, error));
            }
        }
    }
}

/// Finds the address of a target, in a thread of its own, so that a signal is heard meanwhile.
fn resolve(
    target: &str,
    sender: &Sender<News>,
    news: &Receiver<News>,
) -> Result<SocketAddr, Failure> {
    if target.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        let error = format!("--target {target}: not an address with a port");
        let hint = "write it as 127.0.0.1:8898, [::1]:8898 or localhost:8898";
        return Err(Failure::new(exit::USAGE, error).hint(hint));
    }
    let failure = |error: String| Failure::new(exit::ADDRESS, error);
    let (sender, name) = (sender.clone(), target.to_owned());
    let lookup = move || drop(sender.send(News::Resolved(look_up(&name))));
    thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(lookup)
        .map_err(|error| failure(format!("cannot look up {target}: {}", with_name(&error))))?;
    loop {
        match news.recv() {
            Ok(News::Resolved(Ok(addr))) => return Ok(addr),
            Ok(News::Resolved(Err(error))) => {
                return Err(failure(format!("cannot connect to {target}: {error}")));
            }
            Ok(News::Signal(signal)) => return Err(Failure::signal(signal)),
            Ok(_) => {}
            Err(_) => return Err(failure(format!("cannot look up {target}"))),
        }
    }
}

/// The address of a name. Of several, the first that accepts a connection: `localhost` may stand
/// for `::1` and `127.0.0.1`, and a server may listen on only one of them.
fn look_up(name: &str) -> Result<SocketAddr, String> {
    let addrs: Vec<SocketAddr> =
        name.to_socket_addrs().map_err(|error| with_name(&error))?.collect();
    let (Some(&first), Some(&last)) = (addrs.first(), addrs.last()) else {
        return Err("the name has no address".to_owned());
    };
    if addrs.iter().all(|&addr| addr == first) {
        return Ok(first);
    }
    let accepts = |addr: &&SocketAddr| TcpStream::connect_timeout(addr, PROBE_MAX).is_ok();
    // When none accepts, connecting to the last says why.
    Ok(*addrs.iter().find(accepts).unwrap_or(&last))
}
