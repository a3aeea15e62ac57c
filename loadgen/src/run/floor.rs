//! The floor: lower bounds for the cost of an exchange on this machine, without a server or an
//! event loop.
//!
//! Every form is measured once in each round, and the result is the median of the rounds, so that
//! drift affects all forms alike. Every byte is verified, as in a run.

mod measurements;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use lockstep_results::{Calls, Exchange, Floor, Spread};

use crate::clients::connection::Service;
use crate::clients::pattern::Pattern;
use crate::machine::limits;
use crate::machine::placement::Cpus;
use crate::options::PlacementArgs;
use crate::run::args::RunArgs;
use lockstep_sys::cpus::pin;
use lockstep_sys::errno::describe;
use lockstep_sys::memory;
use lockstep_sys::netns;
use measurements::{Pair, Slice};

/// Largest number of connections: more need more descriptors than many a process may have.
pub(crate) const CONNS_MAX: u32 = 1000;

/// Rounds for a run's record.
const ROUNDS_BRIEF: u32 = 5;

/// Time for each number of connections for a run's record, without connecting.
const BRIEF: Duration = Duration::from_millis(80);

/// Smallest share of the time that both polling threads must have had their CPUs: time that other
/// programs took is no property of the machine.
const UNDISTURBED: f64 = 0.9;

/// Measures the floor for a record: of runs with these options and numbers of connections, on the
/// CPUs that the run may use. Takes well under half a second for each number.
///
/// `None` if the floor has no bearing on the run.
///
/// # Errors
///
/// The reason why it cannot be measured.
pub(crate) fn brief(args: &RunArgs, conns: &[u32], cpus: &Cpus) -> Result<Option<Floor>, String> {
    // With a new connection for each exchange, the cost is that of connections.
    if args.no_floor || args.service == Service::Hi {
        return Ok(None);
    }
    let mut conns: Vec<u32> = conns.iter().map(|&conns| conns.min(CONNS_MAX)).collect();
    conns.sort_unstable();
    conns.dedup();
    let most = conns.last().copied().unwrap_or_default();
    let own = |error: String| error.replace(&format!("--conns {}", 2 * most), "it");
    limits::raise_descriptors(2 * most, 2).map_err(own)?;
    let parameters = Parameters {
        size: args.size,
        conns: &conns,
        cpus: Two::choose(cpus, &args.placement),
        duration: BRIEF * conns.len() as u32,
        rounds: ROUNDS_BRIEF,
        all: false,
        stop: &AtomicBool::new(false),
    };
    measure(&parameters).map(Some).map_err(|error| describe(&error))
}

/// Parameters of a measurement.
pub(crate) struct Parameters<'a> {
    pub(crate) size: u32,
    pub(crate) conns: &'a [u32],
    pub(crate) cpus: Two,
    pub(crate) duration: Duration,
    pub(crate) rounds: u32,
    /// Measure also threads that sleep, and single calls.
    pub(crate) all: bool,
    /// Ends the measurement early.
    pub(crate) stop: &'a AtomicBool,
}

/// CPUs of the two threads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Two {
    /// `None` where threads cannot be pinned.
    client: Option<usize>,
    /// `None` if it would be the client's, too.
    server: Option<usize>,
}

impl Two {
    /// Chooses those of the first thread of each side of a run.
    pub(crate) fn choose(cpus: &Cpus, named: &PlacementArgs) -> Self {
        if cpus.permitted.is_err() {
            return Self { client: None, server: None };
        }
        let (client, server) = cpus.apart(named.pin.as_deref(), named.server_pin.as_deref());
        let server = server.first().copied().filter(|&server| server != client[0]);
        Self { client: client.first().copied(), server }
    }
}

/// Values of all rounds.
#[derive(Default)]
struct Values {
    /// Connections opened.
    connections: u32,
    one_thread: Vec<Vec<f64>>,
    two_threads: Vec<Vec<f64>>,
    blocking: Vec<f64>,
    calls: [Vec<f64>; 4],
}

