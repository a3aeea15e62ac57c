//! Starting a server: its listeners, its shards and their end.
//!
//! A server stops in five steps, the same on every backend: (1) accept what already waits in the
//! listen queue, then close the listener (closing it first would reset those); (2) wish every
//! exchange to drain, and take the receive back from those that wait for a request; (3) send the
//! replies still owed, each followed by a FIN, and linger for the peer's; (4) at the drain
//! timeout, cut those that still go on; (5) return the counts when nothing is in flight.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use lockstep_core::{Echo, Hi, Service};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::chat::{Chat, Console};
use crate::listen_queue::Overflows;
use crate::listener::listen;
use crate::{
    Admission, Backend, Gate, Narrator, Options, ServiceKind, Shard, Stats, Stop, Unsupported,
};

/// What to start.
#[derive(Clone)]
pub struct Config {
    /// How bytes are moved.
    pub backend: &'static dyn Backend,
    /// Where to listen; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// What is said.
    pub service: ServiceKind,
    /// The rest.
    pub options: Options,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The backend cannot run here.
    Unsupported(Unsupported),
    /// The processors cannot be pinned to.
    Pin(io::Error),
    /// Connections are to be steered to shards that are not pinned to one processor each.
    Steer,
    /// The address cannot be listened on.
    Listen(io::Error),
    /// Something else that the kernel refused.
    Other(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(unsupported) => unsupported.fmt(f),
            Self::Steer => f.write_str("steering needs every shard pinned to one processor"),
            Self::Pin(error) | Self::Listen(error) | Self::Other(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// A running server: a thread per shard. It is told to stop by [`drain`](Self::drain), and
/// [`join`](Self::join) waits until it has.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    stop: Arc<Stop>,
    gate: Arc<Gate>,
    admission: Arc<Admission>,
    /// What had overflown before it listened.
    overflows: Option<Overflows>,
    narrator: Option<Arc<Narrator>>,
    steered: bool,
    shards: Vec<JoinHandle<io::Result<Stats>>>,
}

impl Server {
    /// Starts every shard. When it returns, the address can be connected to, and every shard has
    /// what it needs to serve.
    ///
    /// # Errors
    ///
    /// If the backend cannot run here, or not with so many shards; if the address cannot be had, or
    /// a thread cannot be started.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        config.backend.probe().map_err(StartError::Unsupported)?;
        try_to_pin(&config.options.pin)?;
        let count = shards(config);
        let pinned: Vec<_> =
            (0..count).map(|shard| share(&config.options.pin, shard, count)).collect();
        let steering = steering(&config.options, &pinned)?;
        let overflows = Overflows::now();
        let narrator = config.options.trace.then(|| Arc::new(Narrator::new("server")));
        let backlog = config.options.backlog;
        let reuse_port = config.options.reuse_port;
        let listeners = listen(config.listen, &steering, reuse_port, backlog, narrator.as_deref())
            .map_err(StartError::Listen)?;
        let addr = listeners[0].local_addr().map_err(StartError::Listen)?;
        let stop = Arc::new(Stop::new(config.options.drain_timeout).map_err(StartError::Other)?);
        let gate = Gate::new(config.options.accept_pause).map_err(StartError::Other)?;
        let gate = Arc::new(gate);
        let admission = Arc::new(Admission::new(config.options.conns_max));
        let console = Console::new(Arc::clone(&stop));
        let shards = Vec::with_capacity(count);
        let steered = (count > 1 || reuse_port) && steering[0].is_some();
        let mut server = Self { addr, stop, gate, admission, overflows, narrator, steered, shards };
        let mut readiness = Vec::with_capacity(count);
        for (index, (listener, pinned)) in listeners.into_iter().zip(pinned).enumerate() {
            let (config, console, (ready, is_ready)) = (config.clone(), console.clone(), channel());
            match server.spawn(config, index, listener, pinned, console, ready) {
                Ok(shard) => server.shards.push(shard),
                Err(error) => {
                    server.drain();
                    let _stats = server.join();
                    return Err(StartError::Other(error));
                }
            }
            readiness.push(is_ready);
        }
        // A shard that ends before it is ready takes its end of the channel along.
        let ready = readiness.iter().all(|shard| shard.recv().is_ok());
        if ready { Ok(server) } else { Err(server.not_ready()) }
    }

    /// Ends the shards that are ready, since one is not, and says why it is not.
    fn not_ready(self) -> StartError {
        self.drain();
        let error = self.join().err();
        let error = error.unwrap_or_else(|| io::Error::other("a shard ended before it began"));
        error.downcast().map_or_else(StartError::Other, StartError::Unsupported)
    }

    fn spawn(
        &self,
        config: Config,
        index: usize,
        listener: TcpListener,
        pinned: Vec<usize>,
        console: Arc<Console>,
        is_ready: Sender<()>,
    ) -> io::Result<JoinHandle<io::Result<Stats>>> {
        let (stop, gate) = (Arc::clone(&self.stop), Arc::clone(&self.gate));
        let (admission, narrator) = (Arc::clone(&self.admission), self.narrator.clone());
        thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
            // A shard that ends, for whatever reason, ends the others: a server that serves a
            // part of its connections is worse than none.
            let _ender = DrainOnDrop(&stop);
            pin(&pinned)?;
            let ready = || {
                let _starting = is_ready.send(());
                gate.pass(&stop) // nobody is accepted before, so no backend needs to know
            };
            let service = || -> Box<dyn Service> {
                match config.service {
                    ServiceKind::Echo => Box::new(Echo),
                    ServiceKind::Hi => Box::new(Hi),
                    ServiceKind::Chat => Box::new(Chat::new(Arc::clone(&console))),
                }
            };
            config.backend.serve(Shard {
                listener,
                options: &config.options,
                stop: &stop,
                admission: &admission,
                narrator: narrator.as_deref(),
                ready: &ready,
                service: &service,
            })
        })
    }

    /// Where it listens; the real port, also for port 0.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Whether each connection goes to a shard on the processor that its packets are processed on.
    pub fn is_steered(&self) -> bool {
        self.steered
    }

    /// Its stop signal, for whoever has to stop it from another thread.
    pub fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.stop)
    }

    /// What keeps it from accepting at first, for whoever has to open it from another thread.
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Stops accepting and lets the conversations end in order.
    pub fn drain(&self) {
        self.stop.drain();
    }

    /// Waits for every shard to end and adds up what they counted.
    ///
    /// # Errors
    ///
    /// The first shard's trouble that kept it from going on; the others were drained.
    pub fn join(self) -> io::Result<Stats> {
        let mut stats = Stats::new();
        let mut trouble = None;
        for shard in self.shards {
            match shard.join() {
                Ok(Ok(counted)) => {
                    stats.merge(&counted);
                    stats.accepted_per_shard.push(counted.accepted);
                }
                Ok(Err(error)) => trouble = trouble.or(Some(error)),
                Err(_panic) => trouble = Some(io::Error::other("a shard panicked")),
            }
        }
        stats.connections_peak = self.admission.peak();
        let overflown = Overflows::now().zip(self.overflows).map(|(now, then)| now.since(then));
        stats.listen_overflows = overflown.map(|it| it.overflows);
        stats.listen_drops = overflown.map(|it| it.drops);
        debug_assert!(trouble.is_some() || stats.accepted == stats.closed.total());
        trouble.map_or(Ok(stats), Err)
    }
}

