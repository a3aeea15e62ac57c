//! `lockstep serve`.

use std::io;
use std::net::SocketAddr;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lockstep_core::{Echo, Hi};
use lockstep_sys::cpus::{CpuList, format_list, parse_list};
use lockstep_sys::limits::{self, raise_open_files};
use lockstep_sys::{address, errno, units};

use super::statistics::Statistics;
use super::{backend_parser, exit, print_error, resolve, signals, stdin};
use crate::output::{self, Stream, print, print_line};
use crate::server::shards;
use crate::{
    AcceptPause, BACKENDS, Backend, Config, Options, Server, ServiceFactory, StartError, Stop,
    by_name, chat,
};

/// Descriptors for everything but connections: listeners, rings, epoll, the standard streams.
const DESCRIPTORS_RESERVED: u64 = 32;

/// Headings of the groups of options in `--help`.
const PLACEMENT: &str = "Placement";
const OUTPUT: &str = "Output";

/// With brackets, which are links in a documentation comment.
const LISTEN_HELP: &str = "Address to listen on, such as [::1]:8898 or [fe80::1%eth0]:8898; of a \
    name with several, the first that this machine has. Port 0 lets the kernel choose";

/// Options of `lockstep serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// I/O model
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = backend_parser())]
    pub backend: String,

    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8898", help = LISTEN_HELP)]
    pub listen: String,

    /// Reply to each request
    #[arg(long, value_name = "NAME", default_value = "echo")]
    pub service: ServiceName,

    /// Length of each shard's listen queue, as asked of listen(2)
    #[arg(long, value_name = "N", default_value = "1024", value_parser = backlog)]
    pub backlog: u32,

    /// Share the port with other servers of the same user that have this option: the kernel spreads
    /// connections over all of them
    #[arg(long)]
    pub reuse_port: bool,

    /// Number of threads with a listener each [default: one per CPU; 1 with a thread per
    /// connection, or for chat]
    #[arg(long, value_name = "N", value_parser = threads, help_heading = PLACEMENT)]
    pub shards: Option<usize>,

    /// Number of threads that each serve one connection at a time, in place of a thread per
    /// connection; 1 is the tutorial's server
    #[arg(long, value_name = "N", value_parser = threads, help_heading = PLACEMENT)]
    pub threads: Option<usize>,

    /// CPUs for the shards, such as 0 or 0,2-3
    #[arg(long, value_name = "CPULIST", value_parser = parse_list, help_heading = PLACEMENT)]
    pub pin: Option<CpuList>,

    /// Shard that gets a connection
    #[arg(long, value_name = "HOW", default_value = "off", help_heading = PLACEMENT)]
    pub steer: Steer,

    /// Largest number of open connections; more wait in the listen queue [default: what the limit
    /// of descriptors allows]
    #[arg(long, value_name = "N", value_parser = count)]
    pub max_conns: Option<usize>,

    /// Listen, but accept nothing for TIME or, without TIME, until SIGUSR1
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "forever")]
    #[arg(value_parser = accept_pause)]
    pub accept_pause: Option<Duration>,

    /// Wait before each accept, in each shard or each of --threads
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration)]
    pub accept_delay: Duration,

    /// Busy-poll for up to TIME before sleeping (costs CPU); not with a thread per connection
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration)]
    pub spin: Duration,

    /// Close connections that move no byte for TIME; 0 never does
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration)]
    pub idle_timeout: Duration,

    /// Close connections still open TIME after SIGTERM; also the longest wait for a reader of the
    /// output that does not read
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub drain_timeout: Duration,

    /// Stop as on SIGTERM when standard input ends: for a server started through ssh, `docker exec
    /// -i` or `kubectl exec -i`, which should end with its starter
    #[arg(long)]
    pub until_stdin_closes: bool,

    /// Serve metrics for Prometheus at ADDR: /metrics, /healthz and /readyz, over HTTP without
    /// encryption or password
    #[arg(long, value_name = "ADDR", help_heading = OUTPUT)]
    pub metrics: Option<String>,

    /// Print every system call with its result and duration, on standard error
    #[arg(long, help_heading = OUTPUT, conflicts_with = "json")]
    pub trace: bool,

    /// Print the statistics as one JSON object and nothing else, on standard error
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,

    /// Print the choice of `auto` immediately, even with `json`.
    #[arg(skip)]
    pub print_choice: bool,
}

