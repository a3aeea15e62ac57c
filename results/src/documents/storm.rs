//! Burst of new connections to a server that accepts: the duration of connects, and the accept
//! queue.

mod text;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::backlog::{Counters, Depth, Kernel};
use crate::{Document, Environment, ErrorCount, Header, Latencies, SCHEMA, Subject};

/// A burst of new connections, as its file holds it.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Storm {
    /// First keys of the file.
    #[serde(flatten)]
    pub header: Header,
    /// True if a signal cut it short.
    pub interrupted: bool,
    /// Server.
    pub subject: Subject,
    /// Placement, if not `apart`; as [`Record::placement`](crate::Record).
    pub placement: Option<String>,
    /// Settings of the network namespace.
    pub kernel: Kernel,
    /// Connections planned.
    pub conns: u64,
    /// New connections a second; absent if all were concurrent.
    #[serde(serialize_with = "crate::documents::without_fraction")]
    pub rate_per_s: Option<f64>,
    /// Exchanges on each connection.
    pub exchanges_each: u32,
    /// Source addresses of the connections, in the order of use; absent without a route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Bytes in a request.
    pub size: u32,
    /// Closing by the client: `fin` or `rst`.
    pub close: String,
    /// Seconds from the first connect to the last.
    pub issued_s: f64,
    /// Seconds from the first connect to the last close.
    pub length_s: f64,
    /// Connections that had all their replies.
    pub completed: u64,
    /// Connections that a signal cut short, or that were not tried because of it.
    pub unfinished: u64,
    /// Connections that failed.
    pub errors_total: u64,
    /// Failures by kind and errno.
    pub errors: Vec<ErrorCount>,
    /// Latencies of connects, first exchanges and all exchanges.
    pub latency: Latencies,
    /// Connections by the SYN that was answered.
    pub by_syn: Vec<BySyn>,
    /// Connections that had to send a request again.
    pub resent: u64,
    /// Accept queues; absent if the kernel does not show them.
    pub queue: Option<Queue>,
    /// Counters of the kernel meanwhile, for every program in this network namespace.
    pub counters: Counters,
    /// Other disturbances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Machine and build.
    pub environment: Environment,
}

/// Bursts of new connections to one or several servers, listen queues or sizes, one after another.
/// The file of a single burst holds that burst alone.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "Layout", into = "Layout")]
pub struct Storms(Vec<Storm>);

/// Layout of the file.
#[derive(Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum Layout {
    Several { schema: u32, kind: String, storms: Vec<Storm> },
    One(Box<Storm>),
}

impl Storms {
    /// Bursts as one document.
    ///
    /// # Panics
    ///
    /// If there is no storm.
    pub fn of(storms: Vec<Storm>) -> Self {
        assert!(!storms.is_empty(), "no storm");
        Self(storms)
    }

    /// The bursts, at least one.
    pub fn storms(&self) -> &[Storm] {
        &self.0
    }
}

impl From<Storm> for Storms {
    fn from(storm: Storm) -> Self {
        Self(vec![storm])
    }
}

impl From<Storms> for Layout {
    fn from(Storms(mut storms): Storms) -> Self {
        match storms.len() {
            1 => Self::One(Box::new(storms.remove(0))),
            _ => Self::Several { schema: SCHEMA, kind: "storms".to_owned(), storms },
        }
    }
}

impl TryFrom<Layout> for Storms {
    type Error = &'static str;

    fn try_from(layout: Layout) -> Result<Self, Self::Error> {
        match layout {
            Layout::One(storm) => Ok((*storm).into()),
            Layout::Several { storms, .. } if storms.is_empty() => Err("it holds no storm"),
            Layout::Several { storms, .. } => Ok(Self(storms)),
        }
    }
}

impl Document for Storms {
    fn header(&self) -> &Header {
        &self.0[0].header
    }

    fn environment(&self) -> &Environment {
        &self.0[0].environment
    }

    fn stem(&self) -> String {
        match self.0.as_slice() {
            [storm] => format!("storm-{}-{}", storm.subject.name, storm.conns),
            storms => format!("storms-{}", storms.len()),
        }
    }

    fn title(&self) -> String {
        match self.0.as_slice() {
            [storm] => format!("{} new connections to {}", storm.conns, storm.subject.name),
            storms => format!("{} bursts of new connections", storms.len()),
        }
    }

    fn text(&self) -> String {
        match self.0.as_slice() {
            [storm] => storm.text(),
            storms => text::table(storms),
        }
    }
}
/// Connections that were connected by the same SYN.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BySyn {
    /// Number of the SYN, from 1.
    pub syn: u32,
    /// Number of connections.
    pub connections: u64,
    /// Median duration of their connects, nanoseconds.
    pub connect_p50_ns: u64,
}

/// Accept queues of a server.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Queue {
    /// Listeners at the address.
    pub listeners: u32,
    /// Limit of each queue, which holds one more.
    pub limit: u32,
    /// Depth of all queues together, at each change that was seen.
    pub depth: Vec<Depth>,
}

impl Queue {
    /// Number of connections that fit.
    pub fn room(&self) -> u64 {
        u64::from(self.listeners) * (u64::from(self.limit) + 1)
    }

    /// Greatest depth that was seen.
    pub fn deepest(&self) -> u32 {
        self.depth.iter().map(|sample| sample.depth).max().unwrap_or(0)
    }
}

impl Storm {
    /// Connections served a second, over the whole burst.
    pub fn served_per_s(&self) -> f64 {
        self.completed as f64 / self.length_s.max(1e-9)
    }

    /// Connections that needed more than one SYN.
    pub fn retried(&self) -> u64 {
        self.by_syn.iter().filter(|by| by.syn > 1).map(|by| by.connections).sum()
    }

    /// SYNs that a connection needed at a quantile, in thousandths.
    fn syns_at(&self, permille: u64) -> Option<u32> {
        let total: u64 = self.by_syn.iter().map(|by| by.connections).sum();
        let rank = (total * permille).div_ceil(1000).max(1);
        let mut below = 0;
        self.by_syn.iter().find_map(|by| {
            below += by.connections;
            (below >= rank).then_some(by.syn)
        })
    }
}
