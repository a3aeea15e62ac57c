//! What this machine can do at all: exchanges without any event loop, and the calls a loop makes.
//!
//! Every form is measured in several rounds, the forms in turn, so that what drifts is common to
//! them; the result is the median of the rounds. Every byte is verified, as in a run.

mod calls;
mod one_thread;
mod pairs;
mod two_threads;

use std::io;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use lockstep_results::{Calls, Environment, Exchange, Floor, FloorReport, SCHEMA, Spread};

use crate::clients::connection::Service;
use crate::clients::pattern::Pattern;
use crate::exit::{self, Failure};
use crate::machine::placement::{self, Placement, pin};
use crate::machine::{limits, netns};
use crate::output::OutputArgs;
use crate::run::args::{CpuList, RunArgs, cpu_list, size};
use crate::run::check_cpus;
use crate::units;
use lockstep_sys::errno::describe;
use pairs::Pair;

/// The numbers of connections that `loadgen floor` measures with: one, what fits the caches, and
/// what does not.
const CONNS: [u32; 3] = [1, 64, CONNS_MAX];

/// More would need more descriptors than many a process may have.
const CONNS_MAX: u32 = 1000;

/// Rounds: an odd number, so that the median is a value that was measured.
const ROUNDS: u32 = 7;

/// Rounds of the short form.
const ROUNDS_BRIEF: u32 = 5;

/// How long the short form takes for each number of connections, without connecting.
const BRIEF: Duration = Duration::from_millis(80);

/// The part of the time that both spinning threads must have had their processors: what other
/// programs took is no property of the machine.
const UNDISTURBED: f64 = 0.9;

/// The options of `loadgen floor`.
#[derive(Args, Clone, Debug)]
pub struct FloorArgs {
    /// Bytes in a request, at most 1MiB
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: u32,

    /// How long to measure, all in all
    #[arg(short, long, value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = units::duration_positive)]
    pub duration: Duration,

    /// The processor of the client, and of the forms with one thread; of a list, the first
    #[arg(long, value_name = "CPULIST", value_parser = cpu_list)]
    pub pin: Option<CpuList>,

    /// The processor of the server in the forms with two threads
    #[arg(long, value_name = "CPULIST", value_parser = cpu_list)]
    pub server_pin: Option<CpuList>,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Measures all there is to measure.
///
/// # Errors
///
/// When the processors or descriptors that were asked for are not there, or the kernel refuses a
/// connection.
pub fn floor(args: &FloorArgs, argv: Vec<String>) -> Result<FloorReport, Failure> {
    args.output.check()?;
    let failed = |error: io::Error| {
        Failure::new(exit::FAILURE, format!("cannot measure: {}", describe(&error)))
    };
    let allowed = placement::allowed().map_err(failed)?;
    check_cpus("--pin", args.pin.as_deref(), &allowed)?;
    check_cpus("--server-pin", args.server_pin.as_deref(), &allowed)?;
    // Both ends of every connection are ours.
    limits::raise_descriptors(2 * CONNS_MAX, 2).map_err(|error| {
        let hint = "raise it with `ulimit -n`";
        Failure::new(exit::USAGE, error.replace("--conns 2000", "it")).hint(hint)
    })?;
    let mut environment = Environment::capture();
    let floor = measure(&Wish {
        size: args.size,
        conns: &CONNS,
        cpus: Cpus::choose(&allowed, args.pin.as_deref(), args.server_pin.as_deref()),
        duration: args.duration,
        rounds: ROUNDS,
        all: true,
    })
    .map_err(failed)?;
    environment.capture_after();
    Ok(FloorReport {
        schema: SCHEMA,
        kind: "floor".to_owned(),
        tool: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        argv,
        floor,
        environment,
    })
}

/// The short form, for a record: what bears on runs with these options and so many connections, in
/// well under half a second for each number. `None` where it would say nothing of the run, or
/// cannot be measured. `allowed` are the processors it may use, as the run does.
pub fn brief(args: &RunArgs, conns: &[u32], allowed: &[usize]) -> Option<Floor> {
    // A connection for each exchange costs something else.
    if args.no_floor || args.service == Service::Hi {
        return None;
    }
    let mut conns: Vec<u32> = conns.iter().map(|&conns| conns.min(CONNS_MAX)).collect();
    conns.sort_unstable();
    conns.dedup();
    limits::raise_descriptors(2 * conns.last()?, 2).ok()?;
    measure(&Wish {
        size: args.size,
        conns: &conns,
        cpus: Cpus::choose(allowed, args.pin.as_deref(), args.server_pin.as_deref()),
        duration: BRIEF * conns.len() as u32,
        rounds: ROUNDS_BRIEF,
        all: false,
    })
    .ok()
}

/// What is to be measured.
struct Wish<'a> {
    size: u32,
    conns: &'a [u32],
    cpus: Cpus,
    duration: Duration,
    rounds: u32,
    /// Also what waits in the kernel, and the calls.
    all: bool,
}

