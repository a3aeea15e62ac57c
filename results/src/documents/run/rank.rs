//! Ranks: the load-generating processes of one run, often on several machines.
//!
//! Each rank writes a record with its [`Rank`]. `loadgen merge` adds the records to one, with a
//! [`RankRow`] for each rank and a [`Merge`].
//!
//! Instants are microseconds of Unix time, so that readers that have only floating-point numbers
//! keep them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::format;
use crate::text::plural;

/// Delay of a start that is tolerated, microseconds.
pub(crate) const LATE_MAX_US: u64 = 10_000;

/// Place of a record among those of its run.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rank {
    /// Number of the rank, from 0.
    pub index: u32,
    /// Number of ranks.
    pub count: u32,
    /// Identifier that all ranks of the run have in common.
    pub run_id: String,
    /// Source of index and count: `--rank`, or environment variables such as `PMI_RANK, PMI_SIZE`;
    /// `default` if only a start instant was given.
    pub source: String,
    /// Source of the start instant: `--start-at` or `PMI`; `none` if the rank did not wait for one.
    pub start_source: String,
    /// Digest of the options that all ranks must have in common.
    pub options_digest: String,
    /// Identifier of the boot of the machine (`/proc/sys/kernel/random/boot_id`), hashed. Ranks
    /// with the same one share a clock, and the monotonic instant below.
    pub boot: Option<String>,
    /// Agreed start of the load.
    pub planned_start_unix_us: u64,
    /// Start of the load.
    pub start_unix_us: u64,
    /// Start of the load on CLOCK_MONOTONIC.
    pub start_monotonic_us: u64,
    /// Start of the measured window.
    pub window_start_unix_us: u64,
    /// End of the measured window.
    pub window_end_unix_us: u64,
    /// True if the load started within 10 ms after the agreed instant.
    pub met_deadline: bool,
    /// Clock of the machine before the run.
    pub clock_before: Option<ClockState>,
    /// Clock of the machine after the run.
    pub clock_after: Option<ClockState>,
}

impl Rank {
    /// True if its load started, and its window was measured.
    pub(super) fn has_window(&self) -> bool {
        self.window_end_unix_us > self.window_start_unix_us
    }

    /// `rank 2 of 4`.
    pub(super) fn place(&self) -> String {
        format!("rank {} of {}", self.index, self.count)
    }

    /// `started 0.30ms after the agreed instant`, if there was one and the load started.
    pub(super) fn punctuality(&self) -> Option<String> {
        let (planned, start) = (self.planned_start_unix_us, self.start_unix_us);
        let side = if start < planned { "before" } else { "after" };
        let delay = duration_us(start.abs_diff(planned));
        (self.has_window() && self.start_source != "none")
            .then(|| format!("started {delay} {side} the agreed instant"))
    }
}

/// State of the realtime clock, as a time daemon has set it in the kernel (adjtimex(2)). Not a
/// proof: chrony without `rtcsync` leaves a good clock marked as unsynchronized. systemd-timesyncd
/// sets errors of 0 without knowing them; these are absent.
#[skip_serializing_none]
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClockState {
    /// False if the kernel regards the clock as unsynchronized (`STA_UNSYNC`).
    pub synchronized: bool,
    /// Bound of the error, microseconds; absent if unknown.
    pub max_error_us: Option<u64>,
    /// Estimate of the error, microseconds; absent if unknown.
    pub estimated_error_us: Option<u64>,
    /// Offset that is still being corrected, nanoseconds.
    pub offset_ns: i64,
}

