//! Worker processes, which generate the load together; from both sides.
//!
//! A worker opens its connections, and meanwhile prints the number of those that are open, a line
//! each. It prints a line of JSON when all are open, reads a line with the instant at which the
//! loop begins, and prints what it counted. Instants are of the monotonic clock, which all
//! processes share.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lockstep_results::{Latencies, Latency};
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clients::connection::Service;
use crate::clients::engine::Engine;
use crate::clients::pattern::Pattern;
use crate::clients::plan::{Plan, Share};
use crate::clients::socket::Target;
use crate::exit::{self, Failure};
use crate::machine::placement::Placement;
use crate::machine::{children, limits, pauses};
use crate::progress;
use crate::run::Session;
use crate::run::measure::{Run, measure};
use crate::run::observer::Observer;
use crate::run::warmup::Warmup;
use lockstep_sys::errno::describe;
use lockstep_sys::memory;

/// The options of the hidden `loadgen sweep-worker`.
#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// Process that started this one, and that it ends with.
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// The load, as JSON.
    spec: String,
}

/// Load of one worker process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Spec {
    pub(super) engine: String,
    pub(super) addr: SocketAddr,
    pub(super) conns: u32,
    pub(super) sources: Vec<IpAddr>,
    /// Index of the first source address.
    pub(super) source: u32,
    pub(super) size: u32,
    pub(super) seed: u64,
    pub(super) cpus: Vec<usize>,
    pub(super) threads: usize,
    pub(super) timeout: Duration,
    pub(super) connect_rate: Option<f64>,
    pub(super) spin: Duration,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// First line of a worker: its connections are open.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Opened {
    /// Before the first connect.
    pub(super) from_ns: u64,
    /// After the last connection's first exchange.
    pub(super) until_ns: u64,
}

/// Second line of a worker: its counts.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Counted {
    /// Exchanges in the measured window.
    pub(super) exchanges: u64,
    /// Exchanges in all.
    pub(super) total: u64,
    /// CPU time of the threads in the measured window.
    pub(super) cpu_ns: u64,
    pub(super) unserved: u64,
    pub(super) wrong_replies: u64,
    /// Connections that failed.
    pub(super) failed: u64,
    pub(super) latency: Latencies,
    /// Requests without a reply when the run ended, and the longest time that one had waited.
    pub(super) outstanding: u64,
    pub(super) longest_wait_ns: u64,
    /// Connections without an exchange in the measured window.
    pub(super) silent: u64,
    /// Times for which this process was stopped, and the machine suspended.
    pub(super) stopped: Duration,
    pub(super) suspended: Duration,
}

/// The monotonic clock, nanoseconds.
pub(super) fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Worker processes. Dropping them ends them.
pub(super) struct Workers(Vec<Worker>);

struct Worker {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    conns: u32,
    /// Connections opened so far.
    opened: Arc<AtomicU64>,
    /// The end of a process that has not printed what it counted.
    lost: Option<ExitStatus>,
}

impl Workers {
    /// Starts a process for each spec; each opens its connections immediately.
    pub(super) fn start(specs: &[Spec]) -> Result<Self, Failure> {
        let workers: io::Result<Vec<Worker>> = specs.iter().map(Worker::start).collect();
        workers
            .map(Self)
            .map_err(|error| failed(format!("cannot start a process: {}", describe(&error))))
    }

    /// Sends the instant at which the loop begins. [`receive`](Self::receive) finds out which
    /// worker has ended before.
    pub(super) fn begin(&mut self, begin_ns: u64) {
        for worker in &mut self.0 {
            let _ended = writeln!(worker.stdin, "{begin_ns}");
        }
    }

    /// Receives the next message of each worker that has not ended. Meanwhile calls `opening` with
    /// the number of connections opened so far.
    ///
    /// # Errors
    ///
    /// If all workers have ended, or on a signal.
    pub(super) fn receive<T: DeserializeOwned>(
        &mut self,
        session: &Session,
        opening: impl Fn(u64),
    ) -> Result<Vec<T>, Failure> {
        let mut messages = Vec::new();
        for index in 0..self.0.len() {
            while self.0[index].lost.is_none() {
                match self.0[index].lines.recv_timeout(progress::INTERVAL) {
                    Ok(line) => {
                        let message = serde_json::from_str(&line).map_err(|error| {
                            failed(format!("a process of the generator: {error}"))
                        })?;
                        messages.push(message);
                        break;
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        opening(self.0.iter().map(|worker| worker.opened.load(Relaxed)).sum());
                    }
                    Err(RecvTimeoutError::Disconnected) => self.0[index].reap()?,
                }
                session.check_signal()?;
            }
        }
        match self.0.first().and_then(|worker| worker.lost.filter(|_| messages.is_empty())) {
            // It has printed the cause.
            Some(status) if status.code().is_some_and(|code| code > 0) => {
                Err(Failure::new(status.code().unwrap_or_default() as u8, ""))
            }
            Some(status) => Err(failed(format!("all processes of the generator ended: {status}"))),
            None => Ok(messages),
        }
    }

