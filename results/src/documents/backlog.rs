//! An experiment on `listen(n)`: who gets in while nobody accepts, and what becomes of the others.
//!
//! The file holds what was predicted from the kernel's rules and what was measured, client by
//! client, with the kernel's own counters and the depth of the accept queue over time, so that
//! every sentence about it can be checked from it.

pub(crate) mod picture;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::{Document, Environment, Header};

/// A whole experiment, as its file holds it.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Backlog {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// Whether a signal cut it short.
    pub interrupted: bool,
    /// `seq`: each connect after the last has succeeded or waits; `storm`: all at once.
    pub mode: String,
    /// Connects beyond what the accept queue holds.
    pub extra: u32,
    /// How long nobody was to accept, seconds from the last connect.
    pub hold_s: f64,
    /// The server, where it is not a listener of the program's own.
    pub target: Option<String>,
    /// Whether each trial had a network namespace of its own. If not, the counters are those of
    /// everybody in this one.
    pub private: bool,
    /// What could not be done as asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// One for each `n`.
    pub trials: Vec<Trial>,
    /// Where it ran.
    pub environment: Environment,
}

impl Document for Backlog {
    fn header(&self) -> &Header {
        &self.header
    }

    fn environment(&self) -> &Environment {
        &self.environment
    }

    fn stem(&self) -> String {
        let numbers: Vec<String> = self.trials.iter().map(|trial| trial.n.to_string()).collect();
        format!("backlog-{}", numbers.join("-"))
    }

    fn title(&self) -> String {
        let names: Vec<String> = self.trials.iter().map(Trial::name).collect();
        format!("Listen backlog: {}", names.join(", "))
    }

    fn text(&self) -> String {
        text::text(self)
    }
}

/// One listener, filled and released.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Trial {
    /// What was given to listen(2); of a server that runs already, the limit that the kernel shows.
    pub n: u32,
    /// Listeners at the address, one unless it is shared with `SO_REUSEPORT`.
    pub listeners: u32,
    /// The limit of each accept queue as the kernel shows it. The queue holds one more.
    pub limit: u32,
    /// The settings it ran under.
    pub kernel: Kernel,
    /// Connects.
    pub conns: u32,
    /// When accepting began, seconds from the last connect; absent if it never did, or the server
    /// was released by somebody else.
    pub released_s: Option<f64>,
    /// How long it took in all, seconds from the first connect.
    pub length_s: f64,
    /// What the kernel's rules say.
    pub predicted: Prediction,
    /// What happened.
    pub measured: Outcome,
    /// What counters must have to do with each other and with the clients.
    pub checks: Vec<Check>,
    /// The depth of all accept queues together, whenever it has changed.
    pub depth: Vec<Depth>,
    /// What the kernel has counted until accepting began.
    pub held: Counters,
    /// What it has counted until the end.
    pub ended: Counters,
    /// Every client, in the order they connected.
    pub clients: Vec<Client>,
    /// What disturbed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether a signal cut it short.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

/// Differences of the kernel's counters by their names in `/proc/net/netstat` and `/proc/net/snmp`;
/// those that this kernel has.
pub type Counters = BTreeMap<String, i64>;

/// The settings of the network namespace (tcp(7), ip-sysctl.rst); absent where they cannot be read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Kernel {
    /// The release, as uname(2) has it.
    pub release: String,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u32>,
    /// `net.ipv4.tcp_syncookies`.
    pub syncookies: Option<u32>,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub abort_on_overflow: Option<u32>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub max_syn_backlog: Option<u32>,
    /// `net.ipv4.tcp_syn_retries`.
    pub syn_retries: Option<u32>,
    /// `net.ipv4.tcp_syn_linear_timeouts`, since Linux 6.5.
    pub syn_linear_timeouts: Option<u32>,
}

/// From `least` to `most`, both possible.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Range {
    /// Not fewer.
    pub least: u64,
    /// Not more.
    pub most: u64,
}

impl Range {
    /// Nothing but `count`.
    pub const fn exactly(count: u64) -> Self {
        Self { least: count, most: count }
    }

    /// Whether `count` lies in it.
    pub const fn contains(self, count: u64) -> bool {
        self.least <= count && count <= self.most
    }
}

/// What the kernel's rules say will happen.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Prediction {
    /// Connected by their first SYN.
    pub instant: Range,
    /// Connected by a later SYN, after accepting began.
    pub late: Range,
    /// Of those connected, unknown to the server.
    pub ghosts: Range,
    /// Answered with a reset to their SYN: `ECONNREFUSED`.
    pub refused: Range,
    /// Connected, then reset: `ECONNRESET`.
    pub reset: Range,
    /// Not connected by the end.
    pub timed_out: Range,
    /// `ListenOverflows` until accepting began.
    pub overflows: Range,
}