/// A rank of a merged record.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RankRow {
    /// Place of the rank among those of its run.
    pub rank: Rank,
    /// Machine, as in [`Environment::host`](crate::Environment::host).
    pub host: Option<String>,
    /// Command line of the rank, program name first.
    pub argv: Vec<String>,
    /// True if the numbers of the rank may be quoted.
    pub valid: bool,
    /// Number of its connections.
    pub conns: u32,
    /// Number of its load-generating threads.
    pub threads: u32,
    /// Seconds of its measured window.
    pub duration_s: f64,
    /// Exchanges completed in its measured window.
    pub exchanges: u64,
    /// `exchanges / duration_s`.
    pub throughput_per_s: f64,
    /// Median of its main latency; absent if nothing was timed.
    pub p50_ns: Option<u64>,
    /// 99th percentile of its main latency.
    pub p99_ns: Option<u64>,
    /// Number of its failures.
    pub errors_total: u64,
    /// CPU time of the rank for each of its exchanges; absent if there were none.
    pub client_cpu_us_per_exchange: Option<f64>,
    /// CPUs of the rank, as a kernel CPU list.
    pub client_cpus: String,
}

impl RankRow {
    /// Identity of the rank's machine: its boot, which pods on one machine share and clones of a
    /// machine do not, else its [`host`](Self::host).
    pub(crate) fn machine(&self) -> Option<&str> {
        self.rank.boot.as_deref().or(self.host.as_deref())
    }

    /// Start of the load after the agreed instant, microseconds; negative if it was before. `None`
    /// if the load did not start, or as soon as possible.
    pub fn late_us(&self) -> Option<i64> {
        let (start, planned) = (self.rank.start_unix_us, self.rank.planned_start_unix_us);
        let late = i128::from(start) - i128::from(planned);
        let late = late.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        (self.rank.has_window() && self.rank.start_source != "none").then_some(late)
    }
}

/// Common properties of the ranks of a merged record.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Merge {
    /// Identifier of the run.
    pub run_id: String,
    /// Number of ranks of the run.
    pub expected: u32,
    /// Ranks without a record, which `--partial` allowed; absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<u32>,
    /// Time between the first and the last start of a rank. This and the instants are of the ranks
    /// whose load started; absent if none did.
    pub start_skew_us: Option<u64>,
    /// Clock of the instants below and of the skew: `monotonic`, which all ranks have in common;
    /// `realtime`, of several machines, and only as good as their agreement.
    pub clock: String,
    /// First start of the load.
    pub first_start_unix_us: Option<u64>,
    /// Start of the common window, in which all these ranks measured; absent if there is none.
    pub common_start_unix_us: Option<u64>,
    /// End of the common window.
    pub common_end_unix_us: Option<u64>,
    /// Last end of a measured window.
    pub last_end_unix_us: Option<u64>,
    /// Common window as a share of the longest window of a rank; 0 if there is none.
    pub overlap: f64,
}

/// Knowledge about the error of a clock, the best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Knowledge {
    /// Synchronized, with this bound of the error in microseconds.
    Bounded(u64),
    Unbounded,
    Unsynchronized,
    Unread,
}

impl Knowledge {
    fn of(state: Option<&ClockState>) -> Self {
        match state {
            None => Self::Unread,
            Some(state) if !state.synchronized => Self::Unsynchronized,
            Some(state) => state.max_error_us.map_or(Self::Unbounded, Self::Bounded),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Bounded(us) => format!("synchronized, wrong by at most {}", duration_us(us)),
            Self::Unbounded => "synchronized, with an unknown error".to_owned(),
            Self::Unsynchronized => "not synchronized as far as the kernel knows".to_owned(),
            Self::Unread => "its state cannot be read here".to_owned(),
        }
    }
}

fn duration_us(us: u64) -> String {
    format::duration(us.saturating_mul(1000))
}

