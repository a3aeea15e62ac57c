//! `lockstep serve`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::address::{self, Unresolved};
use super::statistics::Statistics;
use super::{exit, signals};
use crate::server::shards;
use crate::terminal::{print_error, print_line};
use crate::{
    AcceptPause, BACKENDS, Backend, Config, Options, Server, ServiceKind, StartError, Stop, by_name,
};
use lockstep_sys::cpus::{CpuList, parse_list};
use lockstep_sys::limits::raise_open_files;
use lockstep_sys::{errno, units};

/// What a server needs beside its connections: listeners, rings, events, the standard streams.
const DESCRIPTORS_RESERVED: u64 = 32;

/// The options of `lockstep serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// How bytes are moved: blocking, mio, io-uring; auto takes the best there is and says why
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = backend_name)]
    pub backend: String,

    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8898")]
    pub listen: String,

    /// What to say: echo (the same bytes), hi (the tutorial's one-shot), chat (you answer)
    #[arg(long, value_name = "NAME", default_value = "echo")]
    pub service: ServiceKind,

    /// The listen queue asked of listen(2), for each shard
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub backlog: u32,

    /// Share the port with other servers of this user that do so, too: each gets a part of the
    /// connections, by a hash of their addresses, and can be ended and started again by itself
    #[arg(long)]
    pub reuse_port: bool,

    /// Threads with a listener each [default: one a processor; blocking and chat: 1]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub shards: Option<usize>,

    /// blocking: N threads that each serve one conversation at a time; the rest wait in the
    /// listen queue. 1 is the tutorial's server [default: a thread for each connection]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// Processors to run on, such as 0 or 0,2-3, shared out over the shards
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub pin: Option<CpuList>,

    /// Which shard gets a connection: cpu, one pinned to the processor where its packets are
    /// processed; off, any [default: cpu if --pin names a processor for each shard]
    #[arg(long, value_name = "HOW", value_parser = steer)]
    pub steer: Option<bool>,

    /// Connections served at once; more wait in the listen queue, with io-uring accepted: up to a
    /// queue of them for each shard [default: what descriptors allow]
    #[arg(long, value_name = "N", value_parser = count)]
    pub max_conns: Option<usize>,

    /// Listen, but accept nothing: for so long, or until SIGUSR1
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "forever")]
    #[arg(value_parser = accept_pause)]
    pub accept_pause: Option<Duration>,

    /// Wait so long before each accept, as a slow operator would: each shard, or each of --threads
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration)]
    pub accept_delay: Duration,

    /// mio, io-uring: poll for so long before sleeping, if that is of use. Answers sooner and keeps
    /// the processor from whoever else is to run there, such as clients; 0 never does
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration)]
    pub spin: Duration,

    /// Close a connection on which nothing has moved for so long; 0 never does
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration)]
    pub idle_timeout: Duration,

    /// How long conversations may take to end after SIGTERM, before they are cut
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub drain_timeout: Duration,

    /// Tell every system call on the way, with its result and its time, on standard error
    #[arg(long)]
    pub trace: bool,

    /// Print the statistics as one JSON object, on standard error
    #[arg(long)]
    pub json: bool,
}

/// Runs a server until it is told to stop; prints when it is ready, and what it counted.
pub fn serve(args: &ServeArgs) -> ExitCode {
    match run(args) {
        Ok(code) | Err(code) => ExitCode::from(code),
    }
}

fn run(args: &ServeArgs) -> Result<u8, u8> {
    let listen = resolve(&args.listen)?;
    let options = options(args);
    let backend = choose(args, &options);
    if args.threads.is_some() && backend.name() != "blocking" {
        print_error("--threads is for --backend blocking", Some("the others take --shards"));
        return Err(exit::USAGE);
    }
    if !args.spin.is_zero() && backend.name() == "blocking" {
        print_error("--spin is for mio and io-uring", Some("a blocking call sleeps at once"));
        return Err(exit::USAGE);
    }
    let config = Config { backend, listen, service: args.service, options };
    let stop = Stop::new(args.drain_timeout).map_err(|error| failed(&error))?;
    let accept_pause =
        AcceptPause::new(config.options.accept_pause).map_err(|error| failed(&error))?;
    let (stop, accept_pause) = (Arc::new(stop), Arc::new(accept_pause));
    // Caught from before the first connection, so that none is lost to a signal.
    signals::obey(&stop, &accept_pause).map_err(|error| failed(&error))?;
    let mut steered = false;
    let stats = Server::run(&config, stop, accept_pause, |server| {
        steered = server.is_steered();
        announce(server, &config);
    });
    let stats = stats.map_err(|error| not_served(&config, &error))?;
    let statistics = Statistics {
        schema: 1,
        backend: backend.name(),
        service: args.service.name(),
        shards: stats.accepted_per_shard.len(),
        steer: if steered { "cpu" } else { "off" },
        syscalls_per_exchange: stats.syscalls_per_exchange(),
        stats: &stats,
    };
    let text = if args.json { statistics.json() + "\n" } else { statistics.text() };
    let _nobody_reads = io::stderr().write_all(text.as_bytes());
    Ok(if stats.drain_cut > 0 { exit::INCOMPLETE } else { 0 })
}

