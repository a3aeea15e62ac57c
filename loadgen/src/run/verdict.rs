//! The verdict on a run: which side was CPU-bound, and whether the numbers are valid as the
//! server's.

mod trend;

use lockstep_results::{Quota, format};

use crate::machine::neighbours::Disturbance;
use crate::machine::pauses::Pauses;

pub use trend::trend;

/// Share of its CPUs from which on a side counts as saturated.
const FULL: f64 = 0.95;

/// Share of the window for which a quota must have kept a side from the CPUs to be its limit,
/// unless the side was busy for [`MOSTLY`] of it. A quota that only bursts use up is no limit.
const SUSTAINED: f64 = 0.2;

/// See [`SUSTAINED`].
const MOSTLY: f64 = 0.5;

/// Requests due in the window below which the rate that was achieved says little.
const DUE_MIN: u64 = 5;

/// Difference of two sides' shares up to which both count as saturated if one is: the readings are
/// no more precise, and neither side would gain much if the other were faster.
const CLOSE: f64 = 0.05;

/// Share of the window that threads may have waited for a CPU before there is a warning: the
/// throughput of a closed loop is too low by about as much.
const DISTURBED: f64 = 0.05;

/// Share of the window from which on the numbers are those of the other programs.
const DISTURBED_TOO_MUCH: f64 = 0.2;

/// Share of failed connections from which on the load is not the one asked for.
const LOST: f64 = 0.01;

/// Part of the planned rate that must have been sent within the window.
const KEPT: f64 = 0.995;

/// Lateness of the generator itself that is allowed for 99 of 100 requests. On shared machines a
/// thread waits that long now and then; lower lateness is only printed.
const LATE_NS: u64 = 1_000_000;

/// Alternatively, the part of the response's 99th percentile that this lateness may have: a shift
/// of a percentile by less than a tenth does not change its meaning.
const LATE_SHARE: f64 = 0.1;

/// Share of requests that waited for a connection from which on the reason matters.
const WAITED: f64 = 0.01;

/// Measurements that the verdict is based on.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Share of the window that the generator's threads kept the busiest of its CPUs busy, without
    /// polling in vain.
    pub client_busy: f64,
    /// CPU quota of the generator.
    pub client_quota: Option<Quota>,
    /// Disturbance of the generator's threads; `None` if it is unknown, or if they share CPUs with
    /// the server.
    pub client_disturbed: Option<Disturbance>,
    /// Disturbance of the server's threads; if the sides share CPUs, of the threads of both.
    pub server_disturbed: Option<Disturbance>,
    /// True if the sides share CPUs.
    pub sides_share_cpus: bool,
    /// True if the server was started for the run, so that no other program is part of it.
    pub own_server: bool,
    /// Share of the server's CPUs that were busy; `None` if it is unknown, or meaningless because
    /// the server polls.
    pub server_busy: Option<f64>,
    /// CPU quota of the server.
    pub server_quota: Option<Quota>,
    /// Share of all CPUs that were busy, if both sides share some.
    pub shared_busy: Option<f64>,
    /// True if processes of the server came or went in the window.
    pub server_changed: bool,
    /// Pauses of the generator from the window's start to the last reply.
    pub pauses: Pauses,
    /// Pauses before.
    pub pauses_before: Pauses,
    /// Requests without a reply when the run ended.
    pub outstanding: u64,
    /// Longest time that one of them had waited.
    pub longest_wait_ns: u64,
    /// Connections without an exchange in the window of a closed loop.
    pub silent: u64,
    /// Verified exchanges in the window.
    pub exchanges: u64,
    /// Wrong replies.
    pub wrong_replies: u64,
    /// Number of connections.
    pub conns: u64,
    /// Failed connections. They are not opened again.
    pub failed: u64,
    /// Cause of the most frequent failure, if it is known.
    pub failure: Option<String>,
    /// Difference between the counts of the embedded server and those of the generator.
    pub disagreement: Option<String>,
    /// True if the generator was built without optimization.
    pub debug_build: bool,
    /// True if the load was not steady after the longest warm-up.
    pub warmup_at_bound: bool,
    /// Relative change of a closed loop's throughput in the window, if it clearly rose or fell.
    pub trend: Option<f64>,
    /// Measurements of an open loop.
    pub open: Option<OpenEvidence>,
}