struct DrainOnDrop<'a>(&'a Stop);

impl Drop for DrainOnDrop<'_> {
    fn drop(&mut self) {
        self.0.drain();
    }
}

fn shards(config: &Config) -> usize {
    let one_person = config.service == ServiceKind::Chat;
    let default = if one_person { 1 } else { config.backend.default_shards(cpus(&config.options)) };
    config.options.shards.unwrap_or(default).max(1)
}

/// The processors that shards may use: those to pin to, else those the process is allowed.
fn cpus(options: &Options) -> usize {
    match options.pin.len() {
        0 => sched_getaffinity(None).map_or(1, |set| set.count() as usize),
        pinned => pinned,
    }
}

/// A shard's share of the processors: every so many-th, or one of them in turn where there are
/// more shards than processors.
fn share(cpus: &[usize], shard: usize, shards: usize) -> Vec<usize> {
    match cpus.len() {
        0 => Vec::new(),
        len if shards >= len => vec![cpus[shard % len]],
        _ => cpus.iter().copied().skip(shard).step_by(shards).collect(),
    }
}

/// The processor whose connections each shard gets, if they are steered.
fn steering(options: &Options, pinned: &[Vec<usize>]) -> Result<Vec<Option<usize>>, StartError> {
    let one_each = pinned.iter().all(|cpus| cpus.len() == 1);
    match options.steer {
        Some(true) if !one_each => Err(StartError::Steer),
        Some(false) => Ok(vec![None; pinned.len()]),
        None if !one_each || pinned.len() != options.pin.len() => Ok(vec![None; pinned.len()]),
        Some(true) | None => Ok(pinned.iter().map(|cpus| Some(cpus[0])).collect()),
    }
}

/// Whether the processors can be pinned to, found out before anything is started: on a thread of
/// its own, since the caller is not to stay pinned.
fn try_to_pin(cpus: &[usize]) -> Result<(), StartError> {
    if cpus.is_empty() {
        return Ok(());
    }
    let alone = |cpu: &usize| pin(std::slice::from_ref(cpu));
    let try_all = || cpus.iter().try_for_each(alone).map_err(StartError::Pin);
    thread::scope(|scope| {
        let trial = thread::Builder::new().spawn_scoped(scope, try_all);
        let tried = trial.map_err(StartError::Other)?.join();
        tried.unwrap_or_else(|_panic| Err(StartError::Pin(io::ErrorKind::InvalidInput.into())))
    })
}

/// Pins the calling thread, and the threads it will start.
fn pin(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::{share, steering};
    use crate::Options;

    #[test]
    fn processors_are_shared_out_and_each_shard_has_one() {
        assert_eq!(share(&[], 0, 2), Vec::<usize>::new());
        assert_eq!(share(&[0, 1, 2], 0, 1), [0, 1, 2]);
        assert_eq!(share(&[4, 5, 6], 0, 2), [4, 6]);
        assert_eq!(share(&[4, 5, 6], 1, 2), [5]);
        assert_eq!(share(&[4, 5], 2, 3), [4]);
    }

    #[test]
    fn steering_is_the_default_where_each_shard_has_a_processor_of_its_own() {
        let steered = |steer, pin: &[usize], shards| {
            let options = Options { steer, pin: pin.to_vec(), ..Options::default() };
            let pinned: Vec<_> = (0..shards).map(|shard| share(pin, shard, shards)).collect();
            steering(&options, &pinned).ok()
        };
        assert_eq!(steered(None, &[4, 5], 2), Some(vec![Some(4), Some(5)]));
        assert_eq!(steered(Some(false), &[4, 5], 2), Some(vec![None, None]));
        for (pin, shards) in [(&[][..], 2), (&[4, 5], 1)] {
            assert_eq!(steered(None, pin, shards), Some(vec![None; shards]));
            assert_eq!(steered(Some(true), pin, shards), None, "{pin:?}, {shards} shards");
        }
        assert_eq!(steered(None, &[4], 2), Some(vec![None, None]));
        assert_eq!(steered(Some(true), &[4], 2), Some(vec![Some(4), Some(4)]));
    }
}
