//! Kinds of result. Each has a folder with its type, its text and its charts.

pub mod backlog;
pub(crate) mod comparison;
pub(crate) mod floor;
pub(crate) mod run;
pub mod storm;
pub(crate) mod sweep;

use std::ops::Deref;
use std::time::SystemTime;

use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_with::skip_serializing_none;

use crate::environment::circumstances::{Circumstance, circumstances};
use crate::html::Page;
use crate::{Backlog, Comparison, Environment, FloorReport, Record, Storm, Storms, Sweep};

/// Version of the layout of every document. A change that a reader of old files would trip over
/// raises it.
pub const SCHEMA: u32 = 1;

/// First keys of every file: the layout, and the program that wrote it.
#[skip_serializing_none]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Header {
    /// Version of the layout: [`SCHEMA`].
    pub schema: u32,
    /// Kind of document: `run`, `comparison`, `sweep`, `backlog`, `storm`, `storms` or `floor`. A
    /// file without it is a run.
    #[serde(default = "kind_of_old_runs")]
    pub kind: String,
    /// Program that wrote the file: `loadgen`.
    pub tool: String,
    /// Version of that program.
    pub version: String,
    /// Start of the measurement, RFC 3339, UTC.
    #[serde(default)]
    pub started: String,
    /// Command line, program name first.
    pub argv: Vec<String>,
    /// Seed of every random choice, such as bytes, instants and orders.
    pub seed: Option<u64>,
}

impl Header {
    /// Header of a document that `loadgen` writes.
    pub fn new(kind: &str, started: SystemTime, argv: Vec<String>, seed: Option<u64>) -> Header {
        Header {
            schema: SCHEMA,
            kind: kind.to_owned(),
            tool: "loadgen".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: humantime::format_rfc3339_millis(started).to_string(),
            argv,
            seed,
        }
    }

    pub(crate) fn program(&self) -> String {
        format!("{} {}", self.tool, self.version)
    }
}

/// Serializes numbers that are mostly whole, such as rates and levels, as integers if they are.
pub(crate) fn without_fraction<T: Serialize, S: Serializer>(
    numbers: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    fn shorten(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(shorten),
            Value::Number(number) => {
                let whole = number.as_f64().filter(|number| number.fract() == 0.0);
                if let Some(whole) = whole.filter(|whole| whole.abs() < 2_f64.powi(53)) {
                    *value = Value::from(whole as i64);
                }
            }
            _ => {}
        }
    }
    let mut value = serde_json::to_value(numbers).map_err(S::Error::custom)?;
    shorten(&mut value);
    value.serialize(serializer)
}

fn kind_of_old_runs() -> String {
    "run".to_owned()
}

/// A result that can be stored, printed and drawn.
pub trait Document {
    /// First keys of the file.
    fn header(&self) -> &Header;

    /// Machine and build.
    fn environment(&self) -> &Environment;

    /// Part of the file's name behind the time and the host, such as `mio-1000x64`.
    fn stem(&self) -> String;

    /// Heading: what was measured, in one line.
    fn title(&self) -> String;

    /// The result for a terminal of 80 columns.
    fn text(&self) -> String;

    /// Adds charts to a page; `id` is unique on it. By default, adds the text.
    fn draw(&self, page: &mut Page, id: &str) {
        let _ = id;
        page.preformatted(&self.text());
    }

    /// Settings and properties of the machine that the numbers depend on.
    fn circumstances(&self) -> Vec<Circumstance> {
        circumstances(self.environment())
    }
}

/// A document of any kind, as a file holds it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the document of its type")]
pub enum Stored {
    Run(Box<Record>),
    Comparison(Box<Comparison>),
    Sweep(Box<Sweep>),
    Backlog(Box<Backlog>),
    Storms(Box<Storms>),
    Floor(Box<FloorReport>),
}

impl Deref for Stored {
    type Target = dyn Document;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Run(document) => &**document,
            Self::Comparison(document) => &**document,
            Self::Sweep(document) => &**document,
            Self::Backlog(document) => &**document,
            Self::Storms(document) => &**document,
            Self::Floor(document) => &**document,
        }
    }
}

impl Stored {
    /// Document of `kind`; `None` if the kind is unknown.
    pub(crate) fn parse(kind: &str, value: Value) -> Option<serde_json::Result<Stored>> {
        use serde_json::from_value;
        Some(match kind {
            "run" => from_value(value).map(Stored::Run),
            "comparison" => from_value(value).map(Stored::Comparison),
            "sweep" => from_value(value).map(Stored::Sweep),
            // Written before `sweep --conns` measured the same.
            "many" => sweep::many::read(value).map(Stored::Sweep),
            "backlog" => from_value(value).map(Stored::Backlog),
            "storm" => from_value(value).map(|storm: Storm| Stored::Storms(Box::new(storm.into()))),
            "storms" => from_value(value).map(Stored::Storms),
            "floor" => from_value(value).map(Stored::Floor),
            _ => return None,
        })
    }
}
