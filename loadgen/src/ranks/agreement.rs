//! Agreement of all ranks, through their launcher, that they have the same options and version, and
//! on the instant at which their load starts.
//!
//! Each rank stores its terms. After a barrier rank 0 compares them with its own, and stores the
//! verdict: the instant, or the reason why there is none. After another barrier all read it. So the
//! number of requests is proportional to that of ranks. A rank that has failed stores that, so that
//! the others end with its error instead of waiting for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_results::digest;

use crate::exit::{self, Failure};
use crate::ranks::pmi::Pmi;

/// Time from the verdict to the start: the launcher's second barrier has to pass meanwhile.
const LEAD: Duration = Duration::from_secs(1);

/// Additional time for each rank.
const LEAD_PER_RANK: Duration = Duration::from_millis(1);

/// Largest difference of clocks that may be corrected afterwards. A greater one would let a rank
/// wait for a start that is long past for the others.
const DIFFERENCE_MAX: Duration = Duration::from_secs(1);

/// Key of the verdict.
const VERDICT: &str = "lockstep-verdict";

/// Length of the longest value: Slurm receives lines of at most 1,024 bytes.
const VALUE_MAX: usize = 700;

/// A launcher that the ranks can agree through.
#[derive(Debug)]
pub struct Agreement {
    pmi: Pmi,
    index: u32,
    count: u32,
}

/// State of a rank that it stores for rank 0.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Terms {
    /// Ready to start, with this version and these options.
    Ready { version: String, digest: String, options: Vec<String> },
    /// Failed with this exit code.
    Failed { code: u8, error: String },
}

/// Verdict of rank 0.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Verdict {
    /// Microseconds of Unix time.
    Start(u64),
    /// A rank differs from rank 0.
    Different(String),
    /// A rank has failed with this exit code.
    Failed { code: u8, error: String },
}