/// A service of this crate or of `lockstep-core`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ServiceName {
    /// the bytes of the request
    Echo,
    /// `hi`, then close: the tutorial's server
    Hi,
    /// a line from standard input: the tutorial's conversation
    Chat,
}

impl ServiceName {
    /// The name in options and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Hi => "hi",
            Self::Chat => "chat",
        }
    }

    fn factory(self, stop: &Arc<Stop>) -> ServiceFactory {
        let factory = match self {
            Self::Echo => ServiceFactory::new(|_socket| Echo),
            Self::Hi => ServiceFactory::new(|_socket| Hi),
            Self::Chat => chat::service(Arc::clone(stop)),
        };
        factory.named(self.name())
    }
}

/// Choice of the shard for a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Steer {
    /// the one pinned to the CPU where its packets are processed; spreads connections only if all
    /// of these CPUs process packets
    Cpu,
    /// any, by a hash of the addresses
    Off,
}

/// Runs a server until a signal stops it. Prints when it is ready and, at the end, its statistics.
pub fn serve(args: &ServeArgs) -> ExitCode {
    match run(args) {
        Ok(code) | Err(code) => ExitCode::from(code),
    }
}

fn run(args: &ServeArgs) -> Result<u8, u8> {
    check_stdin(args)?;
    let addrs = resolve("cannot listen on", &args.listen)?;
    let listen = first_local(&addrs);
    let mut options = options(args);
    if let Some(addr) = &args.metrics {
        options.metrics = Some(first_local(&resolve("cannot serve metrics on", addr)?));
    }
    let (backend, choice) = choose(&args.backend, &options);
    let name = backend.name();
    if let Some(choice) = choice.as_ref().filter(|_| !args.json || args.print_choice) {
        print_line(&format!("backend auto: {choice}"));
    }
    if args.threads.is_some() && !backend.thread_per_connection() {
        return Err(no_effect("--threads", name, |it| it.thread_per_connection()));
    }
    if !args.spin.is_zero() && !backend.can_busy_poll() {
        return Err(no_effect("--spin", name, |it| it.can_busy_poll()));
    }
    let stop = Arc::new(Stop::new(args.drain_timeout).map_err(|error| failed(&error))?);
    let accept_pause = AcceptPause::new(options.accept_pause).map_err(|error| failed(&error))?;
    let accept_pause = Arc::new(accept_pause);
    let config = Config { backend, listen, service: args.service.factory(&stop), options };
    output::bound(&stop);
    // Before the first connection, so that none is lost to a signal.
    signals::install(&stop, &accept_pause).map_err(|error| failed(&error))?;
    if args.until_stdin_closes {
        stdin::drain_at_end(&stop).map_err(|error| failed(&error))?;
    }
    let mut steered = false;
    let stats = Server::run(&config, stop, accept_pause, |server| {
        steered = server.is_steered();
        announce(server, &config, !args.json);
        for other in addrs.iter().filter(|addr| **addr != listen && !args.json) {
            let mut other = *other;
            other.set_port(server.addr().port());
            print_line(&format!("{} also is {other}: not listening there", args.listen));
        }
    });
    let stats = stats.map_err(|error| not_served(&config, &error))?;
    let statistics = Statistics {
        schema: 1,
        backend: name,
        auto: choice.as_deref(),
        service: args.service.name(),
        shards: stats.accepted_per_shard.len(),
        steer: if steered { "cpu" } else { "off" },
        syscalls_per_exchange: stats.syscalls_per_exchange(),
        stats: &stats,
    };
    let text = if args.json { statistics.json() + "\n" } else { statistics.text() };
    let _closed_pipe = print(Stream::Err, || text);
    Ok(if stats.drain_cut > 0 || output::was_lost() { exit::INCOMPLETE } else { 0 })
}