/// Describes in one sentence how far the realtime clocks of these ranks can be trusted. Ranks of
/// the same boot share a clock; of its readings before and after the run the worst counts.
pub fn clocks<'a>(ranks: impl IntoIterator<Item = &'a Rank>) -> String {
    let mut clocks = BTreeMap::new();
    let mut count = 0;
    for rank in ranks {
        let key = rank.boot.as_deref().ok_or(rank.index); // Without a boot, a clock of its own.
        let states = [&rank.clock_before, &rank.clock_after];
        let worst = states.map(|state| Knowledge::of(state.as_ref())).into_iter().max();
        let known = clocks.entry(key).or_insert(Knowledge::Bounded(0));
        *known = worst.unwrap_or(Knowledge::Unread).max(*known);
        count += 1;
    }
    let mut known: Vec<Knowledge> = clocks.into_values().collect();
    known.sort_unstable();
    match known[..] {
        [] => "no clock".to_owned(),
        [one] if count == 1 => one.words(),
        [one] => format!("one for all ranks (same boot): {}", one.words()),
        // The greatest difference is that of the two greatest errors.
        [.., Knowledge::Bounded(a), Knowledge::Bounded(b)] => format!(
            "{}, all synchronized: they differ by at most {}",
            plural(known.len() as u64, "clock"),
            duration_us(a.saturating_add(b))
        ),
        _ => {
            let number = |of: fn(&Knowledge) -> bool| known.iter().filter(|it| of(it)).count();
            let kinds = [
                (number(|it| matches!(it, Knowledge::Bounded(_))), "with a known error"),
                (number(|it| *it == Knowledge::Unbounded), "synchronized with an unknown error"),
                (number(|it| *it == Knowledge::Unsynchronized), "not synchronized"),
                (number(|it| *it == Knowledge::Unread), "not readable"),
            ];
            let kinds = kinds.iter().filter(|(number, _)| *number > 0);
            let kinds: Vec<String> = kinds.map(|(n, kind)| format!("{n} {kind}")).collect();
            let clocks = plural(known.len() as u64, "clock");
            format!("{clocks}, {}: their difference is unknown", kinds.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: ClockState = ClockState {
        synchronized: true,
        max_error_us: None,
        estimated_error_us: None,
        offset_ns: 0,
    };

    fn bounded(us: u64) -> Option<ClockState> {
        Some(ClockState { max_error_us: Some(us), ..UNKNOWN })
    }

    fn unsynchronized() -> Option<ClockState> {
        // The kernel reports a bound then, too: 16 s.
        Some(ClockState { synchronized: false, max_error_us: Some(16_000_000), ..UNKNOWN })
    }

    fn rank(index: u32, boot: &str, before: Option<ClockState>, after: Option<ClockState>) -> Rank {
        let boot = Some(boot.to_owned()).filter(|boot| !boot.is_empty());
        Rank { index, boot, clock_before: before, clock_after: after, ..Rank::default() }
    }

    #[test]
    fn clock_of_one_rank_is_as_good_as_its_worst_reading() {
        for (before, after, words) in [
            (bounded(900), bounded(1200), "synchronized, wrong by at most 1.20ms"),
            (bounded(900), Some(UNKNOWN), "synchronized, with an unknown error"),
            (unsynchronized(), bounded(900), "not synchronized as far as the kernel knows"),
            (bounded(900), None, "its state cannot be read here"),
        ] {
            assert_eq!(clocks(&[rank(0, "a", before, after)]), words);
        }
    }

    #[test]
    fn ranks_of_one_boot_share_a_clock() {
        let ranks = [rank(0, "a", bounded(1), bounded(1)), rank(1, "a", bounded(2), bounded(3))];
        let words = "one for all ranks (same boot): synchronized, wrong by at most 3.00us";
        assert_eq!(clocks(&ranks), words);
    }

    #[test]
    fn clocks_differ_by_the_two_greatest_errors_if_all_are_known() {
        let known = |index, boot, us| rank(index, boot, bounded(us), bounded(us));
        let mut ranks = vec![known(0, "a", 1000), known(1, "b", 5000), known(2, "c", 2000)];
        assert_eq!(clocks(&ranks), "3 clocks, all synchronized: they differ by at most 7.00ms");
        ranks.push(rank(3, "d", Some(UNKNOWN), Some(UNKNOWN)));
        ranks.push(rank(4, "e", unsynchronized(), unsynchronized()));
        ranks.push(rank(5, "", None, None));
        ranks.push(rank(6, "", None, None));
        let words = "7 clocks, 3 with a known error, 1 synchronized with an unknown error, \
                     1 not synchronized, 2 not readable: their difference is unknown";
        assert_eq!(clocks(&ranks), words);
    }
}
