//! Options that several commands share, and parsers of their values.
//!
//! An option whose default or number of values depends on the command (`--conns`, `--size`,
//! `--duration`, `--backend`, `--backlog`, ...) is a field of the command's own `Args`.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgGroup, Args, value_parser};
use lockstep_results::store;

use crate::clients::engine::Engine;
use crate::clients::pattern::SIZE_MAX;
use crate::clients::schedule::{Arrivals, SECOND};
use crate::exit::{self, Failure};
use crate::machine::placement::{Cpus, Place};
use crate::servers::remote;
use lockstep_sys::cpus::{CpuList, parse_list};
use lockstep_sys::units;

/// Headings of the groups of options in `--help`.
pub(crate) const LOAD: &str = "Load";
pub(crate) const SERVER: &str = "Server";
pub(crate) const PLACEMENT: &str = "Placement";
pub(crate) const OUTPUT: &str = "Output";

/// Options of a server that is started. They have no effect on a server that runs already.
pub(crate) const EMBEDDED: [&str; 10] = [
    "backend",
    "backlog",
    "shards",
    "server_spin",
    "server_pin",
    "place",
    "ready_timeout",
    "host",
    "via",
    "remote_lockstep",
];

/// Seeds are below this: JSON readers that have only floating-point numbers keep them.
pub(crate) const SEED_END: u64 = 1 << 53;

/// Options of the load generator.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = LOAD)]
pub struct GeneratorArgs {
    /// Distribution of the send times of an open loop [default: constant]
    #[arg(long, value_name = "NAME")]
    pub arrivals: Option<Arrivals>,

    /// Busy-poll for up to TIME before sleeping (costs CPU). Open loop: before each send; closed
    /// loop: for replies, backing off while none arrive
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub spin: Option<Duration>,

    /// System calls of the generator [default: io-uring in a closed loop where the kernel has it,
    /// else epoll]
    #[arg(long, value_name = "NAME")]
    pub engine: Option<Engine>,

    /// Number of load-generating threads [default: one for each CPU of the generator]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// Timeout for a connect or an exchange
    #[arg(
        long, value_name = "TIME", default_value = "5s", value_parser = units::duration_positive
    )]
    pub timeout: Duration,

    /// Number of connections opened per second [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub connect_rate: Option<f64>,

    /// Source addresses of the connections, in turn [default: the route's; to a loopback address,
    /// one of 127.0.0.0/8 for each third of the ports]
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    pub source: Vec<IpAddr>,

    /// Seed of all random choices: bytes sent, send times, order of runs [default: random]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(..SEED_END))]
    pub seed: Option<u64>,
}

/// Options of the embedded server.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = SERVER)]
pub struct ServerArgs {
    /// Number of shards of the embedded server [default: one for each of its CPUs; 1
    /// with a thread per connection]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub shards: Option<usize>,

    /// Let the embedded server busy-poll for up to TIME before it sleeps (costs CPU) [default: 0]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub server_spin: Option<Duration>,

    /// Timeout for a server to listen after it was started
    #[arg(long, value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = units::duration_positive)]
    pub ready_timeout: Duration,

    /// Start the servers through this command, followed by `lockstep serve ...`: 'ssh 10.0.0.2',
    /// 'ip netns exec srv', 'docker exec -i C', 'kubectl exec -i POD --'. They end with it, and
    /// read their CPU time from their metrics. With --host
    #[arg(long, value_name = "COMMAND", value_parser = remote::parse_command, requires = "host")]
    pub via: Option<String>,

    /// Address that the servers of --via listen at, without a port
    #[arg(long, value_name = "ADDR", value_parser = remote::parse_host, requires = "via")]
    pub host: Option<String>,

    /// Program to start through --via [default: lockstep, on the PATH there]
    #[arg(long, value_name = "PATH", value_parser = remote::parse_command, requires = "via")]
    pub remote_lockstep: Option<String>,

    /// CPUs of the embedded server in relation to the generator's
    #[arg(long, value_name = "HOW", default_value = "apart", help_heading = PLACEMENT)]
    pub place: Place,
}

impl ServerArgs {
    /// The placement for a record; `None` for the default.
    pub(crate) fn place_name(&self) -> Option<String> {
        (self.place != Place::Apart).then(|| self.place.name().to_owned())
    }

    /// The busy-poll time for a record, nanoseconds; `None` without busy-polling.
    pub(crate) fn spin_ns(&self) -> Option<u64> {
        self.server_spin.map(|spin| spin.as_nanos() as u64).filter(|&ns| ns > 0)
    }
}

/// CPUs of both sides.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = PLACEMENT)]
pub struct PlacementArgs {
    /// CPUs of the generator, such as 1 or 0,2-3; its threads take them in order [default:
    /// half of the cores; with --server-pin or a pinned target, the rest]
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub pin: Option<CpuList>,

    /// CPUs of the server [default: half of the cores; with --pin, the rest]
    #[arg(long, value_name = "CPULIST", value_parser = parse_list)]
    pub server_pin: Option<CpuList>,
}

