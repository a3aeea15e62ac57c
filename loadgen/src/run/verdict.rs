//! Who was the limit, and whether the numbers may be quoted as the server's.

mod open;
mod trend;

pub use open::OpenEvidence;
pub use trend::trend;

/// The share of its processors from which on a side counts as full.
const FULL: f64 = 0.95;

/// Sides whose shares are no further apart than this are called equally full: the readings are no
/// finer than that, and neither side would gain much if the other were faster.
const CLOSE: f64 = 0.05;

/// The share of the window that threads may have waited for a processor of their own before it is
/// told: the throughput of a closed loop is too low by about as much.
const DISTURBED: f64 = 0.05;

/// The share from which on the numbers are about the other programs.
const DISTURBED_TOO_MUCH: f64 = 0.2;

/// The share of failed connections from which on the load is another one.
const LOST: f64 = 0.01;

/// What the verdict is founded on.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The busiest of the generator's threads, as a share of the measured window, without what it
    /// only watched the clock.
    pub client_busy: f64,
    /// The part of the window that one of the generator's threads could have run but had no
    /// processor; `None` where they share their processors with each other or with the server.
    pub client_waiting: Option<f64>,
    /// The server, as a share of the processors it may use; `None` where that cannot be read, or
    /// tells nothing, since the server polls.
    pub server_busy: Option<f64>,
    /// How full the processors were that both sides share; `None` when they share none.
    pub shared_busy: Option<f64>,
    /// Whether processes of the server came or went in the window.
    pub server_changed: bool,
    /// Verified exchanges in the window.
    pub exchanges: u64,
    /// Wrong replies.
    pub wrong_replies: u64,
    /// Connections asked for.
    pub conns: u64,
    /// Those that failed: they are not opened again.
    pub failed: u64,
    /// What the embedded server and the generator disagree on, in words.
    pub disagreement: Option<String>,
    /// Whether the generator was built without optimisation.
    pub debug_build: bool,
    /// Whether the load was not steady yet when the warm-up had taken as long as it may.
    pub warmup_at_bound: bool,
    /// By which share the throughput of a closed loop clearly rose, or fell, in the window.
    pub trend: Option<f64>,
    /// What became of the plan of an open loop; `None` in a closed loop.
    pub open: Option<OpenEvidence>,
}

/// Whose processors were full.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// The server's.
    Server,
    /// The generator's: the result is about the generator.
    Client,
    /// Both.
    Both,
    /// Neither's: the load was light, or something else held it up.
    Neither,
    /// The server's could not be read.
    Unknown,
}

impl Limit {
    /// The name in records.
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

/// The verdict on a run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Whose processors were full.
    pub limit: Limit,
    /// Why the numbers must not be quoted as the server's; empty when they may. Each begins with
    /// a word for programs and a colon: `generator-full: …`.
    pub invalid_reasons: Vec<String>,
    /// What a reader should know all the same, in the same form.
    pub warnings: Vec<String>,
}