impl Agreement {
    /// Finds the launcher that started this process as rank `index` of `count`; `None` if it offers
    /// no PMI-1. `variable` returns the value of an environment variable. Call it before this
    /// process opens descriptors.
    ///
    /// # Errors
    ///
    /// [`exit::USAGE`] if the launcher started another number of processes; [`exit::FAILURE`] if it
    /// does not answer as PMI-1 demands.
    pub fn find(
        index: u32,
        count: u32,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Failure> {
        let failed = |error: String| {
            let hint = "a launcher serves one run of each process; without it, give --start-at";
            Failure::new(exit::FAILURE, format!("PMI: {error}")).hint(hint)
        };
        let Some(socket) = Pmi::inherited(&variable).map_err(failed)? else { return Ok(None) };
        // All processes of the launch have to be in a barrier.
        let own = (index.to_string(), count.to_string());
        let launcher = variable("PMI_RANK").zip(variable("PMI_SIZE"));
        if let Some((rank, size)) = launcher.filter(|place| *place != own) {
            let error = format!(
                "rank {index} of {count} is {rank} of {size} to its launcher (PMI_RANK, PMI_SIZE)"
            );
            let hint = "all processes of the launch have to be ranks; else give --start-at";
            return Err(Failure::new(exit::USAGE, error).hint(hint));
        }
        let pmi = Pmi::start(socket).map_err(failed)?;
        Ok(Some(Self { pmi, index, count }))
    }

    /// Identifier of the launch, the same for all ranks.
    pub fn job(&self) -> &str {
        self.pmi.name()
    }

    /// Agrees on the start: `start` if it is given, else an instant of rank 0's choice. `options`
    /// are those that all ranks must have in common, one on a line. Waits for the slowest rank, at
    /// most for `patience`.
    ///
    /// # Errors
    ///
    /// The first rank that failed or differs, in words; or a rank that was waited for in vain.
    pub fn agree(
        self,
        version: &str,
        options: &str,
        start: Option<SystemTime>,
        patience: Duration,
    ) -> Result<SystemTime, Failure> {
        let given = start.map(unix_us);
        let start_at = given.map_or("none".to_owned(), |us| format!("{us} us"));
        let options = format!("{options}start_at {start_at}\n");
        let terms = Terms::Ready {
            version: version.to_owned(),
            digest: digest(&options),
            options: options.lines().map(str::to_owned).collect(),
        };
        let lead = LEAD + LEAD_PER_RANK * self.count;
        let start = self.conclude(&terms, lead, given, patience)?;
        let ahead = start.duration_since(SystemTime::now()).unwrap_or_default();
        match ahead.checked_sub(lead + DIFFERENCE_MAX) {
            Some(_) if given.is_none() => Err(Failure::new(
                exit::FAILURE,
                format!("the clock here is behind that of rank 0 by at least {:?}", ahead - lead),
            )
            .hint("synchronize the clocks of all hosts, by chrony or systemd-timesyncd")),
            _ => Ok(start),
        }
    }

    /// Reports to the other ranks that this one has failed. Waits for them, so that they learn of
    /// it, but at most for `patience`.
    pub fn fail(self, failure: &Failure, patience: Duration) {
        let terms = Terms::Failed { code: failure.code, error: failure.error.clone() };
        let _own_failure_is_reported = self.conclude(&terms, Duration::ZERO, None, patience);
    }

    /// Stores the terms, and returns the start.
    fn conclude(
        mut self,
        terms: &Terms,
        lead: Duration,
        given: Option<u64>,
        patience: Duration,
    ) -> Result<SystemTime, Failure> {
        let failed = |error: String| Failure::new(exit::FAILURE, format!("PMI: {error}"));
        let missing = |error: String| {
            failed(error).hint("a rank has ended, hangs, or was never started; see its own error")
        };
        let value_max = self.pmi.value_max().min(VALUE_MAX);
        let pmi = &mut self.pmi;
        pmi.put(&key(self.index), &terms.value(value_max)).map_err(failed)?;
        pmi.barrier(patience).map_err(missing)?;
        if self.index == 0 {
            let all = (0..self.count).map(|index| Ok(Terms::parse(&pmi.get(&key(index))?)));
            let verdict = match all.collect::<Result<Vec<_>, String>>() {
                Ok(all) => match refusal(&all) {
                    None => {
                        Verdict::Start(given.unwrap_or_else(|| unix_us(SystemTime::now() + lead)))
                    }
                    Some(refused) => refused,
                },
                Err(error) => Verdict::Failed { code: exit::FAILURE, error },
            };
            pmi.put(VERDICT, &verdict.value(value_max)).map_err(failed)?;
        }
        pmi.barrier(patience).map_err(missing)?;
        let verdict = pmi.get(VERDICT).map_err(failed)?;
        let _nothing_depends_on_it = self.pmi.finalize();
        match Verdict::parse(&verdict) {
            Some(Verdict::Start(us)) => Ok(UNIX_EPOCH + Duration::from_micros(us)),
            Some(Verdict::Different(error)) => Err(Failure::new(exit::USAGE, error).hint(
                "start the same loadgen with the same load on all ranks; threads and CPUs may differ",
            )),
            Some(Verdict::Failed { code, error }) => {
                Err(Failure::new(code, error).hint("all ranks end, as one cannot start"))
            }
            None => Err(failed(format!("rank 0 decided {verdict:?}"))),
        }
    }
}

/// Returns the reason why ranks with these terms cannot start together.
fn refusal(all: &[Option<Terms>]) -> Option<Verdict> {
    let different = |error: String| Some(Verdict::Different(error));
    let failed = all.iter().enumerate().find_map(|(index, terms)| match terms {
        Some(Terms::Failed { code, error }) => {
            Some((*code, format!("rank {index} failed: {error}")))
        }
        _ => None,
    });
    if let Some((code, error)) = failed {
        return Some(Verdict::Failed { code, error });
    }
    let mut ready = all.iter().map(|terms| match terms {
        Some(Terms::Ready { version, digest, options }) => Some((version, digest, options)),
        _ => None,
    });
    let own = ready.next().flatten();
    for (index, terms) in (1..).zip(ready) {
        let (Some((version, digest, options)), Some((own_version, own_digest, own_options))) =
            (terms, own)
        else {
            return different(format!("rank {index} is another version of loadgen"));
        };
        if version != own_version {
            let error =
                format!("rank {index} is loadgen {version}, rank 0 is loadgen {own_version}");
            return different(error);
        }
        if digest != own_digest {
            let difference = options.iter().zip(own_options).find(|(its, own)| its != own);
            let error = match difference {
                Some((its, own)) => format!("rank {index} has {its}, rank 0 has {own}"),
                None => format!("rank {index} has other options than rank 0"),
            };
            return different(error);
        }
    }
    None
}

/// Key of a rank's terms.
fn key(index: u32) -> String {
    format!("lockstep-{index}")
}

impl Terms {
    /// The value to store. Options that do not fit are left out, the last first: they remain in the
    /// digest.
    fn value(&self, value_max: usize) -> String {
        match self {
            Self::Ready { version, digest, options } => {
                let mut value = value(&["ready", version, digest]);
                for option in options.iter().map(|option| encode(option)) {
                    if value.len() + 1 + option.len() > value_max {
                        break;
                    }
                    value = value + "," + &option;
                }
                value
            }
            Self::Failed { code, error } => failure(*code, error, value_max),
        }
    }

