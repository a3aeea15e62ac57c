//! Membership of this process in a run of several ranks: its share, and all that the ranks have in
//! common.

use std::fmt::{Debug, Write as _};
use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_results::{Build, ClockState, Rank, SCHEMA, digest};
use lockstep_sys::errno::describe;
use lockstep_sys::memory;

use crate::clients::intervals::LATENCY_MAX_NS;
use crate::clients::plan::Share;
use crate::event::Event;
use crate::exit::{self, Failure};
use crate::machine::realtime;
use crate::options::SEED_END;
use crate::ranks::agreement::Agreement;
use crate::ranks::args::RankArgs;
use crate::ranks::instant;
use crate::ranks::launcher::{Place, identifier, place};
use crate::run::args::{LiveArgs, RunArgs};
use crate::run::warmup::Warmup;

/// Delay of a start that is tolerated.
const DEADLINE: Duration = Duration::from_millis(10);

/// Time that a rank waits for the others, beyond the time that it may take to open connections.
const PATIENCE: Duration = Duration::from_secs(60);

/// Membership of this process in a run.
#[derive(Debug)]
pub struct Member {
    /// Share of the run's load.
    pub share: Share,
    source: String,
    run_id: String,
    /// Options that all ranks must have in common, one on a line.
    options: String,
    start_at: Option<SystemTime>,
    /// Launcher that the ranks agree through, until they have.
    agreement: Mutex<Option<Agreement>>,
    has_agreement: bool,
    patience: Duration,
    clock_before: Option<ClockState>,
}

/// Start of the load of this process.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Instant that the ranks have agreed on; `None` if this process did not wait for one.
    pub agreed: Option<SystemTime>,
    /// The begin of warm-up and window on the realtime clock.
    pub unix: SystemTime,
    /// The begin on CLOCK_MONOTONIC.
    pub monotonic: Duration,
    /// Delay of the last thread that began to send.
    pub delay: Duration,
}

impl Start {
    /// Delay after the agreed instant, if it is not tolerated.
    pub fn late(&self) -> Option<Duration> {
        (self.unix + self.delay).duration_since(self.agreed?).ok().filter(|late| *late > DEADLINE)
    }
}

impl Member {
    /// Finds the place of this process, and checks that the options fit a run of several ranks.
    /// Returns `None` without any of the options of ranks. `variable` returns the value of an
    /// environment variable. Call it before this process opens descriptors.
    ///
    /// # Errors
    ///
    /// [`exit::USAGE`] with the option that is missing or not possible; those of
    /// [`Agreement::find`]. The other ranks learn of the former.
    pub fn new(
        ranks: &RankArgs,
        (run, live): (&RunArgs, &LiveArgs),
        variable: impl Fn(&str) -> Option<String>,
        now: SystemTime,
    ) -> Result<Option<Self>, Failure> {
        if ranks.is_empty() {
            return Ok(None);
        }
        let alone = || Place { index: 0, count: 1, source: "default".to_owned(), job: None };
        let (place, agreement) = match ranks.ranks {
            None => (alone(), None),
            Some(count) => {
                let place = place(ranks.rank, count, &variable)?;
                let agreement = match Agreement::find(place.index, place.count, &variable) {
                    // The others wait for this rank in vain, if they can agree.
                    Err(failure) if ranks.start_at.is_some() => {
                        let text = format!("warning: the ranks do not agree: {}\n", failure.error);
                        let _ = io::stderr().write_all(text.as_bytes());
                        None
                    }
                    agreement => agreement?,
                };
                (place, agreement)
            }
        };
        let share = Share { index: place.index, count: place.count };
        let options = common(run, share.count);
        let job = place.job.or(agreement.as_ref().map(|agreement| identifier(agreement.job())));
        let run_id = ranks.run_id.clone().or(job).unwrap_or_else(|| {
            let start = ranks.start_at.unwrap_or(now);
            digest(&format!("{options}start {}\n", unix_us(start)))
        });
        let (generator, conns) = (&run.generator, f64::from(run.conns));
        let opening = generator.connect_rate.map_or(0.0, |rate| conns / rate);
        let member = Self {
            share,
            source: place.source,
            run_id,
            options,
            start_at: ranks.start_at,
            has_agreement: agreement.is_some(),
            agreement: Mutex::new(agreement),
            patience: PATIENCE + generator.timeout + Duration::from_secs_f64(opening),
            clock_before: realtime::state(),
        };
        match member.check(run, live, now) {
            Ok(()) => Ok(Some(member)),
            Err(failure) => Err(member.fail(failure)),
        }
    }

