//! Resource usage of a server that publishes it, read from its metrics page around the measured
//! window.
//!
//! Threads of their own read the page, so that no thread of the run waits for it. The readings lie
//! a little outside the window. So CPU time is divided by the exchanges between the readings, not
//! by those of the window: by the server's own number, which the page has for the same instants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use lockstep_results::format;
use lockstep_sys::errno::describe;
use lockstep_sys::memory;

use crate::clients::control::Control;
use crate::clients::pattern::SIZE_MAX_ONE_SHOT;
use crate::event::Event;
use crate::exit::{self, Failure};
use crate::servers::metrics::{Difference, PATIENCE, Reading, Url};

/// Poll interval while waiting for a page before the run.
const POLL: Duration = Duration::from_millis(5);

/// Time by which a count may be behind: the server and the generator publish theirs between
/// exchanges.
const BEHIND_S: f64 = 0.01;

/// Part of the exchanges by which the counts of both sides may differ besides.
const DIFFERENCE: f64 = 0.01;

/// Metrics page of a server.
#[derive(Clone, Debug)]
pub struct ServerPage {
    /// Address of the page.
    url: Url,
    /// Address of its server.
    addr: SocketAddr,
    /// True if the server is known to run on this machine, whose CPUs it shares.
    pub(super) is_here: bool,
}

impl ServerPage {
    /// Reads the page in a thread of its own, so that a signal ends the wait. The server is on this
    /// machine if `is_here` is true, or if the page shows it.
    ///
    /// # Errors
    ///
    /// [`exit::ADDRESS`] if the page cannot be read, or does not have a CPU time; a signal.
    pub(super) fn open(
        url: &Url,
        is_here: bool,
        events: &Receiver<Event>,
    ) -> Result<(Self, Reading), Failure> {
        let failed = |cause: String| {
            let error = format!("cannot read the server's metrics at {url}: {cause}");
            let hint = "lockstep serve --metrics ADDR publishes them; another server has to publish \
                        process_cpu_seconds_total";
            Failure::new(exit::ADDRESS, error).hint(hint)
        };
        let (sender, answer) = channel();
        let asked = url.clone();
        let read = move || drop(sender.send(asked.resolve().and_then(|addrs| asked.read(&addrs))));
        memory::thread("server-metrics")
            .and_then(|thread| thread.spawn(read))
            .map_err(|error| failed(describe(&error)))?;
        loop {
            match answer.recv_timeout(POLL) {
                Ok(Ok((reading, addr))) => {
                    let is_here = is_here || reading.is_here();
                    return Ok((Self { url: url.clone(), addr, is_here }, reading));
                }
                Ok(Err(cause)) => return Err(failed(cause)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed("the thread has ended".to_owned()));
                }
            }
            for event in events.try_iter() {
                if let Event::Signal(signal) = event {
                    return Err(Failure::signal(signal));
                }
            }
        }
    }
}

/// State of the run at an instant.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Clock of the run.
    ns: u64,
    /// Exchanges that the generator has completed.
    exchanges: u64,
}

impl Mark {
    fn now(control: &Control) -> Self {
        Self { ns: control.clock.now(), exchanges: control.progress().1 }
    }
}

/// A reading, and the state of the run just before and after it.
#[derive(Debug)]
struct Taken {
    reading: Result<Reading, String>,
    asked: Mark,
    answered: Mark,
}

/// What the readings around the window show.
#[derive(Clone, Debug)]
pub struct PageUsage {
    /// Address of the page.
    pub(super) source: String,
    /// True if the server is known to run on this machine.
    pub(super) is_here: bool,
    /// Difference of the readings; the reason if there is none.
    pub(super) between: Result<Between, String>,
}

/// Difference of two readings.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Between {
    /// Usage of the server.
    pub(super) usage: Difference,
    /// Time between the readings, on the clock of the run.
    pub(super) window: Duration,
    /// Number of exchanges.
    pub(super) exchanges: f64,
    /// Side that has counted them, as in records.
    pub(super) counted_by: &'static str,
    /// Exchanges that the generator has counted, if they are clearly fewer.
    pub(super) of_generator: Option<f64>,
}

impl PageUsage {
    /// Warnings for the record.
    pub(super) fn warning(&self) -> Option<String> {
        let source = &self.source;
        match &self.between {
            Err(cause) => Some(format!(
                "server-unknown: {source}: {cause}, so the server's CPU time is unknown"
            )),
            Ok(Between { exchanges, of_generator: Some(ours), .. }) => Some(format!(
                "server-shared: the server counted {} exchanges where the generator counted {}: \
                 another client loads it, and its CPU time contains that load",
                format::count(*exchanges),
                format::count(*ours),
            )),
            Ok(_) => None,
        }
    }
}

