//! Record files: written whole or not at all, and never overwritten by accident.
//!
//! One file a run, or a comparison or a sweep, which are records of their own kinds; indented JSON. The folder of
//! runs is append-only: a record is written once and then only read.

mod stored;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

pub use stored::Stored;

use crate::{Backlog, Comparison, FloorReport, Many, Record, SCHEMA, Storm, Storms, Sweep};

/// More than any record takes; stops a mistaken path such as `/dev/zero` from filling memory.
const FILE_MAX: u64 = 64 << 20;

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Document {
    /// One run.
    Record(Box<Record>),
    /// Several subjects, in rounds.
    Comparison(Box<Comparison>),
    /// One subject, under a series of loads.
    Sweep(Box<Sweep>),
    /// What `listen(n)` did.
    Backlog(Box<Backlog>),
    /// What a machine can do at all.
    Floor(Box<FloorReport>),
    /// New connections by the thousand.
    Storm(Box<Storm>),
    /// Several storms.
    Storms(Box<Storms>),
    /// Servers with few connections and with many.
    Many(Box<Many>),
}

/// Says beforehand whether [`write()`] would refuse `path`, so that no measured run is lost to it.
///
/// # Errors
///
/// One line naming the path: it exists and `force` is not set, it is neither a file nor a
/// directory, or its directory does not exist.
pub fn check(path: &Path, force: bool) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(found) if !found.is_file() => {
            // A rename would put a file in the place of a device.
            Err(refusal(ErrorKind::InvalidInput, path, "is neither a file nor a directory"))
        }
        Ok(_) if !force => {
            Err(refusal(ErrorKind::AlreadyExists, path, "exists (--force overwrites it)"))
        }
        Ok(_) => Ok(()),
        Err(_) if names_a_directory(path) || !directory_of(path).is_dir() => {
            Err(refusal(ErrorKind::NotFound, path, "no such directory"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(path, error)),
    }
}

/// Writes a record, a comparison or a sweep to `path`, and returns the file's path.
///
/// In a directory the file is named `<UTC time>-<host>-<subject>-<conns>x<size>.json`, with the
/// subjects of a comparison `<UTC time>-<host>-<subject>-vs-<subject>.json`, or
/// `<UTC time>-<host>-<subject>-sweep.json`, with a number more where that is taken. The file appears whole or not at all: it is written beside its place,
/// synchronised, and renamed.
///
/// # Errors
///
/// One line naming the path: see [`check`]; or the record would not read back (a number that is
/// not finite); or the file system's own error.
pub fn write(stored: &impl Stored, path: &Path, force: bool) -> io::Result<PathBuf> {
    check(path, force)?;
    let mut text = serde_json::to_vec_pretty(stored)?;
    text.push(b'\n');
    if let Err(cause) = parse(&text) {
        return Err(refusal(ErrorKind::InvalidData, path, &format!("the record is {cause}")));
    }
    if !path.is_dir() {
        let mut temporary = Temporary::write(directory_of(path), &text)?;
        temporary.rename(path, force).map_err(|error| at(path, error))?;
        return Ok(path.to_owned());
    }
    let mut temporary = Temporary::write(path, &text)?;
    let stem = file_stem(stored);
    let mut number = 1;
    loop {
        let name = if number == 1 { stem.clone() } else { format!("{stem}-{number}") };
        let file = path.join(name + ".json");
        match temporary.rename(&file, false) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(at(&file, error)),
            Ok(()) => return Ok(file),
        }
    }
}

/// Writes a page of [`html`](crate::html) to the file `path`, as [`write()`] does a record: whole or
/// not at all.
///
/// # Errors
///
/// One line naming the path: see [`check`]; or it is a directory; or the file system's own error.
pub fn write_page(page: &str, path: &Path, force: bool) -> io::Result<()> {
    check(path, force)?;
    if path.is_dir() {
        return Err(refusal(ErrorKind::IsADirectory, path, "is a directory"));
    }
    let mut temporary = Temporary::write(directory_of(path), page.as_bytes())?;
    temporary.rename(path, force).map_err(|error| at(path, error))
}

/// Reads a record.
///
/// # Errors
///
/// See [`ReadError`]; shown, each is one line naming the path.
pub fn read(path: &Path) -> Result<Record, ReadError> {
    match read_any(path)? {
        Document::Record(record) => Ok(*record),
        Document::Comparison(_) => Err(not_a_record(path, "a comparison, which is shown alone")),
        Document::Sweep(_) => Err(not_a_record(path, "a sweep, which is shown alone")),
        Document::Floor(_) => Err(not_a_record(path, "a floor, which is shown alone")),
        Document::Backlog(_) => {
            Err(not_a_record(path, "a backlog experiment, which is shown alone"))
        }
        Document::Storm(_) | Document::Storms(_) => {
            Err(not_a_record(path, "a storm, which is shown alone"))
        }
        Document::Many(_) => Err(not_a_record(path, "a table, which is shown alone")),
    }
}

fn not_a_record(path: &Path, reason: &str) -> ReadError {
    ReadError { path: path.to_owned(), cause: Cause::NotARecord(reason.into()) }
}