/// Measurements of an open loop that the verdict is based on.
#[derive(Clone, Debug)]
pub struct OpenEvidence {
    /// Rate of the schedule.
    pub planned_per_s: f64,
    /// Rate of the requests sent in the window.
    pub achieved_per_s: f64,
    /// Achieved rate as a part of the rate of the schedule.
    pub kept: f64,
    /// Requests planned.
    pub planned: u64,
    /// Requests never sent.
    pub unsent: u64,
    /// Requests that waited for an idle connection.
    pub waited: u64,
    /// 99th percentile of the generator's own lateness.
    pub own_late_p99_ns: u64,
    /// 99th percentile of the response.
    pub response_p99_ns: u64,
    /// Fault of the distances between sends.
    pub spacing: Option<String>,
}

/// Side that was CPU-bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// The server.
    Server,
    /// The generator: the result is about the generator.
    Client,
    /// Both sides.
    Both,
    /// Neither side: the load was light, or something else limited it.
    Neither,
    /// The usage of the server is unknown.
    Unknown,
}

impl Evidence {
    /// The generator's quota, if it was used up.
    fn client_throttled(&self) -> Option<&Quota> {
        self.client_quota.as_ref().filter(|quota| quota.is_used_up())
    }

    /// The server's quota, if it was used up.
    fn server_throttled(&self) -> Option<&Quota> {
        self.server_quota.as_ref().filter(|quota| quota.is_used_up())
    }

    /// True if the generator's quota limited it: it was used up, and not only in a burst.
    fn client_limited(&self) -> bool {
        is_limit(self.client_throttled(), Some(self.client_busy))
    }

    /// True if the server's quota limited it.
    fn server_limited(&self) -> bool {
        is_limit(self.server_throttled(), self.server_busy)
    }
}

/// True if a quota that was used up limited its side.
fn is_limit(quota: Option<&Quota>, busy: Option<f64>) -> bool {
    quota
        .is_some_and(|quota| quota.throttled >= SUSTAINED || busy.is_none_or(|busy| busy >= MOSTLY))
}

impl Limit {
    /// Name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Both => "both",
            Self::Neither => "neither",
            Self::Unknown => "unknown",
        }
    }
}

/// Verdict on a run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Side that was CPU-bound.
    pub limit: Limit,
    /// Reasons why the numbers are not valid as the server's; empty if they are. Each begins with a
    /// word for programs and a colon: `generator-full: …`.
    pub invalid_reasons: Vec<String>,
    /// Warnings about valid numbers, in the same form.
    pub warnings: Vec<String>,
}