/// Judges a run.
pub fn judge(evidence: &Evidence) -> Verdict {
    let limit = limit(evidence);
    let client_full = evidence.client_busy >= FULL;
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let mut reasons = Vec::new();
    if evidence.exchanges == 0 {
        reasons.push("no-exchange: none was completed in the measured window".to_owned());
    }
    if evidence.wrong_replies > 0 {
        reasons.push(format!(
            "wrong-replies: {} differed from their requests",
            evidence.wrong_replies
        ));
    }
    if evidence.failed > 0 && evidence.failed as f64 >= LOST * evidence.conns as f64 {
        reasons.push(format!(
            "connections-lost: {} of {} failed, so that the load was not the one asked for",
            evidence.failed, evidence.conns
        ));
    }
    reasons.extend(evidence.disagreement.clone());
    let client = percent(evidence.client_busy);
    match (limit, evidence.server_busy) {
        // To be full is no fault as long as all is sent when it is due.
        _ if evidence.open.is_some() => {}
        (Limit::Client, Some(server)) => reasons.push(format!(
            "generator-full: its processors were full ({client}) while the server's were not ({}): \
             the throughput is the generator's; give it more --threads or CPUs",
            percent(server)
        )),
        (Limit::Unknown, _) if client_full => reasons.push(format!(
            "generator-full: its processors were full ({client}) and how busy the server's were is not known: \
             the throughput may be the generator's; give it more --threads or CPUs"
        )),
        _ => {}
    }
    if let Some(open) = &evidence.open {
        reasons.extend(open::reasons(evidence, open, limit));
    }
    let mut warnings = Vec::new();
    if let Some(waiting) = evidence.client_waiting
        && waiting >= DISTURBED
    {
        let disturbed = format!(
            "disturbed: other programs kept the generator's threads waiting for a processor for {} \
             of the time",
            percent(waiting)
        );
        let list = if waiting >= DISTURBED_TOO_MUCH { &mut reasons } else { &mut warnings };
        list.push(disturbed);
    }
    if evidence.server_changed {
        let text = "server-changed: some of its processes came or went in the measured window, so \
                    that its processor time is not known";
        warnings.push(text.to_owned());
    }
    if evidence.warmup_at_bound {
        let text = "not-steady: the load had not settled when the longest warm-up was over; give \
                    --warmup a time";
        warnings.push(text.to_owned());
    }
    if let Some(change) = evidence.trend {
        warnings.push(format!(
            "not-steady: the throughput {} by {} from the first quarter of the window to the last",
            if change > 0.0 { "rose" } else { "fell" },
            percent(change.abs())
        ));
    }
    if evidence.debug_build {
        let text = "debug-build: loadgen was built without optimisation; build it with --release";
        warnings.push(text.to_owned());
    }
    Verdict { limit, invalid_reasons: reasons, warnings }
}

fn limit(evidence: &Evidence) -> Limit {
    if evidence.shared_busy.is_some_and(|busy| busy >= FULL) {
        return Limit::Both;
    }
    let client = evidence.client_busy;
    let Some(server) = evidence.server_busy else { return Limit::Unknown };
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

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn good() -> Evidence {
        Evidence {
            client_busy: 0.7,
            client_waiting: Some(0.01),
            server_busy: Some(0.99),
            shared_busy: None,
            server_changed: false,
            exchanges: 1000,
            wrong_replies: 0,
            conns: 64,
            failed: 0,
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
    fn the_full_side_is_the_limit() {
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
    fn a_shared_processor_is_full_for_both() {
        let shared =
            Evidence { client_busy: 0.5, server_busy: Some(0.5), shared_busy: Some(1.0), ..good() };
        assert_eq!(
            judge(&shared),
            Verdict { limit: Limit::Both, invalid_reasons: vec![], warnings: vec![] }
        );
    }

    #[test]
    fn the_reason_names_both_shares() {
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
            client_waiting: Some(0.2),
            ..good()
        };
        let words = ["no-exchange", "wrong-replies", "connections-lost", "miscount", "disturbed"];
        assert_eq!(words_of(&judge(&flawed).invalid_reasons), words);
        let good = judge(&good());
        assert_eq!((good.invalid_reasons.len(), good.warnings.len()), (0, 0));
    }

    /// What stands before the colon of each.
    fn words_of(sentences: &[String]) -> Vec<&str> {
        sentences.iter().filter_map(|sentence| Some(sentence.split_once(": ")?.0)).collect()
    }

    #[test]
    fn a_connection_in_a_hundred_is_too_many_to_lose() {
        let lost = |failed| judge(&Evidence { conns: 1000, failed, ..good() }).invalid_reasons;
        assert_eq!((lost(0).len(), lost(9).len(), lost(10).len()), (0, 0, 1));
        assert!(lost(10)[0].starts_with("connections-lost: 10 of 1000"), "{:?}", lost(10));
    }

    #[test]
    fn what_spoils_little_is_a_warning() {
        let doubtful = Evidence {
            debug_build: true,
            server_changed: true,
            warmup_at_bound: true,
            trend: Some(-0.07),
            client_waiting: Some(0.19),
            ..good()
        };
        let verdict = judge(&doubtful);
        assert_eq!(
            words_of(&verdict.warnings),
            ["disturbed", "server-changed", "not-steady", "not-steady", "debug-build"]
        );
        assert_eq!(verdict.invalid_reasons, [""; 0]);
        assert_eq!(judge(&Evidence { client_waiting: Some(0.04), ..good() }).warnings, [""; 0]);
    }
}