/// Returns the first address that this machine has, or the first.
fn first_local(addrs: &[SocketAddr]) -> SocketAddr {
    let local = addrs.iter().find(|addr| addrs.len() > 1 && address::is_local(**addr));
    *local.unwrap_or(&addrs[0])
}

/// Refuses `--until-stdin-closes` if standard input has another use, or has ended already.
fn check_stdin(args: &ServeArgs) -> Result<(), u8> {
    if args.until_stdin_closes && args.service == ServiceName::Chat {
        let error = "--until-stdin-closes cannot be used with --service chat";
        let hint = "chat reads its replies from standard input, and stops at its end when a \
                    request needs one";
        return Err(usage(error, hint));
    }
    if args.until_stdin_closes && stdin::is_at_end() {
        let error = "--until-stdin-closes: standard input has ended already";
        return Err(usage(error, "keep it open: ssh without -n, docker exec -i, kubectl exec -i"));
    }
    Ok(())
}

const SEE_HELP: &str = "see lockstep serve --help";

fn no_effect(option: &str, backend: &str, has_effect: fn(&dyn Backend) -> bool) -> u8 {
    let names = BACKENDS.iter().filter(|it| has_effect(**it)).map(|it| it.name());
    let hint = format!("use it with --backend {}", names.collect::<Vec<_>>().join(" or "));
    usage(&format!("{option} has no effect with --backend {backend}"), &hint)
}

fn usage(error: &str, hint: &str) -> u8 {
    print_error(error, Some(hint));
    exit::USAGE
}

fn options(args: &ServeArgs) -> Options {
    let limit = raise_open_files();
    let possible = usize::try_from(limit - DESCRIPTORS_RESERVED.min(limit / 2));
    let one_operator = args.service == ServiceName::Chat;
    Options {
        backlog: args.backlog,
        reuse_port: args.reuse_port,
        shards: args.shards.or(one_operator.then_some(1)),
        threads: args.threads,
        pin: args.pin.clone().unwrap_or_default(),
        steer: args.steer == Steer::Cpu,
        conns_max: args.max_conns.unwrap_or(possible.unwrap_or(usize::MAX)),
        accept_pause: args.accept_pause.unwrap_or_default(),
        accept_delay: args.accept_delay,
        metrics: None,
        trace: args.trace,
        spin: args.spin,
        idle_timeout: (!args.idle_timeout.is_zero()).then_some(args.idle_timeout),
        drain_timeout: args.drain_timeout,
    }
}

/// Returns the backend of that name or, for `auto`, the first that this machine supports, and how
/// it was chosen.
fn choose(name: &str, options: &Options) -> (&'static dyn Backend, Option<String>) {
    if let Some(backend) = by_name(name) {
        return (backend, None);
    }
    let mut passed_over = String::new();
    for backend in BACKENDS {
        match backend.probe(shards(*backend, options)) {
            Ok(how) => {
                let choice = format!("{} ({how}{passed_over})", backend.name());
                return (*backend, Some(choice));
            }
            Err(refused) => {
                passed_over += &format!("; not {}: {refused}", backend.name());
            }
        }
    }
    unreachable!("the blocking backend runs everywhere")
}

fn announce(server: &Server, config: &Config, notes: bool) {
    let metrics = server.metrics_addr().map_or_else(String::new, |at| format!(" metrics={at}"));
    let line = format!(
        "listening addr={} backend={} shards={} backlog={} pid={}{metrics}\n",
        server.addr(),
        config.backend.name(),
        server.shards(),
        config.options.backlog,
        process::id(),
    );
    let _closed_pipe = print(Stream::Out, || line);
    if notes && config.options.accept_pause == Duration::MAX {
        print_line(&format!("accepting nothing until SIGUSR1: kill -USR1 {}", process::id()));
    }
}