/// Judges a run.
pub fn judge(evidence: &Evidence) -> Verdict {
    let limit = limit(evidence);
    let mut invalid_reasons = invalid_reasons(evidence, limit);
    let mut warnings = Vec::new();
    // What disturbs a target alone is part of what is measured.
    let (word, threads, may_invalidate) = match evidence.sides_share_cpus {
        true => ("disturbed", "threads of both sides", true),
        false => ("server-disturbed", "the server's threads", evidence.own_server),
    };
    for (word, threads, disturbance, may_invalidate) in [
        ("disturbed", "the generator's threads", &evidence.client_disturbed, true),
        (word, threads, &evidence.server_disturbed, may_invalidate),
    ] {
        let Some(Disturbance { share, by }) = disturbance else { continue };
        if *share < DISTURBED {
            continue;
        }
        let invalid = *share >= DISTURBED_TOO_MUCH && may_invalidate;
        let list = if invalid { &mut invalid_reasons } else { &mut warnings };
        let share = percent(*share);
        list.push(format!("{word}: {by} kept {threads} waiting for a CPU for {share} of the time"));
    }
    let before = "before the measured window: connects and first exchanges may contain it, and a \
                  rate may be exceeded at first";
    warnings.extend(evidence.pauses_before.sentences(before));
    if evidence.outstanding > 0 {
        warnings.push(format!(
            "outstanding: {} without a reply when the run ended, after up to {}; they count with \
             the time they had waited, so percentiles among them are lower bounds",
            match evidence.outstanding {
                1 => "1 request was".to_owned(),
                count => format!("{count} requests were"),
            },
            format::duration(evidence.longest_wait_ns),
        ));
    }
    if let Some(open) = &evidence.open
        && (1..DUE_MIN).contains(&open.planned)
    {
        warnings.push(format!(
            "few-requests: only {} due in the measured window, so the rates measured are coarse; \
             set a longer --duration",
            if open.planned == 1 {
                "1 request was".to_owned()
            } else {
                format!("{} requests were", open.planned)
            },
        ));
    }
    if evidence.silent > 0 && evidence.exchanges > 0 {
        warnings.push(format!(
            "silent: {} of {} connections completed no exchange in the measured window",
            evidence.silent, evidence.conns
        ));
    }
    if let Some(quota) = evidence.server_throttled() {
        warnings.push(format!(
            "server-throttled: the server had used up its {} for {} of the time, so the numbers \
             are those of this quota",
            quota.words(),
            percent(quota.throttled)
        ));
    }
    if evidence.server_changed {
        warnings.push(
            "server-changed: processes of the server came or went in the measured window, so its \
             CPU time is unknown"
                .to_owned(),
        );
    }
    if evidence.warmup_at_bound {
        warnings.push(
            "not-steady: the load was not steady after the longest warm-up; set --warmup"
                .to_owned(),
        );
    }
    if let Some(change) = evidence.trend {
        warnings.push(format!(
            "not-steady: the throughput {} by {} from the first quarter of the window to the last",
            if change > 0.0 { "rose" } else { "fell" },
            percent(change.abs())
        ));
    }
    if evidence.debug_build {
        let text = "debug-build: loadgen was built without optimization; build it with --release";
        warnings.push(text.to_owned());
    }
    Verdict { limit, invalid_reasons, warnings }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn limit(evidence: &Evidence) -> Limit {
    if evidence.shared_busy.is_some_and(|busy| busy >= FULL) {
        return Limit::Both;
    }
    let client = if evidence.client_limited() { 1.0 } else { evidence.client_busy };
    let server = if evidence.server_limited() { Some(1.0) } else { evidence.server_busy };
    let Some(server) = server else {
        return if evidence.client_limited() { Limit::Client } else { Limit::Unknown };
    };
    if client < FULL && server < FULL {
        Limit::Neither
    } else if (client >= FULL && server >= FULL) || (client - server).abs() <= CLOSE {
        Limit::Both
    } else if client >= FULL {
        Limit::Client
    } else {
        Limit::Server
    }
}

fn invalid_reasons(evidence: &Evidence, limit: Limit) -> Vec<String> {
    let mut reasons = evidence.pauses.sentences("in the measured window");
    if evidence.exchanges == 0 {
        let none_due = evidence.failed < evidence.conns
            && evidence.open.as_ref().is_some_and(|open| open.planned == 0);
        let cause =
            if none_due { "; no request was due, so raise --rate or --duration" } else { "" };
        reasons
            .push(format!("no-exchange: no exchange was completed in the measured window{cause}"));
    }
    if evidence.wrong_replies > 0 {
        let count = evidence.wrong_replies;
        reasons.push(format!("wrong-replies: {count} replies differed from their requests"));
    }
    if evidence.failed > 0 && evidence.failed as f64 >= LOST * evidence.conns as f64 {
        let cause = evidence.failure.as_ref().map(|cause| format!(" ({cause})"));
        reasons.push(format!(
            "connections-lost: {} of {} connections failed{}, so the load was not the one asked for",
            evidence.failed,
            evidence.conns,
            cause.unwrap_or_default()
        ));
    }
    reasons.extend(evidence.disagreement.clone());
    reasons.extend(evidence.client_throttled().map(|quota| {
        let who = if quota.shared { "the generator and the server" } else { "the generator" };
        let whose = if quota.shared { "their common" } else { "its" };
        format!(
            "throttled: {who} had used up {whose} {} for {} of the time; raise it, or run the \
             generator in another control group",
            quota.words(),
            percent(quota.throttled)
        )
    }));
    if let Some(open) = &evidence.open {
        reasons.extend(open_reasons(evidence, open, limit));
        return reasons;
    }
    let client = percent(evidence.client_busy);
    match (limit, evidence.server_busy) {
        _ if evidence.client_throttled().is_some() => {}
        (Limit::Client, Some(server)) => reasons.push(format!(
            "generator-full: the generator was CPU-bound ({client}) and the server was not ({}): \
             the throughput is the generator's; give it more --threads or CPUs",
            percent(server)
        )),
        (Limit::Unknown, _) if evidence.client_busy >= FULL => reasons.push(format!(
            "generator-full: the generator was CPU-bound ({client}), and the server's CPU usage is \
             unknown: the throughput may be the generator's; give it more --threads or CPUs"
        )),
        _ => {}
    }
    reasons
}

/// Reasons why the numbers of an open loop are invalid. A CPU-bound generator is not one as long as
/// it sends in time.
fn open_reasons(evidence: &Evidence, open: &OpenEvidence, limit: Limit) -> Vec<String> {
    let mut reasons = Vec::new();
    let allowed_ns = LATE_NS.max((open.response_p99_ns as f64 * LATE_SHARE) as u64);
    let late = open.own_late_p99_ns > allowed_ns;
    let full = evidence.client_busy >= FULL && !matches!(limit, Limit::Both | Limit::Server);
    let both = evidence.server_disturbed.as_ref().filter(|_| evidence.sides_share_cpus);
    let disturbed = evidence.client_disturbed.as_ref().or(both);
    let disturbed = disturbed.is_some_and(|disturbance| disturbance.share >= DISTURBED)
        || evidence.own_server
            && evidence.server_disturbed.as_ref().is_some_and(|it| it.share >= DISTURBED_TOO_MUCH);
    let (word, because) = match limit {
        _ if evidence.failed >= evidence.conns => {
            ("connections-lost", "because no connection was left")
        }
        _ if evidence.client_limited() => {
            ("rate-missed", "because the generator had used up its CPU quota")
        }
        _ if evidence.server_limited() => {
            ("overloaded", "because the server had used up its CPU quota")
        }
        _ if disturbed => ("rate-missed", "while other programs used the CPUs"),
        _ if late || full => ("rate-missed", "because the generator did not keep up"),
        Limit::Both => ("overloaded", "because both sides were CPU-bound"),
        _ => (
            "overloaded",
            "because the server kept all connections busy: the response times are those of an \
             overload; lower --rate, or raise --conns if the server was not CPU-bound",
        ),
    };
    if late {
        reasons.push(format!(
            "late: the generator itself was late by {} or more for one request in a hundred, and \
             {} is allowed; give it more --threads or CPUs, or --spin 200us",
            format::duration(open.own_late_p99_ns),
            format::duration(allowed_ns),
        ));
    }
    if open.kept < KEPT {
        reasons.push(format!(
            "{word}: only {} requests/s of {} were sent in time ({:.1} %), {because}",
            format::count(open.achieved_per_s),
            format::count(open.planned_per_s),
            open.kept * 100.0,
        ));
    }
    if open.unsent > 0 {
        reasons.push(format!(
            "{word}: {} of {} requests were never sent, {because}",
            open.unsent, open.planned
        ));
    }
    let waited = open.waited as f64 / open.planned.max(1) as f64;
    if reasons.is_empty() && full && waited >= WAITED {
        reasons.push(format!(
            "generator-full: the generator was CPU-bound ({}), so the {} of requests that waited \
             for an idle connection may have waited for the generator; give it more --threads or \
             CPUs",
            percent(evidence.client_busy),
            percent(waited),
        ));
    }
    reasons.extend(open.spacing.iter().map(|fault| format!("spacing: {fault}")));
    reasons
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn disturbance(share: f64) -> Option<Disturbance> {
        Some(Disturbance { share, by: "other programs (most of all cc, pid 7)".to_owned() })
    }

    fn good() -> Evidence {
        Evidence {
            client_busy: 0.7,
            client_quota: None,
            server_quota: None,
            client_disturbed: disturbance(0.01),
            server_disturbed: disturbance(0.01),
            sides_share_cpus: false,
            own_server: true,
            server_busy: Some(0.99),
            shared_busy: None,
            server_changed: false,
            pauses: Pauses::default(),
            pauses_before: Pauses::default(),
            outstanding: 0,
            longest_wait_ns: 0,
            silent: 0,
            exchanges: 1000,
            wrong_replies: 0,
            conns: 64,
            failed: 0,
            failure: None,
            disagreement: None,
            debug_build: false,
            warmup_at_bound: false,
            trend: None,
            open: None,
        }
    }

    fn limit_at(server_busy: Option<f64>, client_busy: f64) -> Verdict {
        judge(&Evidence { client_busy, server_busy, ..good() })
    }

    #[test]
    fn saturated_side_is_the_limit() {
        for (server, client, limit, valid) in [
            (Some(1.0), 0.7, Limit::Server, true),
            (Some(0.71), 0.98, Limit::Client, false),
            (Some(0.95), 0.95, Limit::Both, true),
            (Some(0.92), 0.96, Limit::Both, true),
            (Some(0.96), 0.92, Limit::Both, true),
            (Some(0.90), 0.96, Limit::Client, false),
            (Some(0.3), 0.3, Limit::Neither, true),
            (None, 0.94, Limit::Unknown, true),
            (None, 0.96, Limit::Unknown, false),
        ] {
            let verdict = limit_at(server, client);
            assert_eq!(verdict.limit, limit);
            assert_eq!(verdict.invalid_reasons.is_empty(), valid, "{verdict:?}");
        }
    }

    #[test]
    fn saturated_shared_cpu_limits_both() {
        let shared =
            Evidence { client_busy: 0.5, server_busy: Some(0.5), shared_busy: Some(1.0), ..good() };
        assert_eq!(
            judge(&shared),
            Verdict { limit: Limit::Both, invalid_reasons: vec![], warnings: vec![] }
        );
    }

    fn quota(throttled: f64, shared: bool) -> Option<Quota> {
        Some(Quota { cpus: 0.5, throttled, shared })
    }

    #[test]
    fn used_up_quota_is_the_limit_of_its_side() {
        let shared = (quota(0.6, true), quota(0.6, true));
        for (client_quota, server_quota, limit, invalid, warned) in [
            (None, quota(0.4, false), Limit::Server, vec![], vec!["server-throttled"]),
            (quota(0.4, false), None, Limit::Client, vec!["throttled"], vec![]),
            (shared.0, shared.1, Limit::Both, vec!["throttled"], vec!["server-throttled"]),
            (quota(0.009, false), quota(0.009, false), Limit::Neither, vec![], vec![]),
        ] {
            for server_busy in [Some(0.8), None] {
                let (client_quota, server_quota) = (client_quota.clone(), server_quota.clone());
                let known = server_busy.is_some() || limit != Limit::Neither;
                let evidence = Evidence {
                    client_busy: 0.8,
                    server_busy,
                    client_quota,
                    server_quota,
                    ..good()
                };
                let verdict = judge(&evidence);
                assert_eq!(verdict.limit, if known { limit } else { Limit::Unknown });
                assert_eq!(words_of(&verdict.invalid_reasons), invalid);
                assert_eq!(words_of(&verdict.warnings), warned);
            }
        }
    }

    #[test]
    fn quota_that_is_used_up_in_bursts_is_no_limit() {
        let evidence = Evidence {
            client_busy: 0.1,
            server_busy: Some(0.25),
            server_quota: quota(0.06, false),
            ..good()
        };
        let verdict = judge(&evidence);
        assert_eq!(verdict.limit, Limit::Neither);
        assert_eq!(words_of(&verdict.warnings), ["server-throttled"]);
    }

    #[test]
    fn few_requests_are_a_warning() {
        for (planned, warned) in [(0, false), (1, true), (4, true), (5, false)] {
            let open = Some(OpenEvidence { planned, ..kept_to_plan() });
            let warnings = judge(&Evidence { open, ..good() }).warnings;
            assert_eq!(words_of(&warnings).contains(&"few-requests"), warned, "{planned}");
        }
    }

    #[test]
    fn used_up_quota_is_why_a_rate_was_missed() {
        let short = OpenEvidence { achieved_per_s: 40_000.0, kept: 0.8, ..kept_to_plan() };
        for (client_quota, server_quota, words) in [
            (quota(0.4, false), None, "rate-missed: "),
            (quota(0.4, false), quota(0.4, false), "rate-missed: "),
            (None, quota(0.4, false), "overloaded: "),
        ] {
            let open = Some(short.clone());
            let evidence = Evidence {
                client_busy: 0.8,
                client_quota,
                server_quota,
                client_disturbed: disturbance(0.3),
                open,
                ..good()
            };
            let reasons = judge(&evidence).invalid_reasons;
            let missed = reasons.iter().find(|reason| reason.contains("in time")).unwrap();
            assert!(missed.starts_with(words) && missed.contains("CPU quota"), "{missed}");
        }
    }

    #[test]
    fn reason_names_both_shares() {
        let reasons = limit_at(Some(0.71), 0.98).invalid_reasons.join("");
        assert!(reasons.contains("98 %") && reasons.contains("71 %"), "{reasons}");
    }

    #[test]
    fn every_flaw_is_a_reason() {
        let flawed = Evidence {
            exchanges: 0,
            wrong_replies: 2,
            failed: 1,
            disagreement: Some("miscount: the server counted 9, the generator 10".to_owned()),
            client_disturbed: disturbance(0.2),
            ..good()
        };
        let words = ["no-exchange", "wrong-replies", "connections-lost", "miscount", "disturbed"];
        assert_eq!(words_of(&judge(&flawed).invalid_reasons), words);
        let good = judge(&good());
        assert_eq!((good.invalid_reasons.len(), good.warnings.len()), (0, 0));
    }

    #[test]
    fn rate_is_no_cause_where_all_connections_failed() {
        for (failed, named) in [(0, true), (63, true), (64, false)] {
            let open = Some(OpenEvidence { planned: 0, ..kept_to_plan() });
            let reasons = judge(&Evidence { exchanges: 0, failed, open, ..good() }).invalid_reasons;
            assert_eq!(reasons[0].contains("no request was due"), named, "{failed}: {reasons:?}");
        }
    }

    /// Returns the words before the colons.
    fn words_of(sentences: &[String]) -> Vec<&str> {
        sentences.iter().filter_map(|sentence| Some(sentence.split_once(": ")?.0)).collect()
    }

    #[test]
    fn one_failed_connection_in_a_hundred_is_invalid() {
        let lost = |failed| judge(&Evidence { conns: 1000, failed, ..good() }).invalid_reasons;
        assert_eq!((lost(0).len(), lost(9).len(), lost(10).len()), (0, 0, 1));
        assert!(lost(10)[0].starts_with("connections-lost: 10 of 1000"), "{:?}", lost(10));
        let failure = Some("connection reset (ECONNRESET)".to_owned());
        let lost = judge(&Evidence { conns: 9, failed: 9, failure, ..good() }).invalid_reasons;
        assert!(lost[0].contains("failed (connection reset (ECONNRESET)), so"), "{lost:?}");
    }

    #[test]
    fn minor_flaws_are_warnings() {
        let doubtful = Evidence {
            debug_build: true,
            server_changed: true,
            warmup_at_bound: true,
            trend: Some(-0.07),
            client_disturbed: disturbance(0.19),
            ..good()
        };
        let verdict = judge(&doubtful);
        assert_eq!(
            words_of(&verdict.warnings),
            ["disturbed", "server-changed", "not-steady", "not-steady", "debug-build"]
        );
        assert_eq!(verdict.invalid_reasons, [""; 0]);
        let slight = Evidence { client_disturbed: disturbance(0.04), ..good() };
        assert_eq!(judge(&slight).warnings, [""; 0]);
    }

    #[test]
    fn disturbed_server_is_invalid_unless_others_may_be_part_of_it() {
        for (share, own_server, sides_share_cpus, invalid, warned) in [
            (0.04, true, false, None, None),
            (0.1, true, false, None, Some("server-disturbed")),
            (0.3, true, false, Some("server-disturbed"), None),
            (0.3, false, false, None, Some("server-disturbed")),
            (0.3, true, true, Some("disturbed"), None),
            (0.3, false, true, Some("disturbed"), None),
        ] {
            let server_disturbed = disturbance(share);
            let evidence = Evidence { server_disturbed, own_server, sides_share_cpus, ..good() };
            let client_disturbed = evidence.client_disturbed.filter(|_| !sides_share_cpus);
            let evidence = Evidence { client_disturbed, ..evidence };
            let verdict = judge(&evidence);
            assert_eq!(words_of(&verdict.invalid_reasons), Vec::from_iter(invalid));
            assert_eq!(words_of(&verdict.warnings), Vec::from_iter(warned));
            let said = [verdict.invalid_reasons, verdict.warnings].concat().concat();
            assert!(said.is_empty() || said.contains("(most of all cc, pid 7)"), "{said}");
            let open = Some(OpenEvidence { kept: 0.8, ..kept_to_plan() });
            let missed = judge(&Evidence { open, ..evidence }).invalid_reasons.concat();
            let blamed = missed.contains("while other programs used the CPUs");
            assert_eq!(blamed, invalid.is_some() || sides_share_cpus, "{missed}");
        }
    }

    fn kept_to_plan() -> OpenEvidence {
        OpenEvidence {
            planned_per_s: 50_000.0,
            achieved_per_s: 49_990.0,
            kept: 0.9998,
            planned: 500_000,
            unsent: 0,
            waited: 1_000,
            own_late_p99_ns: 200_000,
            response_p99_ns: 400_000,
            spacing: None,
        }
    }

    fn judged(client_busy: f64, open: OpenEvidence) -> Verdict {
        judge(&Evidence { client_busy, server_busy: Some(0.6), open: Some(open), ..good() })
    }

    fn reason(client_busy: f64, open: OpenEvidence) -> String {
        let verdict = judged(client_busy, open);
        assert_eq!(verdict.invalid_reasons.len(), 1, "{verdict:?}");
        verdict.invalid_reasons.concat()
    }

    #[test]
    fn kept_plan_is_valid() {
        assert_eq!(judged(0.5, kept_to_plan()).invalid_reasons, [""; 0]);
        // CPU-bound, and yet in time.
        assert_eq!(judged(0.99, kept_to_plan()).invalid_reasons, [""; 0]);
    }

    #[test]
    fn own_lateness_is_invalid() {
        let late = OpenEvidence { own_late_p99_ns: 1_100_000, ..kept_to_plan() };
        let said = reason(0.5, late.clone());
        assert!(said.contains("1.10ms") && said.contains("1.00ms is allowed"), "{said}");
        // It matters less if responses take long.
        let slow = OpenEvidence { response_p99_ns: 20_000_000, ..late };
        assert_eq!(judged(0.5, slow).invalid_reasons, [""; 0]);
    }

    #[test]
    fn missed_rate_names_its_cause() {
        let short = OpenEvidence { achieved_per_s: 40_000.0, kept: 0.8, ..kept_to_plan() };
        let said = reason(0.5, short.clone());
        assert!(said.starts_with("overloaded: ") && said.contains("(80.0 %)"), "{said}");
        let said = reason(0.99, short.clone());
        assert!(said.starts_with("rate-missed: ") && said.contains("did not keep up"), "{said}");
        let both = Evidence { client_busy: 0.97, open: Some(short), ..good() };
        let said = judge(&both).invalid_reasons.concat();
        assert!(said.starts_with("overloaded: ") && said.contains("both sides"), "{said}");
        let disturbed = Evidence { client_disturbed: disturbance(0.3), client_busy: 0.5, ..both };
        let said = judge(&disturbed).invalid_reasons.concat();
        assert!(said.contains("while other programs"), "{said}");
    }

    #[test]
    fn requests_without_connections_are_not_blamed_on_speed() {
        let open = OpenEvidence {
            kept: 0.6,
            unsent: 7,
            own_late_p99_ns: 9_000_000, // would be the cause otherwise
            ..kept_to_plan()
        };
        for (failed, word) in [(63, "rate-missed: "), (64, "connections-lost: ")] {
            let lost = Evidence { failed, open: Some(open.clone()), ..good() };
            let said = judge(&lost).invalid_reasons;
            let about_the_plan = said.iter().filter(|said| said.contains(" sent"));
            let words: Vec<bool> = about_the_plan.map(|said| said.starts_with(word)).collect();
            assert_eq!(words, [true; 2], "{said:?}");
        }
    }

    #[test]
    fn pauses_in_the_window_are_invalid_and_before_it_a_warning() {
        let pauses = Pauses { stopped: Duration::from_millis(2010), ..Pauses::default() };
        let verdict = judge(&Evidence { pauses, ..good() });
        let reason = "stopped: the generator was stopped for 2.01s in the measured window";
        assert_eq!(verdict.invalid_reasons, [reason]);
        let verdict = judge(&Evidence { pauses_before: pauses, ..good() });
        assert_eq!(verdict.invalid_reasons, [""; 0]);
        assert!(verdict.warnings[0].contains("2.01s before"), "{:?}", verdict.warnings);
    }

    #[test]
    fn requests_without_a_reply_are_a_warning() {
        let evidence =
            Evidence { outstanding: 2, longest_wait_ns: 3_500_000_000, silent: 1, ..good() };
        let Verdict { invalid_reasons, warnings, .. } = judge(&evidence);
        assert_eq!(invalid_reasons, [""; 0]);
        assert!(warnings[0].contains("2 requests were") && warnings[0].contains("up to 3.50s"));
        assert!(warnings[1].starts_with("silent: 1 of 64 connections"), "{warnings:?}");
    }

    #[test]
    fn unsent_requests_are_counted() {
        let said = reason(0.5, OpenEvidence { unsent: 7, ..kept_to_plan() });
        assert!(said.contains("overloaded: 7 of 500000 requests were never sent"), "{said}");
    }

    #[test]
    fn saturated_generator_does_not_blame_the_server() {
        let said = reason(0.99, OpenEvidence { waited: 50_000, ..kept_to_plan() });
        assert!(said.contains("99 %") && said.contains("10 % of requests"), "{said}");
        assert_eq!(
            judged(0.5, OpenEvidence { waited: 50_000, ..kept_to_plan() }).invalid_reasons,
            [""; 0],
        );
    }

    #[test]
    fn wrong_spacing_is_invalid() {
        let odd = OpenEvidence { spacing: Some("not Poisson".to_owned()), ..kept_to_plan() };
        assert_eq!(reason(0.5, odd), "spacing: not Poisson");
    }
}