/// How many clients ended how. But for `ghosts`, which are counted among the connected, and for
/// `served` and `unserved`, which share those between them, each client is in one of them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// Connected by their first SYN.
    pub instant: u64,
    /// Connected by a later SYN.
    pub late: u64,
    /// Of those connected, unknown to the server a while after they were.
    pub ghosts: u64,
    /// Refused.
    pub refused: u64,
    /// Connected, then reset.
    pub reset: u64,
    /// Not connected by the end.
    pub timed_out: u64,
    /// Of those connected, had a reply to their request.
    pub served: u64,
    /// Of those connected, had none by the end.
    pub unserved: u64,
}

impl Outcome {
    /// How many of these clients ended how.
    pub fn of(clients: &[Client]) -> Self {
        let count = |is_so: fn(&Client) -> bool| {
            clients.iter().filter(|client| is_so(client)).count() as u64
        };
        let instant = count(|client| client.fate == Fate::Instant);
        let late = count(|client| client.fate == Fate::Late);
        let served = count(|client| {
            client.served_s.is_some() && matches!(client.fate, Fate::Instant | Fate::Late)
        });
        Self {
            instant,
            late,
            ghosts: count(|client| client.ghost),
            refused: count(|client| client.fate == Fate::Refused),
            reset: count(|client| client.fate == Fate::Reset),
            timed_out: count(|client| client.fate == Fate::TimedOut),
            served,
            unserved: instant + late - served,
        }
    }
}

/// One client.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Client {
    /// When its connect was issued, seconds from the first.
    pub started_s: f64,
    /// How it ended.
    pub fate: Fate,
    /// How long its connect took.
    pub connect_s: Option<f64>,
    /// SYNs sent again.
    pub syn_retrans: u32,
    /// Whether the server did not know it a while after it was connected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ghost: bool,
    /// Segments of its request that were sent again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub request_retrans: u32,
    /// When the reply came, seconds from the first connect.
    pub served_s: Option<f64>,
}

/// How a client's connect ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Connected by its first SYN.
    Instant,
    /// Connected by a later SYN.
    Late,
    /// Refused.
    Refused,
    /// Connected, then reset.
    Reset,
    /// Not connected by the end.
    TimedOut,
}

/// The accept queues at an instant.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Depth {
    /// Seconds from the first connect.
    pub at_s: f64,
    /// Connections waiting to be accepted.
    pub depth: u32,
}

/// Two numbers that must agree.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Check {
    /// What must agree, in words: `at release: ListenOverflows = SYNs of those who wait`.
    pub name: String,
    /// The left side.
    pub left: i64,
    /// The right side.
    pub right: i64,
    /// Whether they agree.
    pub holds: bool,
}

impl Backlog {
    /// What is wrong, in words, trial by trial: where the measurement is not as predicted, or a
    /// check does not hold. Counters are judged only where nobody else can have moved them.
    pub fn disagreements(&self) -> Vec<String> {
        let trials = self.trials.iter().filter(|trial| !trial.interrupted);
        trials
            .flat_map(|trial| {
                let name = trial.name();
                trial
                    .disagreements(self.private)
                    .into_iter()
                    .map(move |reason| format!("{name}: {reason}"))
            })
            .collect()
    }
}

impl Trial {
    /// `listen(5)`, or `2 x listen(5)`.
    pub fn name(&self) -> String {
        match self.listeners {
            1 => format!("listen({})", self.n),
            listeners => format!("{listeners} x listen({})", self.n),
        }
    }

    fn disagreements(&self, private: bool) -> Vec<String> {
        let mut wrong: Vec<String> = self
            .compared()
            .into_iter()
            .filter(|(_, predicted, measured)| !predicted.contains(*measured))
            .map(|(name, predicted, measured)| {
                format!("{measured} {name}, predicted {}", text::range(predicted))
            })
            .collect();
        if private {
            let overflows = self.held.get("ListenOverflows").copied().unwrap_or(0);
            if !self.predicted.overflows.contains(overflows.unsigned_abs()) {
                let predicted = text::range(self.predicted.overflows);
                wrong.push(format!("ListenOverflows is {overflows}, predicted {predicted}"));
            }
            let broken = self.checks.iter().filter(|check| !check.holds);
            wrong.extend(broken.map(|check| {
                format!("{} does not hold: {} and {}", check.name, check.left, check.right)
            }));
        }
        wrong
    }

    /// What was predicted and measured of each kind of end.
    fn compared(&self) -> [(&'static str, Range, u64); 6] {
        let (predicted, measured) = (&self.predicted, &self.measured);
        [
            ("connected at once", predicted.instant, measured.instant),
            ("connected late", predicted.late, measured.late),
            ("ghosts", predicted.ghosts, measured.ghosts),
            ("refused", predicted.refused, measured.refused),
            ("reset", predicted.reset, measured.reset),
            ("timed out", predicted.timed_out, measured.timed_out),
        ]
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
