//! Whether an open loop kept to its plan, and whose doing it was where it did not.

use lockstep_results::format;

use super::{DISTURBED, Evidence, FULL, Limit};

/// The part of the planned rate that must have been sent within the window.
const KEPT: f64 = 0.995;

/// How late the generator's own doing may make 99 of 100 requests. Shared machines let a thread
/// wait that long now and then; below it, lateness is printed and left to the reader.
const LATE_NS: u64 = 1_000_000;

/// Or else how late, as a part of the response's 99th percentile: what shifts a percentile by less
/// than a tenth does not change what it says.
const LATE_SHARE: f64 = 0.1;

/// From this share of requests on that waited for a connection, it matters why they did.
const WAITED: f64 = 0.01;

/// Why requests were not sent when they were due, if nothing else was in the way.
const SERVER: &str = "because the server kept all connections busy: the response times are those \
                      of an overload; lower --rate, or raise --conns if the server was not full";

/// Or else if there was nobody to send them, which is neither a matter of speed nor of the rate.
const NOBODY_LEFT: &str = "because no connection was left";

/// What became of the plan of an open loop.
#[derive(Clone, Debug)]
pub struct OpenEvidence {
    /// The rate asked for.
    pub planned_per_s: f64,
    /// The rate at which requests were sent in the window.
    pub achieved_per_s: f64,
    /// The one over the other, by what was really planned.
    pub kept: f64,
    /// Requests planned.
    pub planned: u64,
    /// Those that were not sent at all.
    pub unsent: u64,
    /// Those that waited for an idle connection.
    pub waited: u64,
    /// The 99th percentile of the generator's own lateness.
    pub own_late_p99_ns: u64,
    /// The 99th percentile of the response.
    pub response_p99_ns: u64,
    /// What is wrong with the distances of the sends, in words.
    pub spacing: Option<String>,
}

/// Why an open loop's numbers must not be quoted.
pub(super) fn reasons(evidence: &Evidence, open: &OpenEvidence, limit: Limit) -> Vec<String> {
    let mut reasons = Vec::new();
    let allowed_ns = LATE_NS.max((open.response_p99_ns as f64 * LATE_SHARE) as u64);
    let late = open.own_late_p99_ns > allowed_ns;
    let full = evidence.client_busy >= FULL && !matches!(limit, Limit::Both | Limit::Server);
    let disturbed = evidence.client_waiting.is_some_and(|waiting| waiting >= DISTURBED);
    let (word, because) = match limit {
        _ if evidence.failed >= evidence.conns => ("connections-lost", NOBODY_LEFT),
        _ if disturbed => ("rate-missed", "while other programs used the processors"),
        _ if late || full => ("rate-missed", "because the generator did not keep up"),
        Limit::Both => ("overloaded", "because the processors of both sides were full"),
        _ => ("overloaded", SERVER),
    };
    if late {
        reasons.push(format!(
            "late: the generator itself was late, by {} or more for one request in a hundred, where {} is \
             allowed; give it more --threads or CPUs, or --spin 200us",
            format::duration(open.own_late_p99_ns),
            format::duration(allowed_ns),
        ));
    }
    if open.kept < KEPT {
        reasons.push(format!(
            "{word}: only {} requests/s of {} were sent in time ({:.1} %), {because}",
            format::count(open.achieved_per_s.round()),
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
            "generator-full: its processors were full ({:.0} %), so that the {:.0} % of requests that \
             waited for an idle connection may have waited for the generator; give it more \
             --threads or CPUs",
            evidence.client_busy * 100.0,
            waited * 100.0,
        ));
    }
    reasons.extend(open.spacing.iter().map(|fault| format!("spacing: {fault}")));
    reasons
}

#[cfg(test)]
mod tests {
    use super::super::tests::good;
    use super::super::{Verdict, judge};
    use super::*;

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
    fn a_plan_that_was_kept_is_valid() {
        assert_eq!(judged(0.5, kept_to_plan()).invalid_reasons, [""; 0]);
        // Full, and yet in time: nothing else was asked of it.
        assert_eq!(judged(0.99, kept_to_plan()).invalid_reasons, [""; 0]);
    }

    #[test]
    fn to_be_late_oneself_is_invalid() {
        let late = OpenEvidence { own_late_p99_ns: 1_100_000, ..kept_to_plan() };
        let said = reason(0.5, late.clone());
        assert!(said.contains("1.10ms") && said.contains("1.00ms is allowed"), "{said}");
        // Where responses take long, it matters less.
        let slow = OpenEvidence { response_p99_ns: 20_000_000, ..late };
        assert_eq!(judged(0.5, slow).invalid_reasons, [""; 0]);
    }

    #[test]
    fn a_rate_that_was_not_reached_has_a_cause() {
        let short = OpenEvidence { achieved_per_s: 40_000.0, kept: 0.8, ..kept_to_plan() };
        let said = reason(0.5, short.clone());
        assert!(said.starts_with("overloaded: ") && said.contains("(80.0 %)"), "{said}");
        let said = reason(0.99, short.clone());
        assert!(said.starts_with("rate-missed: ") && said.contains("did not keep up"), "{said}");
        let both = Evidence { client_busy: 0.97, open: Some(short), ..good() };
        let said = judge(&both).invalid_reasons.concat();
        assert!(said.starts_with("overloaded: ") && said.contains("both sides"), "{said}");
        let disturbed = Evidence { client_waiting: Some(0.3), client_busy: 0.5, ..both };
        let said = judge(&disturbed).invalid_reasons.concat();
        assert!(said.contains("while other programs"), "{said}");
    }

    #[test]
    fn nobody_is_blamed_for_what_had_no_connection_left() {
        let open = OpenEvidence {
            kept: 0.6,
            unsent: 7,
            own_late_p99_ns: 9_000_000, // else to blame for what was not sent
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
    fn what_was_never_sent_is_counted() {
        let said = reason(0.5, OpenEvidence { unsent: 7, ..kept_to_plan() });
        assert!(said.contains("overloaded: 7 of 500000 requests were never sent"), "{said}");
    }

    #[test]
    fn a_full_generator_cannot_blame_the_server() {
        let said = reason(0.99, OpenEvidence { waited: 50_000, ..kept_to_plan() });
        assert!(said.contains("99 %") && said.contains("10 % of requests"), "{said}");
        assert_eq!(
            judged(0.5, OpenEvidence { waited: 50_000, ..kept_to_plan() }).invalid_reasons,
            [""; 0],
        );
    }

    #[test]
    fn distances_that_do_not_fit_are_invalid() {
        let odd = OpenEvidence { spacing: Some("not Poisson".to_owned()), ..kept_to_plan() };
        assert_eq!(reason(0.5, odd), "spacing: not Poisson");
    }
}