    fn check(&self, run: &RunArgs, live: &LiveArgs, now: SystemTime) -> Result<(), Failure> {
        if self.is_one_of_several() {
            check(run, live, self.share.count)?;
        }
        match self.start_at {
            Some(start) => instant::check(start, now),
            None if self.has_agreement || !self.is_one_of_several() => Ok(()),
            None => {
                let error = format!("{} ranks need --start-at, the same for all", self.share.count);
                let hint = "compute it once, such as --start-at $(($(date +%s) + 20))";
                Err(Failure::new(exit::USAGE, error).hint(hint))
            }
        }
    }

    /// True if the run has several ranks.
    pub fn is_one_of_several(&self) -> bool {
        self.share.count > 1
    }

    /// The options of this rank: its connections, requests and connect rate, and the same seed as
    /// all others. `--rate` remains the whole run's, since a rank takes its instants of the
    /// schedule of all. The floor is not measured: other ranks may be on this machine.
    #[must_use]
    pub fn options(&self, run: &RunArgs) -> RunArgs {
        if !self.is_one_of_several() {
            return run.clone();
        }
        let mut own = run.with_conns(self.share.of(run.conns.into()) as u32);
        own.requests = run.requests.map(|requests| self.share.of(requests));
        own.no_floor = true;
        let generator = &mut own.generator;
        generator.connect_rate = generator.connect_rate.map(|rate| self.share.rate(rate));
        generator.seed.get_or_insert_with(|| seed(&self.run_id));
        own
    }

    /// Sends [`Event::Agreed`] when the ranks have agreed on the start of their load. Called when
    /// the connections are open.
    pub fn agree(&self, events: &Sender<Event>) {
        let Some(agreement) = self.take_agreement() else {
            let _receiver_is_gone = events.send(Event::Agreed(Ok(self.start_at)));
            return;
        };
        let options = format!("{}run_id {}\n", self.options, self.run_id);
        let (start_at, patience, sender) = (self.start_at, self.patience, events.clone());
        let work = move || {
            let start = agreement.agree(&version(), &options, start_at, patience);
            let _receiver_is_gone = sender.send(Event::Agreed(start.map(Some)));
        };
        let started = memory::thread("agreement").and_then(|thread| thread.spawn(work));
        if let Err(error) = started {
            let error = format!("cannot start a thread: {}", describe(&error));
            let failure = Failure::new(exit::FAILURE, error);
            let _receiver_is_gone = events.send(Event::Agreed(Err(failure)));
        }
    }

    /// Reports a failure to the other ranks if they have not agreed yet, since they would wait for
    /// this one. Takes as long as the others take to get ready. No effect after a signal.
    pub fn report(&self, failure: &Failure) {
        if failure.code < exit::of_signal(0)
            && let Some(agreement) = self.take_agreement()
        {
            agreement.fail(failure, self.patience);
        }
    }

    /// Prints a failure before it [reports](Self::report) it, and returns it without its text. A
    /// failure that the other ranks need not know is returned as it is.
    #[must_use]
    pub fn fail(&self, failure: Failure) -> Failure {
        if self.is_agreed() || failure.code > exit::of_signal(0) {
            return failure;
        }
        failure.print();
        self.report(&failure);
        Failure::new(failure.code, String::new())
    }