/// Measures in threads of its own, so that the CPUs of the calling thread do not change.
///
/// # Errors
///
/// Those of socket calls; `TimedOut` if replies are missing, and an error if one is wrong.
pub(crate) fn measure(parameters: &Parameters<'_>) -> io::Result<Floor> {
    let (started, begin) = (SystemTime::now(), Instant::now());
    let (values, apart) = thread::scope(|scope| {
        let measuring = memory::thread("floor")?.spawn_scoped(scope, || {
            parameters.cpus.client.iter().try_for_each(|&cpu| pin(&[cpu]))?;
            // Outside of this namespace, the kernel's counters then count the run alone.
            let apart = netns::enter().is_ok();
            let mut values = Values::default();
            match rounds(parameters, &mut values) {
                Err(error) if !parameters.stop.load(Relaxed) => Err(error),
                // The end of a measurement that was cut short does not matter.
                _ => Ok((values, apart)),
            }
        })?;
        measuring.join().map_err(|_| io::Error::other("a thread panicked"))?
    })?;
    let exchanges = |values: &[Vec<f64>]| -> Vec<Exchange> {
        let spreads = parameters.conns.iter().zip(values);
        spreads
            .filter_map(|(&conns, values)| Some(Exchange { conns, ns: Spread::of(values)? }))
            .collect()
    };
    Ok(Floor {
        measured: humantime::format_rfc3339_millis(started).to_string(),
        duration_s: begin.elapsed().as_secs_f64(),
        rounds: values.one_thread.first().map_or(0, Vec::len) as u32,
        size: parameters.size,
        client_cpu: parameters.cpus.client.map(|cpu| cpu as u32),
        server_cpu: parameters.cpus.server.map(|cpu| cpu as u32),
        connections: if apart { 0 } else { values.connections },
        one_thread: exchanges(&values.one_thread),
        two_threads: exchanges(&values.two_threads),
        blocking_ns: Spread::of(&values.blocking),
        calls: match values.calls.map(|values| Spread::of(&values)) {
            [Some(clock_ns), Some(syscall_ns), Some(recv_nothing_ns), Some(epoll_nothing_ns)] => {
                Some(Calls { clock_ns, syscall_ns, recv_nothing_ns, epoll_nothing_ns })
            }
            _ => None,
        },
    })
}