fn not_served(config: &Config, error: &StartError) -> u8 {
    match error {
        StartError::Unsupported(refused) => {
            let name = config.backend.name();
            let error = format!("backend {name} is not available: {refused}");
            print_error(&error, Some(&refused.hint));
            exit::UNSUPPORTED
        }
        StartError::Pin(error) => {
            let cpus = format_list(&config.options.pin);
            let hint = match error.raw_os_error() {
                Some(libc::EPERM | libc::ENOSYS) => "a sandbox forbids it; leave --pin out",
                _ => "lscpu lists the CPUs of this machine",
            };
            usage(&format!("cannot pin to CPUs {cpus}: {}", errno::describe(error)), hint)
        }
        StartError::Steer => usage(&error.to_string(), "such as --pin 0,1 --shards 2"),
        StartError::Listen(error) => {
            let hint = listen_hint(error, config.listen.port(), config.options.reuse_port);
            let error = format!("cannot listen on {}: {}", config.listen, errno::describe(error));
            print_error(&error, Some(hint));
            exit::ADDRESS
        }
        StartError::Metrics(error) => {
            let addr = config.options.metrics.expect("the server has been given an address");
            let hint = match error.raw_os_error() {
                Some(libc::EADDRINUSE)
                    if addr.port() == config.listen.port() && addr.port() != 0 =>
                {
                    "--listen has that port already; use another port, or 0"
                }
                _ => listen_hint(error, addr.port(), false),
            };
            let error = format!("cannot serve metrics on {addr}: {}", errno::describe(error));
            print_error(&error, Some(hint));
            exit::ADDRESS
        }
        StartError::Other(error) => failed(error),
    }
}

fn listen_hint(error: &io::Error, port: u16, reuse_port: bool) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) if port == 0 => {
            "no port is free (net.ipv4.ip_local_port_range; TIME_WAIT keeps one for a minute)"
        }
        Some(libc::EADDRINUSE) if reuse_port => {
            "the server there needs --reuse-port as well, and the same user"
        }
        Some(libc::EADDRINUSE) => "another server listens there; use another port, or 0",
        Some(libc::EACCES) => "ports below 1024 need root; use another port",
        Some(libc::ENOPROTOOPT) => "this kernel cannot steer; use --steer off",
        Some(libc::EADDRNOTAVAIL) => "this machine does not have that address",
        Some(libc::EMFILE | libc::ENFILE) => {
            "raise the limit of open descriptors (ulimit -n), or run fewer --shards"
        }
        _ => SEE_HELP,
    }
}

fn failed(error: &io::Error) -> u8 {
    let hint = error.raw_os_error().and_then(|code| limits::hint(&errno::name(code)));
    print_error(&format!("the server failed: {}", errno::describe(error)), hint.as_deref());
    exit::FAILURE
}

/// Parses the length of the pause before the first accept; `forever` is [`Duration::MAX`].
fn accept_pause(text: &str) -> Result<Duration, String> {
    if text == "forever" { Ok(Duration::MAX) } else { units::duration(text) }
}

fn count(text: &str) -> Result<usize, String> {
    units::count_positive(text).map(|count| count as usize)
}

/// Parses the argument of listen(2), an int.
fn backlog(text: &str) -> Result<u32, String> {
    match units::count(text)? {
        count @ 0..=0x7fff_ffff => Ok(count as u32),
        _ => Err("at most 2147483647".to_owned()),
    }
}

/// Parses a number of threads, with a limit that keeps a typing error from taking the machine down.
fn threads(text: &str) -> Result<usize, String> {
    match count(text)? {
        number @ ..=4096 => Ok(number),
        _ => Err("at most 4096".to_owned()),
    }
}