    /// Number of connections of the workers that have ended early.
    pub(super) fn lost_conns(&self) -> u64 {
        let lost = self.0.iter().filter(|worker| worker.lost.is_some());
        lost.map(|worker| u64::from(worker.conns)).sum()
    }

    /// Describes the end of the workers that have ended early, if any has.
    pub(super) fn lost(&self) -> Option<String> {
        let mut lost = self.0.iter().filter_map(|worker| worker.lost);
        let status = lost.next()?;
        Some(format!(
            "process-lost: {} of {} generator processes ended early ({status}), with {} connections",
            lost.count() + 1,
            self.0.len(),
            self.lost_conns()
        ))
    }
}

impl Worker {
    fn start(spec: &Spec) -> io::Result<Self> {
        let mut child = children::this_program("sweep-worker")
            .arg("--")
            .arg(serde_json::to_string(spec)?)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        let opened = Arc::new(AtomicU64::new(0));
        // From here on, dropping it ends the process.
        let worker =
            Self { child, stdin, lines, conns: spec.conns, opened: opened.clone(), lost: None };
        memory::thread("worker-stdout")?.spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                match line.parse() {
                    Ok(count) => opened.store(count, Relaxed),
                    Err(_) => drop(sender.send(line)),
                }
            }
        })?;
        Ok(worker)
    }

    /// Waits for the end of a process that has closed its standard output.
    fn reap(&mut self) -> Result<(), Failure> {
        let status = self.child.wait();
        let failure = |error| failed(format!("a process of the generator: {}", describe(&error)));
        self.lost = Some(status.map_err(failure)?);
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn failed(error: String) -> Failure {
    Failure::new(exit::FAILURE, error)
}

/// Runs a worker process.
pub fn worker(args: &WorkerArgs) -> ExitCode {
    if !children::end_with(args.parent) {
        return ExitCode::FAILURE;
    }
    match run(&args.spec) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

fn run(spec: &str) -> Result<(), Failure> {
    let spec: Spec = serde_json::from_str(spec).map_err(|error| failed(error.to_string()))?;
    limits::raise_descriptors(spec.conns, spec.threads).map_err(failed)?;
    let run = Run {
        plan: Plan {
            engine: Engine::from_str(&spec.engine, false).map_err(failed)?,
            target: Target::from_sources(spec.addr, &spec.sources)
                .map_err(failed)?
                .from_source(spec.source),
            service: Service::Echo,
            pattern: Pattern::new(spec.size, spec.seed),
            timeout: spec.timeout,
            connect_rate: spec.connect_rate,
            threads: spec.threads,
            share: Share::WHOLE,
            open: None,
            spin: spec.spin,
            slices: None,
            interval_ns: spec.duration.as_nanos() as u64,
        },
        seed: spec.seed,
        conns: spec.conns,
        requests: None,
        warmup: Warmup::Fixed(spec.warmup),
        duration: Some(spec.duration),
        placement: Placement { client: spec.cpus, server: None },
        server: None,
        page: None,
        progress: None,
    };
    pauses::watch().map_err(|error| failed(describe(&error)))?;
    let (sender, events) = channel();
    let measured = measure(&run, None, &sender, &events, &mut Controlled)?;
    let (totals, window, pauses) = (measured.totals, measured.intervals.total, measured.pauses);
    let counted = Counted {
        exchanges: window.exchanges,
        total: totals.exchanges,
        cpu_ns: totals.usage.map_or(0, |usage| usage.cpu_ns),
        unserved: totals.unserved,
        wrong_replies: totals.failures.wrong_replies(),
        latency: Latencies {
            connect: Latency::from_histogram(&totals.connect),
            first_exchange: Latency::from_histogram(&totals.first_exchange),
            exchange: Latency::with_unanswered(&window.exchange, totals.unanswered),
            ..Latencies::default()
        },
        failed: totals.failures.total(),
        outstanding: totals.outstanding,
        longest_wait_ns: totals.longest_wait_ns,
        silent: totals.silent(),
        stopped: pauses.stopped,
        suspended: pauses.suspended,
    };
    print(&counted).map_err(|error| failed(describe(&error)))
}

/// Lets the parent process decide when the loop begins.
struct Controlled;

impl Observer for Controlled {
    fn opening(&mut self, opened: u64) {
        // A parent that has ended is found by `opened`.
        let _ended = print(&opened);
    }

    fn opened(&mut self, _server: &[Pid], opening: Duration) {
        let until_ns = monotonic_ns();
        let from_ns = until_ns.saturating_sub(opening.as_nanos() as u64);
        let mut line = String::new();
        let read =
            print(&Opened { from_ns, until_ns }).and_then(|()| io::stdin().read_line(&mut line));
        match (read, line.trim().parse::<u64>()) {
            (Ok(_), Ok(begin_ns)) => {
                thread::sleep(Duration::from_nanos(begin_ns.saturating_sub(monotonic_ns())));
            }
            // The parent has ended; so will this process.
            _ => std::process::exit(exit::FAILURE.into()),
        }
    }
}

/// Prints a line of JSON.
fn print(message: &impl Serialize) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, message)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}