/// The processors of the two threads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Cpus {
    client: usize,
    /// `None` when there is only one.
    server: Option<usize>,
}

impl Cpus {
    /// Those of the first thread of each side of a run.
    fn choose(allowed: &[usize], client: Option<&[usize]>, server: Option<&[usize]>) -> Self {
        let placement = Placement::choose(allowed, client, server, true, true);
        let client = placement.of_thread(0);
        let server = placement.server.and_then(|cpus| cpus.first().copied());
        Self { client, server: server.filter(|&server| server != client) }
    }
}

/// The values of every round.
struct Values {
    one_thread: Vec<Vec<f64>>,
    two_threads: Vec<Vec<f64>>,
    blocking: Vec<f64>,
    calls: [Vec<f64>; 4],
}

/// Measures on threads of its own, so that the caller's processors stay what they are.
fn measure(wish: &Wish<'_>) -> io::Result<Floor> {
    let (started, begin) = (SystemTime::now(), Instant::now());
    let (values, connections) = thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            pin(&[wish.cpus.client]).map_err(io::Error::other)?;
            // The kernel's counters are to be the run's own.
            let apart = netns::enter_alone().is_ok();
            rounds(wish).map(|(values, opened)| (values, if apart { 0 } else { opened }))
        });
        measuring.join().map_err(|_| io::Error::other("a thread panicked"))?
    })?;
    let exchanges = |values: &[Vec<f64>]| -> Vec<Exchange> {
        let spreads = wish.conns.iter().zip(values);
        spreads
            .filter_map(|(&conns, values)| Some(Exchange { conns, ns: Spread::of(values)? }))
            .collect()
    };
    let [clock, syscall, recv, epoll] = values.calls.map(|values| Spread::of(&values));
    Ok(Floor {
        measured: humantime::format_rfc3339_millis(started).to_string(),
        duration_s: begin.elapsed().as_secs_f64(),
        rounds: wish.rounds,
        size: wish.size,
        client_cpu: wish.cpus.client as u32,
        server_cpu: wish.cpus.server.map(|cpu| cpu as u32),
        connections,
        one_thread: exchanges(&values.one_thread),
        two_threads: exchanges(&values.two_threads),
        blocking_ns: Spread::of(&values.blocking),
        calls: clock.zip(syscall).zip(recv.zip(epoll)).map(
            |((clock_ns, syscall_ns), (recv_nothing_ns, epoll_nothing_ns))| Calls {
                clock_ns,
                syscall_ns,
                recv_nothing_ns,
                epoll_nothing_ns,
            },
        ),
    })
}