/// Reads a record, a comparison or a sweep.
///
/// # Errors
///
/// As [`read`].
pub fn read_any(path: &Path) -> Result<Document, ReadError> {
    let error = |cause| ReadError { path: path.to_owned(), cause };
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut text))
        .map_err(|cause| error(Cause::Io(cause)))?;
    if text.len() as u64 > FILE_MAX {
        return Err(error(Cause::NotARecord(format!("larger than {} MiB", FILE_MAX >> 20))));
    }
    parse(&text).map_err(error)
}

/// Why a file cannot be read as a record.
#[derive(Debug)]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: Cause,
}

/// What is wrong with a file that should be a record.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// It cannot be read.
    Io(io::Error),
    /// It is not JSON, or was cut off.
    NotJson(serde_json::Error),
    /// It is JSON but not a record, and why not.
    NotARecord(String),
    /// It was written by a newer version, with this layout.
    NewerSchema(u64),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::NotJson(error) => write!(f, "not JSON: {error}"),
            Self::NotARecord(reason) => write!(f, "not a record: {reason}"),
            Self::NewerSchema(schema) => {
                write!(f, "written by a newer version: schema {schema}, {SCHEMA} is known here")
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Io(error) => Some(error),
            Cause::NotJson(error) => Some(error),
            Cause::NotARecord(_) | Cause::NewerSchema(_) => None,
        }
    }
}

fn parse(text: &[u8]) -> Result<Document, Cause> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(Cause::NotJson)?;
    match value.get("schema").map(serde_json::Value::as_u64) {
        None => return Err(Cause::NotARecord("no schema number".into())),
        Some(None | Some(0)) => return Err(Cause::NotARecord("a strange schema number".into())),
        Some(Some(schema)) if schema > SCHEMA.into() => return Err(Cause::NewerSchema(schema)),
        Some(Some(_)) => {}
    }
    let wrong = |what: &str, error: serde_json::Error| Cause::NotARecord(format!("{what}{error}"));
    match value.get("kind").map(serde_json::Value::as_str) {
        // The last line of `loadgen --json-lines`.
        None | Some(Some("run")) => {
            serde_json::from_value(value).map(Document::Record).map_err(|error| wrong("", error))
        }
        Some(Some("comparison")) => serde_json::from_value(value)
            .map(Document::Comparison)
            .map_err(|error| wrong("nor a comparison: ", error)),
        Some(Some("sweep")) => serde_json::from_value(value)
            .map(Document::Sweep)
            .map_err(|error| wrong("nor a sweep: ", error)),
        Some(Some("backlog")) => serde_json::from_value(value)
            .map(Document::Backlog)
            .map_err(|error| wrong("nor a backlog: ", error)),
        Some(Some("floor")) => serde_json::from_value(value)
            .map(Document::Floor)
            .map_err(|error| wrong("nor a floor: ", error)),
        Some(Some("storm")) => serde_json::from_value(value)
            .map(Document::Storm)
            .map_err(|error| wrong("nor a storm: ", error)),
        Some(Some("storms")) => serde_json::from_value(value)
            .map(Document::Storms)
            .map_err(|error| wrong("nor storms: ", error)),
        Some(Some("many")) => serde_json::from_value(value)
            .map(Document::Many)
            .map_err(|error| wrong("nor a table: ", error)),
        Some(_) => Err(Cause::NotARecord("of a kind that is not known here".into())),
    }
}

/// A file beside its final place; removed unless renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn write(directory: &Path, text: &[u8]) -> io::Result<Temporary> {
        let mut number = 0;
        let (path, mut file) = loop {
            let path = directory.join(format!(".lockstep-{}-{number}.tmp", process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(at(directory, error)),
                Ok(file) => break (path, file),
            }
        };
        let temporary = Temporary { path, renamed: false };
        file.write_all(text)
            .and_then(|()| file.sync_all())
            .map_err(|error| at(&temporary.path, error))?;
        Ok(temporary)
    }

    fn rename(&mut self, to: &Path, overwrite: bool) -> io::Result<()> {
        if overwrite {
            fs::rename(&self.path, to)?;
        } else {
            match renameat_with(CWD, &self.path, CWD, to, RenameFlags::NOREPLACE) {
                // A file system that cannot refuse by itself: a moment between look and rename.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    if to.symlink_metadata().is_ok() {
                        return Err(ErrorKind::AlreadyExists.into());
                    }
                    fs::rename(&self.path, to)?;
                }
                other => other?,
            }
        }
        self.renamed = true;
        // The name, too, must survive a power failure. Not every file system can promise that.
        let _ = File::open(directory_of(to)).and_then(|directory| directory.sync_all());
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `20261123T122405Z-9f86d081-mio-1000x64`.
fn file_stem(stored: &impl Stored) -> String {
    let started: String = match humantime::parse_rfc3339(stored.started()) {
        Ok(time) => humantime::format_rfc3339_seconds(time).to_string(),
        Err(_) => stored.started().to_owned(),
    };
    let started: String = started.chars().filter(|c| !"-:".contains(*c)).collect();
    let host = stored.host().unwrap_or("unknown");
    format!("{started}-{host}-{}", stored.title())
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect()
}

/// The directory a file is in.
fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether the path can only mean a directory: it ends in a slash.
fn names_a_directory(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn refusal(kind: ErrorKind, path: &Path, reason: &str) -> io::Error {
    io::Error::new(kind, format!("{}: {reason}", path.display()))
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
