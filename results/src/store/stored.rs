//! How what is stored is called.

use serde::Serialize;

use crate::{Backlog, Comparison, FloorReport, Many, Record, Storm, Storms, Sweep};

/// The most characters that a comparison's subjects take in the name of its file.
const TITLE_MAX: usize = 100;

/// What is stored.
pub trait Stored: Serialize {
    /// When it began, RFC 3339.
    fn started(&self) -> &str;
    /// Tells hosts apart without naming them.
    fn host(&self) -> Option<&str>;
    /// What was measured: `mio-1000x64`, `mio-vs-io-uring`.
    fn title(&self) -> String;
}

impl Stored for Record {
    fn started(&self) -> &str {
        &self.started
    }

    fn host(&self) -> Option<&str> {
        self.environment.host.as_deref()
    }

    fn title(&self) -> String {
        format!("{}-{}x{}", self.subject.name, self.conns, self.size)
    }
}

impl Stored for Comparison {
    fn started(&self) -> &str {
        &self.plan.started
    }

    fn host(&self) -> Option<&str> {
        self.environment.host.as_deref()
    }

    fn title(&self) -> String {
        self.plan.subjects.join("-vs-").chars().take(TITLE_MAX).collect()
    }
}

impl Stored for Sweep {
    fn started(&self) -> &str {
        &self.plan.started
    }

    fn host(&self) -> Option<&str> {
        self.environment.host.as_deref()
    }

    fn title(&self) -> String {
        format!("{}-sweep", self.plan.subject)
    }
}

impl Stored for Backlog {
    fn started(&self) -> &str {
        &self.started
    }

    fn host(&self) -> Option<&str> {
        self.environment.host.as_deref()
    }

    fn title(&self) -> String {
        let numbers: Vec<String> = self.trials.iter().map(|trial| trial.n.to_string()).collect();
        format!("backlog-{}", numbers.join("-")).chars().take(TITLE_MAX).collect()
    }
}

impl Stored for FloorReport {
    fn started(&self) -> &str {
        &self.floor.measured
    }

    fn host(&self) -> Option<&str> {
        self.environment.host.as_deref()
    }

    fn title(&self) -> String {
        format!("floor-{}", self.floor.size)
    }
}

impl Stored for Storm {
    fn started(&self) -> &str {
        &self.started
    }

    fn host(&self) -> Option<&str> {
        self.environment.host.as_deref()
    }

    fn title(&self) -> String {
        format!("storm-{}-{}", self.subject.name, self.conns)
    }
}

impl Stored for Storms {
    fn started(&self) -> &str {
        self.storms.first().map_or("", |storm| &storm.started)
    }

    fn host(&self) -> Option<&str> {
        self.storms.first()?.environment.host.as_deref()
    }

    fn title(&self) -> String {
        format!("storms-{}", self.storms.len())
    }
}

impl Stored for Many {
    fn started(&self) -> &str {
        &self.started
    }

    fn host(&self) -> Option<&str> {
        self.environment.host.as_deref()
    }

    fn title(&self) -> String {
        "many".to_owned()
    }
}