/// Reads the page of the server of one run.
#[derive(Debug)]
pub(super) struct PageMeter {
    page: ServerPage,
    conns: u32,
    size: u32,
    alone: bool,
    control: Arc<Control>,
    pending: Option<Receiver<Taken>>,
    before: Option<Taken>,
}

impl PageMeter {
    /// A meter for a run with `conns` connections and requests of `size` bytes, which is `alone`
    /// unless other ranks load the server, too.
    pub(super) fn new(
        page: ServerPage,
        conns: u32,
        size: u32,
        alone: bool,
        control: Arc<Control>,
    ) -> Self {
        Self { page, conns, size, alone, control, pending: None, before: None }
    }

    /// Begins the reading before the window.
    pub(super) fn begin(&mut self) {
        self.pending = Some(self.read());
    }

    /// Waits until that reading has ended.
    pub(super) fn wait(&mut self) {
        if let Some(reading) = self.pending.take() {
            self.before = Some(self.await_reading(&reading));
        }
    }

    /// Reads the page after the window; `None` if there was none.
    pub(super) fn end(&mut self) -> Option<PageUsage> {
        self.wait();
        let before = self.before.take()?;
        let after = self.await_reading(&self.read());
        let mut between = between(before, after, self.conns, self.size);
        if let (Ok(between), false) = (&mut between, self.alone) {
            between.of_generator = None;
        }
        let (source, is_here) = (self.page.url.to_string(), self.page.is_here);
        Some(PageUsage { source, is_here, between })
    }

    /// Reads the page in a thread of its own.
    fn read(&self) -> Receiver<Taken> {
        let (sender, taken) = channel();
        let (page, control) = (self.page.clone(), self.control.clone());
        let read = move || {
            let asked = Mark::now(&control);
            let reading = page.url.read(&[page.addr]).map(|(reading, _)| reading);
            let _run_is_over = sender.send(Taken { reading, asked, answered: Mark::now(&control) });
        };
        // Without a thread, the sender is dropped.
        let _no_memory = memory::thread("server-metrics").and_then(|thread| thread.spawn(read));
        taken
    }

    /// Waits for a reading, a little longer than it takes at most.
    fn await_reading(&self, reading: &Receiver<Taken>) -> Taken {
        reading.recv_timeout(PATIENCE + PATIENCE / 2).unwrap_or_else(|_| {
            let now = Mark::now(&self.control);
            Taken { reading: Err("no answer".to_owned()), asked: now, answered: now }
        })
    }
}