    /// True if there is no launcher to agree through, or no longer.
    fn is_agreed(&self) -> bool {
        self.agreement.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn take_agreement(&self) -> Option<Agreement> {
        self.agreement.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Description for standard error, before the run.
    pub fn announcement(&self) -> String {
        let Self { share, run_id, source, .. } = self;
        let start = self.start_at.map(humantime::format_rfc3339_millis);
        match (self.is_one_of_several(), start) {
            (false, None) => format!("rank 0 of 1 of run {run_id} ({source})"),
            (false, Some(start)) => format!("the load starts at {start}"),
            (true, start) => {
                let start = match start {
                    Some(start) => format!(", starts at {start}"),
                    None => ", starts when all are ready (PMI)".to_owned(),
                };
                format!("rank {} of {} of run {run_id} ({source}){start}", share.index, share.count)
            }
        }
    }

    /// Returns the rank's part of its record, with its measured window: its distance from the start
    /// of the load and its length. A load that did not start has none.
    pub fn rank(&self, start: &Start, window: Option<(Duration, Duration)>) -> Rank {
        let planned = start.agreed.unwrap_or(start.unix);
        let (warmup, length) = window.unwrap_or_default();
        Rank {
            index: self.share.index,
            count: self.share.count,
            run_id: self.run_id.clone(),
            source: self.source.clone(),
            start_source: self.start_source(start).to_owned(),
            options_digest: digest(&self.options),
            boot: realtime::boot(),
            planned_start_unix_us: unix_us(planned),
            start_unix_us: unix_us(start.unix + start.delay),
            start_monotonic_us: (start.monotonic + start.delay).as_micros() as u64,
            window_start_unix_us: unix_us(start.unix + warmup),
            window_end_unix_us: unix_us(start.unix + warmup + length),
            met_deadline: window.is_some() && start.late().is_none(),
            clock_before: self.clock_before,
            clock_after: realtime::state(),
        }
    }

    fn start_source(&self, start: &Start) -> &'static str {
        match (start.agreed, self.start_at) {
            (None, _) => "none",
            (_, Some(_)) => "--start-at",
            (_, None) => "PMI",
        }
    }
}

/// Version of this build.
fn version() -> String {
    let build = Build::of_this_program();
    let dirty = if build.git_dirty == Some(true) { ", changed" } else { "" };
    let revision = build.git_revision.map(|it| format!(" ({it:.12}{dirty})")).unwrap_or_default();
    format!("{}{revision}", env!("CARGO_PKG_VERSION"))
}

/// Checks options that do not depend on the rank, so that all ranks report the same.
fn check(run: &RunArgs, live: &LiveArgs, count: u32) -> Result<(), Failure> {
    let refused = |error: String, hint: &str| Err(Failure::new(exit::USAGE, error).hint(hint));
    let to_stdout = run.output.json || live.json_lines;
    let path = run.output.path.as_ref();
    let few = |what: String| format!("{what} for {count} ranks: some would have nothing to do");
    // Requests of an open loop that are due in the window.
    let due = run.rate.zip(run.duration).map(|(rate, window)| rate * window.as_secs_f64());
    match (&run.target, run.requests) {
        (None, _) => refused(format!("{count} ranks start no server"), "give the HOST:PORT of one"),
        _ if run.conns < count => {
            refused(few(format!("--conns {}", run.conns)), "--conns is the sum of all ranks")
        }
        (_, Some(requests)) if requests < count.into() => {
            refused(few(format!("--requests {requests}")), "--requests is the sum of all ranks")
        }
        _ if due.is_some_and(|due| due < count.into()) => refused(
            few("--rate is too low".to_owned()),
            "--rate is the sum of all ranks; measure longer, or start fewer",
        ),
        _ if run.warmup == Warmup::Auto => refused(
            "--warmup auto would end at another instant in each rank".to_owned(),
            "give it a time, such as --warmup 1s",
        ),
        _ if !run.fail_if.is_empty() => refused(
            "--fail-if is for a whole run, not for one of its ranks".to_owned(),
            "give it to loadgen merge",
        ),
        _ => match path {
            None if !to_stdout => refused(
                format!("{count} ranks write a record each"),
                "give -o the directory for them, or --json",
            ),
            Some(path) if !path.is_dir() => {
                let path = path.display();
                let error =
                    format!("{path} is no directory, and {count} ranks write a record each");
                refused(error, "give -o a directory that exists")
            }
            _ => Ok(()),
        },
    }
}

/// Lists the options that all ranks must have in common, one on a line. Threads, CPUs and output
/// may differ.
fn common(run: &RunArgs, count: u32) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: Option<&dyn Debug>| {
        let value = value.map_or("none".to_owned(), |value| format!("{value:?}"));
        let _infallible = writeln!(text, "{name} {value}");
    };
    let RunArgs { generator, requests, rate, duration, target, .. } = run;
    let warmup = match &run.warmup {
        Warmup::Fixed(length) => Some(length),
        Warmup::Auto => None,
    };
    line("version", Some(&env!("CARGO_PKG_VERSION")));
    line("schema", Some(&SCHEMA));
    line("latency_max_ns", Some(&LATENCY_MAX_NS));
    line("ranks", Some(&count));
    line("target", target.as_ref().map(as_debug));
    line("service", Some(&run.service.name()));
    line("conns", Some(&run.conns));
    line("size", Some(&run.size));
    line("duration", duration.as_ref().map(as_debug));
    line("requests", requests.as_ref().map(as_debug));
    line("rate", rate.as_ref().map(as_debug));
    line("arrivals", Some(&generator.arrivals.unwrap_or_default().name()));
    line("warmup", warmup.map(as_debug));
    line("interval", Some(&run.interval()));
    line("timeout", Some(&generator.timeout));
    line("connect_rate", generator.connect_rate.as_ref().map(as_debug));
    line("seed", generator.seed.as_ref().map(as_debug));
    text
}