    fn parse(value: &str) -> Option<Self> {
        match &fields(value)?.as_slice() {
            [kind, version, digest, options @ ..] if kind == "ready" => Some(Self::Ready {
                version: version.clone(),
                digest: digest.clone(),
                options: options.to_vec(),
            }),
            [kind, code, error] if kind == "failed" => {
                Some(Self::Failed { code: failure_code(code), error: error.clone() })
            }
            _ => None,
        }
    }
}

impl Verdict {
    fn value(&self, value_max: usize) -> String {
        match self {
            Self::Start(us) => value(&["start", &us.to_string()]),
            Self::Different(error) => cut(value(&["different", ""]), error, value_max),
            Self::Failed { code, error } => failure(*code, error, value_max),
        }
    }

    fn parse(value: &str) -> Option<Self> {
        match &fields(value)?.as_slice() {
            [kind, us] if kind == "start" => us.parse().ok().map(Self::Start),
            [kind, error] if kind == "different" => Some(Self::Different(error.clone())),
            [kind, code, error] if kind == "failed" => {
                Some(Self::Failed { code: failure_code(code), error: error.clone() })
            }
            _ => None,
        }
    }
}

/// The value of a failure.
fn failure(code: u8, error: &str, value_max: usize) -> String {
    cut(value(&["failed", &code.to_string(), ""]), error, value_max)
}

/// Appends a last field to a value, cut if it is too long.
fn cut(mut value: String, field: &str, value_max: usize) -> String {
    for char in field.chars().map(|char| encode(char.encode_utf8(&mut [0; 4]))) {
        if value.len() + char.len() > value_max {
            break;
        }
        value += &char;
    }
    value
}

/// The exit code of a failed rank, if it is one.
fn failure_code(code: &str) -> u8 {
    code.parse().ok().filter(|code| *code != 0).unwrap_or(exit::FAILURE)
}

/// Joins fields to a value without characters that launchers treat specially.
fn value(fields: &[&str]) -> String {
    fields.iter().map(|field| encode(field)).collect::<Vec<_>>().join(",")
}

/// Replaces bytes other than letters, digits and some punctuation by `%` and two digits.
fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'/' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02x}"),
    };
    text.bytes().map(encode).collect()
}

/// The fields of a value, without control characters; `None` if it was not made by [`value`].
fn fields(value: &str) -> Option<Vec<String>> {
    value.split(',').map(decode).collect()
}

fn decode(field: &str) -> Option<String> {
    let mut parts = field.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    let text = String::from_utf8(bytes).ok()?;
    Some(text.chars().map(|char| if char.is_control() { '?' } else { char }).collect())
}