/// Returns the difference of two readings.
///
/// # Errors
///
/// A text for the user if they show nothing about the server.
fn between(before: Taken, after: Taken, conns: u32, size: u32) -> Result<Between, String> {
    let usage = after.reading?.since(&before.reading?)?;
    let middle =
        |of: fn(&Mark) -> u64, taken: [&Mark; 2]| (of(taken[0]) as f64 + of(taken[1]) as f64) / 2.0;
    let between = |of: fn(&Mark) -> u64| {
        let before = middle(of, [&before.asked, &before.answered]);
        f64::max(middle(of, [&after.asked, &after.answered]) - before, 0.0)
    };
    let window_s = between(|mark| mark.ns) / 1e9;
    let ours = between(|mark| mark.exchanges);
    // A request that takes several receives is several exchanges to the server.
    let theirs = match size {
        ..=SIZE_MAX_ONE_SHOT => usage.exchanges,
        _ => usage.received_bytes.map(|bytes| bytes / f64::from(size)),
    };
    let least = after.asked.exchanges.saturating_sub(before.answered.exchanges) as f64;
    let most = after.answered.exchanges.saturating_sub(before.asked.exchanges) as f64;
    let behind = if window_s > 0.0 { 2.0 * BEHIND_S / window_s } else { 1.0 };
    let uncertain = most * (DIFFERENCE + behind) + 2.0 * f64::from(conns);
    if let Some(theirs) = theirs.filter(|&theirs| theirs < least - uncertain) {
        let (theirs, least) = (format::count(theirs), format::count(least));
        return Err(format!(
            "it counted {theirs} exchanges where the generator counted {least}: the page is that \
             of another server"
        ));
    }
    let exchanges = theirs.unwrap_or(ours);
    if exchanges <= 0.0 {
        return Err("no exchange between the readings".to_owned());
    }
    // A page from a cache, or a CPU time in units too coarse for the window.
    if usage.usage.cpu_ns == 0 {
        return Err("its CPU time did not change in the measured window".to_owned());
    }
    Ok(Between {
        usage,
        window: Duration::from_secs_f64(window_s),
        exchanges,
        counted_by: if theirs.is_some() { "server" } else { "generator" },
        of_generator: theirs.filter(|&theirs| theirs > most + uncertain).map(|_| most),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading that took 2 ms from this instant, while one exchange was completed.
    fn taken(ms: u64, ours: u64, page: &str) -> Taken {
        let mark = |more: u64| Mark { ns: (ms + 2 * more) * 1_000_000, exchanges: ours + more };
        Taken { reading: Reading::parse(page), asked: mark(0), answered: mark(1) }
    }

    fn page(cpu_s: f64, exchanges: u64, bytes: u64) -> String {
        format!(
            "process_cpu_seconds_total {cpu_s}\nlockstep_exchanges_total {exchanges}\n\
             lockstep_received_bytes_total {bytes}\n"
        )
    }

    fn around(theirs: u64, bytes: u64, size: u32) -> Result<Between, String> {
        let before = taken(1000, 500, &page(1.0, 700, 7000));
        between(before, taken(2000, 10_500, &page(1.5, 700 + theirs, 7000 + bytes)), 8, size)
    }

    #[test]
    fn divisor_is_the_server_s_number_of_exchanges() {
        let between = around(10_007, 0, 64).unwrap();
        assert_eq!((between.exchanges, between.counted_by), (10_007.0, "server"));
        assert_eq!(between.usage.usage.cpu_ns, 500_000_000);
        assert_eq!(between.window, Duration::from_secs(1));
        assert_eq!(between.of_generator, None);
    }

    #[test]
    fn request_of_several_receives_is_one_exchange() {
        let between = around(20_000, 10_000 * 2048, 2048).unwrap();
        assert_eq!((between.exchanges, between.of_generator), (10_000.0, None));
    }

    #[test]
    fn generator_counts_for_a_server_that_does_not() {
        let page = "process_cpu_seconds_total 1\n";
        let later = page.replace(" 1", " 1.25");
        let between = between(taken(0, 0, page), taken(1000, 100, &later), 8, 64).unwrap();
        assert_eq!((between.exchanges, between.counted_by), (100.0, "generator"));
    }

    #[test]
    fn counts_that_differ_are_noticed() {
        for (theirs, expected) in [
            (9_990, "same"),
            (10_000, "same"),
            (10_300, "same"),
            (10_400, "shared"),
            (20_000, "shared"),
            (9_600, "other"),
            (0, "other"),
        ] {
            let found = match around(theirs, 0, 64) {
                Ok(Between { of_generator: None, .. }) => "same",
                Ok(_) => "shared",
                Err(cause) if cause.contains("another server") => "other",
                Err(_) => "error",
            };
            assert_eq!(found, expected, "{theirs}");
        }
    }

    #[test]
    fn readings_without_an_exchange_or_with_an_error_say_nothing() {
        let none = between(taken(0, 5, &page(1.0, 5, 0)), taken(0, 4, &page(1.0, 5, 0)), 1, 64);
        assert_eq!(none.unwrap_err(), "no exchange between the readings");
        let free = between(taken(0, 0, &page(1.0, 0, 0)), taken(5, 9, &page(1.0, 9, 0)), 1, 64);
        assert_eq!(free.unwrap_err(), "its CPU time did not change in the measured window");
        assert!(between(taken(0, 0, ""), taken(5, 9, &page(1.0, 5, 0)), 1, 64).is_err());
        assert!(between(taken(0, 0, &page(1.0, 5, 0)), taken(5, 9, ""), 1, 64).is_err());
    }

    #[test]
    fn warnings_say_what_the_number_is() {
        let usage = |between| PageUsage {
            source: "http://a:1/metrics".to_owned(),
            is_here: false,
            between,
        };
        assert_eq!(usage(around(10_000, 0, 64)).warning(), None);
        let shared = usage(around(20_000, 0, 64)).warning().unwrap();
        assert!(
            shared.starts_with("server-shared: the server counted 20.00k exchanges"),
            "{shared}"
        );
        let unknown = usage(Err("no answer".to_owned())).warning().unwrap();
        assert!(
            unknown.starts_with("server-unknown: http://a:1/metrics: no answer, "),
            "{unknown}"
        );
    }
}