fn as_debug<T: Debug>(value: &T) -> &dyn Debug {
    value
}

/// Seed that all ranks of a run derive without communicating.
fn seed(run_id: &str) -> u64 {
    let digest = u64::from_str_radix(&digest(run_id), 16).unwrap_or_default();
    digest % SEED_END
}

fn unix_us(instant: SystemTime) -> u64 {
    instant.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::Cli;

    const NOW_S: u64 = 1_764_353_214;

    /// Membership and options of the rank by its command line.
    fn member(line: &str) -> (Member, RunArgs) {
        let words = format!("loadgen a:1 --json --start-at {NOW_S} {line}");
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let cli = Cli::parse_line(&words).unwrap();
        let (run, now) = (cli.run.finish().unwrap(), UNIX_EPOCH + Duration::from_secs(NOW_S));
        let member = Member::new(&cli.ranks, (&run, &cli.live), |_| None, now).unwrap().unwrap();
        let own = member.options(&run);
        (member, own)
    }

    /// The rank's part of the record of a load that starts this long after the agreed instant.
    fn started(line: &str, late: Duration, delay: Duration) -> Rank {
        let agreed = UNIX_EPOCH + Duration::from_secs(NOW_S);
        let unix = agreed + late;
        let start = Start { agreed: Some(agreed), unix, monotonic: Duration::from_secs(9), delay };
        let window = (Duration::from_millis(200), Duration::from_secs(1));
        member(line).0.rank(&start, Some(window))
    }

    fn identity(line: &str) -> (String, String) {
        let rank = started(line, Duration::ZERO, Duration::ZERO);
        (rank.run_id, rank.options_digest)
    }

    #[test]
    fn options_in_common_decide_digest_and_run() {
        let first = identity("--rank 0 --ranks 2");
        for own in [
            "--rank 1 --ranks 2",
            "--rank 0 --ranks 2 --threads 3",
            "--rank 0 --ranks 2 --pin 0",
            "--rank 0 --ranks 2 --engine epoll",
            "--rank 0 --ranks 2 --percentiles p95 --spin 5us",
            "--rank 0 --ranks 2 --conns 64 --size 64B",
        ] {
            assert_eq!(identity(own), first, "{own}");
        }
        let mut all = vec![first];
        for other in [
            "--ranks 3",
            "--ranks 2 --conns 65",
            "--ranks 2 --size 65",
            "--ranks 2 -d 9s",
            "--ranks 2 -n 9",
            "--ranks 2 --rate 1k",
            "--ranks 2 --rate 1k --arrivals poisson",
            "--ranks 2 --warmup 2s",
            "--ranks 2 --interval 2s",
            "--ranks 2 --timeout 4s",
            "--ranks 2 --connect-rate 5",
            "--ranks 2 --seed 5",
            "--ranks 2 --service hi",
        ] {
            all.push(identity(&format!("--rank 0 {other}")));
        }
        let count = all.len();
        for key in [|it: &(String, String)| it.0.clone(), |it: &(String, String)| it.1.clone()] {
            let mut keys: Vec<String> = all.iter().map(key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{all:?}");
        }
        // An identifier that is given is no option of the load.
        let named = identity("--rank 0 --ranks 2 --run-id mine");
        assert_eq!(named, ("mine".to_owned(), all.swap_remove(0).1));
    }

    #[test]
    fn ranks_divide_the_options_of_the_run() {
        let line = "--ranks 3 --conns 8 -n 100 --connect-rate 30 --rate 90 --threads 4";
        let own: Vec<RunArgs> =
            (0..3).map(|rank| member(&format!("{line} --rank {rank}")).1).collect();
        let conns: Vec<u32> = own.iter().map(|own| own.conns).collect();
        let requests: Vec<Option<u64>> = own.iter().map(|own| own.requests).collect();
        let threads: Vec<Option<usize>> = own.iter().map(|own| own.generator.threads).collect();
        assert_eq!(conns, [3, 3, 2]);
        assert_eq!(requests, [Some(34), Some(33), Some(33)]);
        assert_eq!(threads, [Some(3), Some(3), Some(2)], "no thread without a connection");
        for own in &own {
            assert_eq!((own.generator.connect_rate, own.rate), (Some(10.0), Some(90.0)));
            assert!(own.no_floor);
            assert!(own.generator.seed.is_some_and(|seed| seed < SEED_END));
            assert_eq!(own.generator.seed, member(&format!("{line} --rank 0")).1.generator.seed);
        }
        assert_eq!(member("--ranks 3 --rank 0 --seed 7").1.generator.seed, Some(7));
        let alone = member("--ranks 1 --rank 0").1;
        assert_eq!((alone.generator.seed, alone.no_floor), (None, false), "as without ranks");
    }

    #[test]
    fn start_within_10_ms_is_in_time() {
        let ms = Duration::from_millis;
        for (late, delay, met) in
            [(0, 0, true), (10, 0, true), (4, 6, true), (11, 0, false), (5, 6, false)]
        {
            let rank = started("--rank 0 --ranks 2", ms(late), ms(delay));
            assert_eq!(rank.met_deadline, met, "{late} {delay}");
            let planned = 1_000_000 * NOW_S;
            assert_eq!(rank.planned_start_unix_us, planned);
            assert_eq!(rank.start_unix_us, planned + 1000 * (late + delay));
            assert_eq!(rank.start_monotonic_us, 9_000_000 + 1000 * delay);
            // A thread that is late shortens no window.
            assert_eq!(rank.window_start_unix_us, planned + 1000 * (late + 200));
            assert_eq!(rank.window_end_unix_us - rank.window_start_unix_us, 1_000_000);
        }
    }
}