fn options(args: &ServeArgs) -> Options {
    let limit = raise_open_files();
    let possible = usize::try_from(limit - DESCRIPTORS_RESERVED.min(limit / 2));
    Options {
        backlog: args.backlog,
        reuse_port: args.reuse_port,
        shards: args.shards,
        threads: args.threads,
        pin: args.pin.clone().unwrap_or_default(),
        steer: args.steer,
        conns_max: args.max_conns.unwrap_or(possible.unwrap_or(usize::MAX)),
        accept_pause: args.accept_pause.unwrap_or_default(),
        accept_delay: args.accept_delay,
        trace: args.trace,
        spin: args.spin,
        idle_timeout: (!args.idle_timeout.is_zero()).then_some(args.idle_timeout),
        drain_timeout: args.drain_timeout,
    }
}

fn resolve(listen: &str) -> Result<SocketAddr, u8> {
    let found = address::resolve(listen).map_err(|Unresolved { cause, hint }| {
        print_error(&format!("cannot listen on {listen}: {cause}"), Some(hint));
        exit::ADDRESS
    })?;
    Ok(found[0])
}

/// The backend of the name, or for `auto` the first that runs here.
fn choose(args: &ServeArgs, options: &Options) -> &'static dyn Backend {
    if let Some(backend) = by_name(&args.backend) {
        return backend;
    }
    let mut passed_over = String::new();
    for backend in BACKENDS {
        match backend.probe(shards(*backend, args.service, options)) {
            Ok(how) => {
                print_line(&format!("backend auto: {} ({how}{passed_over})", backend.name()));
                return *backend;
            }
            Err(refused) => {
                passed_over += &format!("; not {}: {refused}", backend.name());
            }
        }
    }
    unreachable!("the blocking backend runs everywhere")
}

fn announce(server: &Server, config: &Config) {
    let line = format!(
        "listening addr={} backend={} shards={} backlog={} pid={}\n",
        server.addr(),
        config.backend.name(),
        server.shards(),
        config.options.backlog,
        process::id(),
    );
    let mut stdout = io::stdout();
    let _nobody_reads = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    if config.options.accept_pause == Duration::MAX {
        print_line(&format!("accepting nothing until SIGUSR1: kill -USR1 {}", process::id()));
    }
}

fn not_served(config: &Config, error: &StartError) -> u8 {
    let name = config.backend.name();
    match error {
        StartError::Unsupported(refused) => {
            print_error(
                &format!("backend {name} is not available: {refused}"),
                Some(&refused.hint),
            );
            exit::UNSUPPORTED
        }
        StartError::Pin(error) => {
            let cpus = &config.options.pin;
            let text = format!("cannot pin to processors {cpus:?}: {}", errno::text(error));
            print_error(&text, Some("lscpu shows which there are"));
            exit::USAGE
        }
        StartError::Steer => {
            print_error(&error.to_string(), Some("such as --pin 0,1 --shards 2"));
            exit::USAGE
        }
        StartError::Listen(error) => {
            let cause = errno::text(error);
            let text =
                format!("cannot listen on {}: {cause} ({})", config.listen, errno::name_of(error));
            print_error(&text, Some(listen_hint(error, config.options.reuse_port)));
            exit::ADDRESS
        }
        StartError::Other(error) => failed(error),
    }
}

fn listen_hint(error: &io::Error, reuse_port: bool) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) if reuse_port => {
            "what listens there does not share: another user's, or without --reuse-port"
        }
        Some(libc::EADDRINUSE) => "something listens there already; take another port, or 0",
        Some(libc::EACCES) => "ports below 1024 are root's; take another port",
        Some(libc::ENOPROTOOPT) => "this kernel cannot steer; --steer off does without",
        Some(libc::EADDRNOTAVAIL) => "this machine does not have that address",
        Some(libc::EMFILE | libc::ENFILE) => {
            "raise the limit of open descriptors (ulimit -n), or run fewer --shards"
        }
        _ => "see --listen",
    }
}

fn failed(error: &io::Error) -> u8 {
    print_error(&format!("the server failed: {}", errno::describe(error)), None);
    exit::FAILURE
}

fn backend_name(text: &str) -> Result<String, String> {
    let name = match text {
        "io_uring" | "uring" => "io-uring",
        "epoll" => "mio",
        name => name,
    };
    if name == "auto" || by_name(name).is_some() {
        return Ok(name.to_owned());
    }
    let names: Vec<_> = BACKENDS.iter().map(|backend| backend.name()).collect();
    Err(format!("there are {} and auto", names.join(", ")))
}

fn steer(text: &str) -> Result<bool, String> {
    match text {
        "cpu" => Ok(true),
        "off" => Ok(false),
        _ => Err("there are cpu and off".to_owned()),
    }
}

/// How long to accept nothing; `forever` stands for no time at all.
fn accept_pause(text: &str) -> Result<Duration, String> {
    if text == "forever" { Ok(Duration::MAX) } else { units::duration(text) }
}

fn count(text: &str) -> Result<usize, String> {
    units::count_positive(text).map(|count| count as usize)
}

/// Threads to start: a bound that keeps a slip of the keyboard from taking the machine down.
fn threads(text: &str) -> Result<usize, String> {
    match count(text)? {
        number @ ..=4096 => Ok(number),
        _ => Err("at most 4096".to_owned()),
    }
}
