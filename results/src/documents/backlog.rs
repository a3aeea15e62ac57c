//! Experiment on `listen(n)`: clients that get a connection while nothing accepts, and the fate of
//! the others.
//!
//! The file holds the prediction from the kernel's rules and the measurement, client by client,
//! with the kernel's counters and the depth of the accept queue over time, so that every sentence
//! about it can be checked.

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
    /// True if a signal cut it short.
    pub interrupted: bool,
    /// Pace: `seq`, each connect after the last has succeeded or waits; `storm`, all connects
    /// concurrently.
    pub mode: String,
    /// Connects beyond the room of the accept queue.
    pub extra: u32,
    /// Seconds from the last connect in which nothing was to accept.
    pub hold_s: f64,
    /// Server, if it is not a listener of the program's own.
    pub target: Option<String>,
    /// True if each trial had a network namespace of its own. If not, the counters include every
    /// program in this one.
    pub private: bool,
    /// Parts that could not be done as asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Trials, one for each `n`.
    pub trials: Vec<Trial>,
    /// Machine and build.
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
    /// Argument of listen(2); for a running server, the limit that the kernel shows.
    pub n: u32,
    /// Listeners at the address; more than one share it with `SO_REUSEPORT`.
    pub listeners: u32,
    /// Limit of each accept queue as the kernel shows it. The queue holds one more.
    pub limit: u32,
    /// Settings of the kernel.
    pub kernel: Kernel,
    /// Number of connects.
    pub conns: u32,
    /// Start of accepting, seconds from the last connect; absent if it never started, or something
    /// else released the server.
    pub released_s: Option<f64>,
    /// Length of the trial, seconds from the first connect.
    pub length_s: f64,
    /// Prediction from the kernel's rules.
    pub predicted: Prediction,
    /// Measured outcome.
    pub measured: Outcome,
    /// Relations that must hold between the counters and the clients.
    pub checks: Vec<Check>,
    /// Depth of all accept queues together, at each change.
    pub depth: Vec<Depth>,
    /// Counters of the kernel at the start of accepting.
    pub held: Counters,
    /// Counters of the kernel at the end.
    pub ended: Counters,
    /// Clients, in the order they connected.
    pub clients: Vec<Client>,
    /// Disturbances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// True if a signal cut it short.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

/// Differences of the kernel's counters by their names in `/proc/net/netstat` and `/proc/net/snmp`,
/// those that this kernel has.
pub type Counters = BTreeMap<String, i64>;

/// Settings of the network namespace (tcp(7), ip-sysctl.rst); absent if they cannot be read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Kernel {
    /// Release of the kernel, as uname(2) returns it.
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

/// Range from `least` to `most`, both included.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Range {
    /// Lower end.
    pub least: u64,
    /// Upper end.
    pub most: u64,
}

impl Range {
    /// Range of exactly `count`.
    pub const fn exactly(count: u64) -> Self {
        Self { least: count, most: count }
    }

    /// True if the range contains `count`.
    pub const fn contains(self, count: u64) -> bool {
        self.least <= count && count <= self.most
    }
}

/// Prediction from the kernel's rules.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Prediction {
    /// Connected by their first SYN.
    pub instant: Range,
    /// Connected by a later SYN, after accepting began.
    pub late: Range,
    /// Connected clients that the server does not know.
    pub ghosts: Range,
    /// SYNs answered with a reset: `ECONNREFUSED`.
    pub refused: Range,
    /// Connected, then reset: `ECONNRESET`.
    pub reset: Range,
    /// Not connected by the end.
    pub timed_out: Range,
    /// `ListenOverflows` until accepting began.
    pub overflows: Range,
}

/// Number of clients by their fate. `ghosts` are also counted as connected; `served` and `unserved`
/// divide the connected; otherwise each client is counted once.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// Connected by their first SYN.
    pub instant: u64,
    /// Connected by a later SYN.
    pub late: u64,
    /// Connected clients that the server did not know a while later.
    pub ghosts: u64,
    /// Refused.
    pub refused: u64,
    /// Connected, then reset.
    pub reset: u64,
    /// Not connected by the end.
    pub timed_out: u64,
    /// Connected clients that had a reply to their request.
    pub served: u64,
    /// Connected clients that had no reply by the end.
    pub unserved: u64,
}

impl Outcome {
    /// Counts these clients.
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
    /// Time of its connect, seconds from the first.
    pub started_s: f64,
    /// Fate of its connect.
    pub fate: Fate,
    /// Duration of its connect, seconds.
    pub connect_s: Option<f64>,
    /// Number of SYNs sent again.
    pub syn_retrans: u32,
    /// True if the server did not know it a while after it had connected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ghost: bool,
    /// Number of segments of its request that were sent again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub request_retrans: u32,
    /// Time of the reply, seconds from the first connect.
    pub served_s: Option<f64>,
}

/// Fate of a client's connect.
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

/// Depth of the accept queues at an instant.
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
    /// Relation, in words: `at release: ListenOverflows = SYNs without an answer`.
    pub name: String,
    /// Left side.
    pub left: i64,
    /// Right side.
    pub right: i64,
    /// True if the relation holds.
    pub holds: bool,
}

impl Check {
    /// True if the left side need only be as large as the right one.
    fn is_bound(&self) -> bool {
        self.name.contains(">=")
    }
}

impl Backlog {
    /// Differences from the prediction and checks that do not hold, trial by trial. Counters are
    /// judged only if no other program can have moved them.
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

    /// Prediction and measurement of each fate.
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