/// Measures all rounds, or those before `stop` is set: the measurement that it cuts short is left
/// out.
fn rounds(parameters: &Parameters<'_>, values: &mut Values) -> io::Result<()> {
    let most = parameters.conns.iter().copied().max().unwrap_or(1);
    let pattern = Pattern::new(parameters.size, fastrand::u64(..));
    let pairs = Pair::connect(most)?;
    values.connections = most;
    values.one_thread.resize(parameters.conns.len(), Vec::new());
    values.two_threads.resize(parameters.conns.len(), Vec::new());
    // The kernel allocates a connection's buffers at their first use.
    let once = Slice { length: Duration::ZERO, stop: parameters.stop };
    measurements::one_thread(&pairs, &pattern, once)?;
    let two = parameters.cpus.server.is_some();
    let forms = parameters.conns.len() * if two { 2 } else { 1 }
        + if parameters.all { values.calls.len() + usize::from(two) } else { 0 };
    let length = parameters.duration / (parameters.rounds * forms as u32);
    let slice = Slice { length, ..once };
    let stopped = || parameters.stop.load(Relaxed);
    let keep = |values: &mut Vec<f64>, ns| {
        if !stopped() {
            values.push(ns);
        }
    };
    let two_threads = |pairs: &[Pair], server, sleep| {
        measurements::two_threads(pairs, &pattern, server, slice, sleep)
    };
    for _ in 0..parameters.rounds {
        if stopped() {
            break;
        }
        for (index, &conns) in parameters.conns.iter().enumerate() {
            let pairs = &pairs[..conns as usize];
            let ns = measurements::one_thread(pairs, &pattern, slice)?;
            keep(&mut values.one_thread[index], ns);
            if let Some(server) = parameters.cpus.server {
                let exchanged = two_threads(pairs, server, false)?;
                if exchanged.running >= UNDISTURBED {
                    keep(&mut values.two_threads[index], exchanged.ns);
                }
            }
        }
        if !parameters.all {
            continue;
        }
        if let Some(server) = parameters.cpus.server {
            values.connections += 1;
            let ns = two_threads(&Pair::connect(1)?, server, true)?.ns;
            keep(&mut values.blocking, ns);
        }
        for (values, ns) in values.calls.iter_mut().zip(measurements::calls(&pairs[0], slice)?) {
            keep(values, ns);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    static STOP: AtomicBool = AtomicBool::new(false);

    fn slice(length_ms: u64) -> Slice<'static> {
        Slice { length: Duration::from_millis(length_ms), stop: &STOP }
    }

    fn parameters(size: u32, conns: &[u32], server: Option<usize>) -> Parameters<'_> {
        let client = Some(lockstep_sys::cpus::allowed().unwrap()[0]);
        Parameters {
            size,
            conns,
            cpus: Two { client, server },
            duration: Duration::from_millis(30),
            rounds: 3,
            all: true,
            stop: &STOP,
        }
    }

    /// The second CPU, if there is one.
    fn second() -> Option<usize> {
        lockstep_sys::cpus::allowed().unwrap().get(1).copied()
    }

    #[test]
    fn floor_measures_every_form_in_every_round() {
        for size in [1, 64, 100_000] {
            let floor = measure(&parameters(size, &[1, 5], second())).unwrap();
            let conns: Vec<u32> = floor.one_thread.iter().map(|exchange| exchange.conns).collect();
            assert_eq!(conns, [1, 5]);
            // The rounds of two threads are left out while other tests have the CPUs.
            let all = floor.one_thread.iter().chain(&floor.two_threads);
            assert_eq!(floor.blocking_ns.is_some(), second().is_some());
            let calls = floor.calls.clone().unwrap();
            let spreads = all.map(|exchange| exchange.ns).chain(floor.blocking_ns);
            for spread in spreads.chain([calls.clock_ns, calls.syscall_ns, calls.recv_nothing_ns]) {
                assert!(0.0 < spread.low && spread.low <= spread.median, "{floor:?}");
                assert!(spread.median <= spread.high && spread.high < 1e9, "{floor:?}");
            }
            // An exchange is four system calls, each of which does more than getppid(2).
            assert!(floor.one_thread_ns(1).unwrap() > calls.syscall_ns.low, "{floor:?}");
        }
    }

    #[test]
    fn two_threads_leave_no_bytes_behind() {
        let Some(server) = second() else { return };
        for size in [1, 64, 100_000] {
            let pattern = Pattern::new(size, 7);
            let pairs = Pair::connect(3).unwrap();
            for _ in 0..3 {
                let exchanged =
                    measurements::two_threads(&pairs, &pattern, server, slice(5), false).unwrap();
                assert!(exchanged.ns > 0.0 && exchanged.running > 0.0);
                // A byte left over would be part of these exchanges.
                measurements::one_thread(&pairs, &pattern, slice(0)).unwrap();
            }
            let pairs = Pair::connect(1).unwrap();
            let slice = slice(5);
            let ns = measurements::two_threads(&pairs, &pattern, server, slice, true).unwrap().ns;
            assert!(ns > 0.0);
        }
    }

    #[test]
    fn floor_on_one_cpu_has_no_second_thread() {
        let floor = measure(&parameters(64, &[2], None)).unwrap();
        assert!(floor.two_threads.is_empty() && floor.blocking_ns.is_none());
        assert_eq!(floor.server_cpu, None);
        let two = second().is_some();
        let mut cpus = Cpus::read().unwrap();
        assert_eq!(Two::choose(&cpus, &PlacementArgs::default()).server.is_some(), two);
        let named = PlacementArgs { pin: Some(vec![cpus.given[0]]), server_pin: None };
        assert_ne!(Two::choose(&cpus, &named).server, Some(cpus.given[0]));
        cpus.permitted = Err(String::new());
        let none = Two { client: None, server: None };
        assert_eq!(Two::choose(&cpus, &PlacementArgs::default()), none);
    }

    #[test]
    fn pair_has_both_ends_of_one_connection() {
        for pair in Pair::connect(3).unwrap() {
            let addr = |addr: io::Result<socket2::SockAddr>| addr.unwrap().as_socket();
            assert_eq!(addr(pair.client.local_addr()), addr(pair.server.peer_addr()));
            assert_eq!(addr(pair.server.local_addr()), addr(pair.client.peer_addr()));
        }
    }
}