fn unix_us(instant: SystemTime) -> u64 {
    instant.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ranks::scripted_launcher::{self, DIALECTS, Dialect};

    const PATIENCE: Duration = Duration::from_secs(60);

    type Work = Box<dyn FnOnce(Agreement) -> Result<SystemTime, Failure> + Send>;

    /// Runs each piece of work as a rank.
    fn together(dialect: Dialect, ranks: Vec<Work>) -> Vec<Result<SystemTime, Failure>> {
        let count = ranks.len();
        let sockets = scripted_launcher::start(dialect, count);
        let rank = |(index, (socket, work)): (usize, (_, Work))| {
            thread::spawn(move || {
                let pmi = Pmi::start(socket).unwrap();
                work(Agreement { pmi, index: index as u32, count: count as u32 })
            })
        };
        let threads: Vec<_> = sockets.into_iter().zip(ranks).enumerate().map(rank).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    fn ready(version: &'static str, options: &'static str) -> Work {
        Box::new(move |agreement| agreement.agree(version, options, None, PATIENCE))
    }

    fn at(start: Option<u64>) -> Work {
        let start = start.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        Box::new(move |agreement| agreement.agree("0.1.0", "size 64\n", start, PATIENCE))
    }

    fn failed(code: u8, error: &'static str) -> Work {
        Box::new(move |agreement| {
            let failure = Failure::new(code, error);
            agreement.fail(&failure, PATIENCE);
            Err(failure)
        })
    }

    #[test]
    fn equal_ranks_get_the_same_instant_ahead() {
        for dialect in DIALECTS {
            let before = SystemTime::now();
            let ranks = (0..5).map(|_| ready("0.1.0", "conns 64\nsize 64\n")).collect();
            let starts = together(dialect, ranks);
            let start = *starts[0].as_ref().unwrap();
            assert!(starts.iter().all(|it| *it.as_ref().unwrap() == start), "{starts:?}");
            let lead = start.duration_since(before).unwrap();
            assert!(lead >= LEAD, "{lead:?}");
        }
    }

    #[test]
    fn rank_alone_agrees_with_itself() {
        let start = together(DIALECTS[0], vec![ready("0.1.0", "size 64\n")]).remove(0);
        assert!(start.unwrap() > SystemTime::now() - PATIENCE);
    }

    #[test]
    fn given_start_is_kept_if_all_have_it() {
        for seconds in [1_000_000_000, 4_000_000_000] {
            let starts = together(DIALECTS[0], vec![at(Some(seconds)), at(Some(seconds))]);
            let expected = UNIX_EPOCH + Duration::from_secs(seconds);
            assert!(starts.iter().all(|start| *start.as_ref().unwrap() == expected));
        }
        for other in [None, Some(1_000_000_001)] {
            let starts = together(DIALECTS[0], vec![at(Some(1_000_000_000)), at(other)]);
            for start in starts {
                let failure = start.unwrap_err();
                assert_eq!(failure.code, exit::USAGE);
                assert!(failure.error.starts_with("rank 1 has start_at "), "{}", failure.error);
            }
        }
    }

    #[test]
    fn first_difference_is_named_to_all() {
        let own = || ready("0.1.0", "conns 64\nsize 64\nduration 1s\n");
        for (other, code, error) in [
            (
                ready("0.1.0", "conns 64\nsize 128\nduration 2s\n"),
                exit::USAGE,
                "rank 2 has size 128, rank 0 has size 64",
            ),
            (
                ready("0.1.0", "conns 64\nsize 64\nduration 2s\n"),
                exit::USAGE,
                "rank 2 has duration 2s, rank 0 has duration 1s",
            ),
            (
                ready("0.2.0", "conns 64\nsize 128\n"),
                exit::USAGE,
                "rank 2 is loadgen 0.2.0, rank 0 is loadgen 0.1.0",
            ),
            (
                failed(4, "cannot connect to 10.0.0.1:8898: connection refused (ECONNREFUSED)"),
                4,
                "rank 2 failed: cannot connect to 10.0.0.1:8898: connection refused (ECONNREFUSED)",
            ),
        ] {
            let mut results = together(DIALECTS[2], vec![own(), own(), other, own()]);
            let own = results.remove(2).unwrap_err();
            assert_eq!(own.code, code);
            for result in results {
                let failure = result.unwrap_err();
                assert_eq!((failure.code, failure.error.as_str()), (code, error));
            }
        }
    }

    #[test]
    fn failed_rank_goes_before_a_difference_and_rank_0_may_be_it() {
        let ranks =
            vec![failed(2, "no such CPU"), ready("0.1.0", "size 64\n"), ready("0.2.0", "size 1\n")];
        for result in together(DIALECTS[1], ranks).into_iter().skip(1) {
            let failure = result.unwrap_err();
            assert_eq!((failure.code, failure.error.as_str()), (2, "rank 0 failed: no such CPU"));
        }
    }

    #[test]
    fn rank_that_never_comes_is_an_error() {
        let short = Duration::from_millis(100);
        let waiting: Work =
            Box::new(move |agreement| agreement.agree("0.1.0", "size 64\n", None, short));
        let gone: Work = Box::new(|agreement| {
            drop(agreement);
            Err(Failure::new(1, "gone"))
        });
        let failure = together(DIALECTS[2], vec![waiting, gone]).remove(0).unwrap_err();
        assert_eq!(failure.code, exit::FAILURE);
        assert!(failure.error.contains("no answer within 100ms"), "{}", failure.error);
        assert!(failure.hint.unwrap().contains("a rank has ended"));
    }

    #[test]
    fn clock_that_is_far_behind_is_an_error() {
        // As rank 0 of such a launch, a launcher that answers for all.
        let ahead: Work = Box::new(|mut agreement| {
            agreement.pmi.put("lockstep-0", "ready,0,0").unwrap();
            agreement.pmi.barrier(PATIENCE).unwrap();
            let start = SystemTime::now() + Duration::from_secs(600);
            agreement.pmi.put(VERDICT, &Verdict::Start(unix_us(start)).value(99)).unwrap();
            agreement.pmi.barrier(PATIENCE).unwrap();
            Ok(start)
        });
        let failure = together(DIALECTS[0], vec![ahead, ready("0", "")]).remove(1).unwrap_err();
        assert!(failure.error.contains("is behind that of rank 0"), "{}", failure.error);
    }

    #[test]
    fn verdict_that_is_not_understood_is_an_error() {
        for verdict in [
            "",
            "start",
            "start,-1",
            "start,x",
            "start,1,2",
            "failed,1",
            "different",
            "different,1,2",
            "go,1",
            "%",
            "%f",
        ] {
            let garbage: Work = Box::new(move |mut agreement| {
                agreement.pmi.put("lockstep-0", "garbage").unwrap();
                agreement.pmi.barrier(PATIENCE).unwrap();
                agreement.pmi.put(VERDICT, verdict).unwrap();
                agreement.pmi.barrier(PATIENCE).unwrap();
                Ok(UNIX_EPOCH)
            });
            let failure =
                together(DIALECTS[0], vec![garbage, ready("0", "")]).remove(1).unwrap_err();
            assert!(failure.error.contains("rank 0 decided"), "{verdict}: {}", failure.error);
        }
    }

    #[test]
    fn terms_that_are_not_understood_are_another_version() {
        for garbage in ["", "ready", "ready,0.1.0", "failed,4", "x,y,z", "ready,%zz,1", "%80,1,2"] {
            assert_eq!(Terms::parse(garbage), None, "{garbage}");
        }
        let own = Some(Terms::Ready {
            version: "0.1.0".to_owned(),
            digest: "0".to_owned(),
            options: Vec::new(),
        });
        let error = "rank 1 is another version of loadgen".to_owned();
        assert_eq!(refusal(&[own, None]), Some(Verdict::Different(error)));
    }

    #[test]
    fn code_of_a_failed_rank_is_that_of_a_failure() {
        for (code, expected) in [("4", 4), ("137", 137), ("0", 1), ("-1", 1), ("256", 1), ("", 1)] {
            let verdict = Verdict::parse(&format!("failed,{code},x"));
            let failed = Verdict::Failed { code: expected, error: "x".to_owned() };
            assert_eq!(verdict, Some(failed), "{code}");
        }
    }

    #[test]
    fn fields_of_any_text_return_as_printable_text_within_the_limit() {
        fastrand::seed(14);
        for _ in 0..2000 {
            let chars = ['a', ',', '%', ' ', '=', '\n', '\x1b', '\u{9b}', 'é', '😀', '"', ';', '0'];
            let text: String =
                (0..fastrand::usize(..40)).map(|_| chars[fastrand::usize(..chars.len())]).collect();
            let printable = text.replace(['\n', '\x1b', '\u{9b}'], "?");
            let value = value(&["start", &text]);
            assert!(value.bytes().all(|byte| byte.is_ascii_graphic() && !b"=;".contains(&byte)));
            assert_eq!(fields(&value).unwrap(), ["start", printable.as_str()]);
            let cut = Terms::Failed { code: 4, error: text.clone() }.value(50);
            assert!(cut.len() <= 50);
            match Terms::parse(&cut) {
                Some(Terms::Failed { code: 4, error }) => assert!(printable.starts_with(&error)),
                other => panic!("{cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn options_that_do_not_fit_differ_by_their_digest() {
        let long = |last: &str| {
            let options: String = (0..100).map(|n| format!("option{n} {n}\n")).collect();
            options + last
        };
        let terms = |last: &str| {
            let options = long(last);
            let terms = Terms::Ready {
                version: "0.1.0".to_owned(),
                digest: digest(&options),
                options: options.lines().map(str::to_owned).collect(),
            };
            let value = terms.value(VALUE_MAX);
            assert!(value.len() <= VALUE_MAX && value.len() > VALUE_MAX - 30);
            Terms::parse(&value)
        };
        let error = "rank 1 has other options than rank 0".to_owned();
        let different = Some(Verdict::Different(error));
        assert_eq!(refusal(&[terms("last 1\n"), terms("last 2\n")]), different);
        assert_eq!(refusal(&[terms("last 1\n"), terms("last 1\n")]), None);
    }
}