impl PlacementArgs {
    /// Checks that this process can use the CPUs.
    ///
    /// # Errors
    ///
    /// [`exit::USAGE`] with the first CPU that it cannot use, or the reason why it cannot choose.
    pub(crate) fn check(&self, cpus: &Cpus) -> Result<(), Failure> {
        cpus.check("--pin", self.pin.as_deref())
            .and_then(|()| cpus.check("--server-pin", self.server_pin.as_deref()))
            .map_err(|error| {
                let failure = Failure::new(exit::USAGE, error);
                match cpus.permitted {
                    Ok(_) => failure,
                    Err(_) => failure.hint("leave it out: then nothing is pinned"),
                }
            })
    }
}

/// Destination of a result.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = OUTPUT, group(ArgGroup::new("files").multiple(true)))]
pub struct OutputArgs {
    /// Print the result as one JSON object and nothing else
    #[arg(long)]
    pub json: bool,

    /// Also write the result to a file; into a directory, under a generated name
    #[arg(short = 'o', long = "output", value_name = "FILE|DIR", group = "files")]
    #[arg(value_parser = file())]
    pub path: Option<PathBuf>,

    /// Overwrite files that exist
    #[arg(long, requires = "files")]
    pub force: bool,
}

impl OutputArgs {
    /// Checks before a measurement that its result can be written.
    ///
    /// # Errors
    ///
    /// [`exit::USAGE`] if the file exists and `--force` is absent, or no file can be created there.
    pub fn check(&self) -> Result<(), Failure> {
        self.path.as_ref().map_or(Ok(()), |path| check_output(path, self.force))
    }
}

/// Checks that a file can be written, or files in a directory, as [`OutputArgs::check`] does.
///
/// # Errors
///
/// [`exit::USAGE`] with the reason.
pub fn check_output(path: &Path, force: bool) -> Result<(), Failure> {
    store::check(path, force).map_err(|error| {
        let failure = Failure::file(exit::USAGE, path, &error);
        let directory = path.parent().filter(|parent| *parent != Path::new(""));
        match error.kind() {
            ErrorKind::NotFound if directory.is_some_and(|directory| !directory.is_dir()) => {
                failure.hint("create its directory first")
            }
            _ => failure,
        }
    })
}

/// Checks that a file can be written that is not a directory.
///
/// # Errors
///
/// [`exit::USAGE`] with the reason.
pub fn check_file(path: &Path, force: bool) -> Result<(), Failure> {
    match path.is_dir() {
        true => Err(Failure::file(exit::USAGE, path, &io::Error::from_raw_os_error(libc::EISDIR))),
        false => check_output(path, force),
    }
}

/// Parses the name of a file. `-` stands for standard output elsewhere.
pub(crate) fn file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.as_os_str() == "-" {
        true => Err("use --json for standard output, or ./- for a file of this name"),
        false => Ok(path),
    })
}

pub(crate) fn positive(text: &str) -> Result<u64, String> {
    match units::count(text)? {
        0 => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

/// Parses a count from 1 to `MOST`.
pub(crate) fn at_most<const MOST: u32>(text: &str) -> Result<u32, String> {
    match positive(text)? {
        count if count <= MOST.into() => Ok(count as u32),
        _ => Err(format!("must be at most {MOST}")),
    }
}

/// Lowest rate: one a day.
const RATE_MIN: f64 = 1.0 / 86_400.0;

/// Parses a rate per second, from one a day to one per nanosecond.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match units::rate(text)? {
        0.0 => Err("must be more than 0".to_owned()),
        rate if rate < RATE_MIN => Err("must be at least one a day, 0.042/h".to_owned()),
        rate if rate > SECOND as f64 => Err("must be at most 1000M, one per nanosecond".to_owned()),
        rate => Ok(rate),
    }
}

/// Parses a number of connections.
pub(crate) fn conns(text: &str) -> Result<u32, String> {
    at_most::<CONNS_MAX>(text)
}

/// Largest number of connections.
pub(crate) const CONNS_MAX: u32 = 1_000_000;

/// Parses the backlog of listen(2), an int.
pub(crate) fn backlog(text: &str) -> Result<u32, String> {
    match units::count(text)? {
        count @ 0..=0x7fff_ffff => Ok(count as u32),
        _ => Err("must be at most 2147483647".to_owned()),
    }
}

/// Parses a number of threads. The bound keeps a typing error from exhausting the machine.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    at_most::<4096>(text).map(|threads| threads as usize)
}

/// Parses a number of rounds.
pub(crate) fn rounds(text: &str) -> Result<u32, String> {
    at_most::<1000>(text)
}

/// Parses the size of a request.
pub(crate) fn size(text: &str) -> Result<u32, String> {
    match units::size(text)? {
        0 => Err("must be at least 1".to_owned()),
        size if size > SIZE_MAX.into() => Err("must be at most 1MiB".to_owned()),
        size => Ok(size as u32),
    }
}

/// Parses the name of a page. The suffix is required so that no record is overwritten by mistake.
pub(crate) fn page(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if extension == "html" => Ok(path),
        _ => Err("a page's name ends in .html".to_owned()),
    }
}