/// The rounds, and how many connections they took.
fn rounds(wish: &Wish<'_>) -> io::Result<(Values, u32)> {
    let most = wish.conns.iter().copied().max().unwrap_or(1);
    let pattern = Pattern::new(wish.size, fastrand::u64(..));
    let pairs = Pair::connect(most)?;
    // The kernel takes memory for a connection's buffers when they are first used.
    one_thread::exchange(&pairs, &pattern, Duration::ZERO)?;
    let mut connections = most;
    let mut values = Values {
        one_thread: vec![Vec::new(); wish.conns.len()],
        two_threads: vec![Vec::new(); wish.conns.len()],
        blocking: Vec::new(),
        calls: Default::default(),
    };
    let two = wish.cpus.server.is_some();
    let forms = wish.conns.len() * if two { 2 } else { 1 }
        + if wish.all { values.calls.len() + usize::from(two) } else { 0 };
    let slice = wish.duration / (wish.rounds * forms as u32);
    for _ in 0..wish.rounds {
        for (index, &conns) in wish.conns.iter().enumerate() {
            let pairs = &pairs[..conns as usize];
            values.one_thread[index].push(one_thread::exchange(pairs, &pattern, slice)?);
            if let Some(server) = wish.cpus.server {
                let spun = two_threads::spin(pairs, &pattern, server, slice)?;
                if spun.running >= UNDISTURBED {
                    values.two_threads[index].push(spun.ns);
                }
            }
        }
        if !wish.all {
            continue;
        }
        if let Some(server) = wish.cpus.server {
            connections += 1;
            values.blocking.push(two_threads::ping_pong(&pattern, server, slice)?);
        }
        for (values, ns) in values.calls.iter_mut().zip(calls::measure(&pairs[0], slice)?) {
            values.push(ns);
        }
    }
    Ok((values, connections))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(size: u32, conns: &[u32], server: Option<usize>) -> Wish<'_> {
        let client = placement::allowed().unwrap()[0];
        Wish {
            size,
            conns,
            cpus: Cpus { client, server },
            duration: Duration::from_millis(30),
            rounds: 3,
            all: true,
        }
    }

    /// Another processor than the first, if there is one.
    fn second() -> Option<usize> {
        placement::allowed().unwrap().get(1).copied()
    }

    #[test]
    fn every_form_is_measured_in_every_round() {
        for size in [1, 64, 100_000] {
            let floor = measure(&wish(size, &[1, 5], second())).unwrap();
            let conns: Vec<u32> = floor.one_thread.iter().map(|exchange| exchange.conns).collect();
            assert_eq!(conns, [1, 5]);
            // With two threads there is nothing where other tests had the processors.
            let all = floor.one_thread.iter().chain(&floor.two_threads);
            assert_eq!(floor.blocking_ns.is_some(), second().is_some());
            let calls = floor.calls.clone().unwrap();
            let spreads = all.map(|exchange| exchange.ns).chain(floor.blocking_ns);
            for spread in spreads.chain([calls.clock_ns, calls.syscall_ns, calls.recv_nothing_ns]) {
                assert!(0.0 < spread.low && spread.low <= spread.median, "{floor:?}");
                assert!(spread.median <= spread.high && spread.high < 1e9, "{floor:?}");
            }
            // A whole exchange is four system calls, each of which does more than the least one.
            assert!(floor.one_thread_ns(1).unwrap() > calls.syscall_ns.low, "{floor:?}");
        }
    }

    #[test]
    fn two_threads_exchange_and_leave_nothing_behind() {
        let Some(server) = second() else { return };
        for size in [1, 64, 100_000] {
            let pattern = Pattern::new(size, 7);
            let pairs = Pair::connect(3).unwrap();
            for _ in 0..3 {
                let slice = Duration::from_millis(5);
                let spun = two_threads::spin(&pairs, &pattern, server, slice).unwrap();
                assert!(spun.ns > 0.0 && spun.running > 0.0);
                // A byte left over would be taken for one of these.
                one_thread::exchange(&pairs, &pattern, Duration::ZERO).unwrap();
            }
            let ns = two_threads::ping_pong(&pattern, server, Duration::from_millis(5)).unwrap();
            assert!(ns > 0.0);
        }
    }

    #[test]
    fn one_processor_has_no_second_thread() {
        let floor = measure(&wish(64, &[2], None)).unwrap();
        assert!(floor.two_threads.is_empty() && floor.blocking_ns.is_none());
        assert_eq!(floor.server_cpu, None);
        assert_eq!(Cpus::choose(&[3], None, None), Cpus { client: 3, server: None });
        assert_eq!(Cpus::choose(&[3, 4], None, None), Cpus { client: 4, server: Some(3) });
        assert_eq!(Cpus::choose(&[3, 4], Some(&[3]), None), Cpus { client: 3, server: None });
    }
}
