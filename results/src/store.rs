//! Files of documents: indented JSON, written whole or not at all, never overwritten by accident.
//!
//! The errors do not name the path, which the caller knows.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Serialize;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{Document, SCHEMA, Stored};

/// Size limit of a file that is read. It stops a path such as `/dev/zero` from filling memory.
const FILE_MAX: u64 = 64 << 20;

/// Checks that [`write()`] can write to `path`, so that no measured run is lost: creates a file in
/// its directory and removes it.
///
/// # Errors
///
/// `AlreadyExists` without `force`, `InvalidInput` if the path is neither a file nor a directory,
/// `NotFound` if its directory does not exist, and those of creating a file.
pub fn check(path: &Path, force: bool) -> io::Result<()> {
    let directory = match fs::metadata(path) {
        Ok(found) if found.is_dir() => path,
        Ok(found) if !found.is_file() => {
            // A rename would replace a device.
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "is neither a file nor a directory",
            ));
        }
        Ok(_) if !force => return Err(Errno::EXIST.into()),
        Err(error) if error.kind() != ErrorKind::NotFound || names_a_directory(path) => {
            return Err(error);
        }
        // A link to a file that does not exist.
        Err(_) if !force && path.is_symlink() => return Err(Errno::EXIST.into()),
        Ok(_) | Err(_) => directory_of(path),
    };
    temporary_in(directory).map(drop)
}

/// Writes a document to `path` and returns the path of its file.
///
/// In a directory the file is named `<UTC time>-<host>-<stem>.json` ([`Document::stem`]); a number
/// is added if that name is taken. The file is written beside its place, synchronised and renamed.
///
/// # Errors
///
/// See [`check`]; `InvalidData` if the document would not read back (a number is not finite); or an
/// error of the file system.
pub fn write(
    document: &(impl Document + Serialize),
    path: &Path,
    force: bool,
) -> io::Result<PathBuf> {
    check(path, force)?;
    let mut text = serde_json::to_vec_pretty(document)?;
    text.push(b'\n');
    if let Err(error) = parse(&text) {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("the record is {error}")));
    }
    if !path.is_dir() {
        save(&text, path, force)?;
        return Ok(path.to_owned());
    }
    let stem = file_stem(document);
    let mut number = 1;
    loop {
        let name = if number == 1 { stem.clone() } else { format!("{stem}-{number}") };
        let file = path.join(name + ".json");
        match save(&text, &file, false) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            other => return other.map(|()| file),
        }
    }
}

/// Writes a page of [`html`](crate::html) to the file `path`, like [`write()`].
///
/// # Errors
///
/// See [`check`]; `IsADirectory`; or an error of the file system.
pub fn write_page(page: &str, path: &Path, force: bool) -> io::Result<()> {
    check(path, force)?;
    if path.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    save(page.as_bytes(), path, force)
}

/// Reads a document of any kind, of a run also behind lines with its intervals.
///
/// # Errors
///
/// An error of the file system; `InvalidData` if the file is not JSON, is JSON but no document, or
/// was written by a newer version.
pub fn read(path: &Path) -> io::Result<Stored> {
    read_from(File::open(path)?)
}

/// Reads a document as [`read`] does.
///
/// # Errors
///
/// Those of [`read`].
pub fn read_from(input: impl Read) -> io::Result<Stored> {
    let mut text = Vec::new();
    input.take(FILE_MAX + 1).read_to_end(&mut text)?;
    let document = match text.len() as u64 {
        ..=FILE_MAX => parse(&text),
        _ => Err(format!("not a record: larger than {} MiB", FILE_MAX >> 20)),
    };
    document.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

fn parse(text: &[u8]) -> Result<Stored, String> {
    let no_record = |reason: &str| Err(format!("not a record: {reason}"));
    if text.trim_ascii().is_empty() {
        return no_record("empty");
    }
    let values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let mut documents = values.filter(|value| !value.as_ref().is_ok_and(is_interval));
    let value = match (documents.next(), documents.next()) {
        (Some(Ok(value)), None) => value,
        (Some(Err(error)), _) | (_, Some(Err(error))) => return Err(format!("not JSON: {error}")),
        (Some(Ok(_)), Some(Ok(_))) => return no_record("several results"),
        (None, _) => return Err("not JSON: no result".to_owned()),
    };
    match value.get("schema").map(Value::as_u64) {
        None => return no_record("no schema number"),
        Some(None | Some(0)) => return no_record("a strange schema number"),
        Some(Some(schema)) if schema > SCHEMA.into() => {
            return Err(format!(
                "written by a newer version: schema {schema}, {SCHEMA} is known here"
            ));
        }
        Some(Some(_)) => {}
    }
    let kind = value.get("kind").map_or(Some("run"), Value::as_str).unwrap_or_default().to_owned();
    match Stored::parse(&kind, value) {
        Some(Ok(document)) => Ok(document),
        Some(Err(error)) if kind == "run" => no_record(&error.to_string()),
        Some(Err(error)) => no_record(&format!("nor a {kind}: {error}")),
        None => no_record(&format!("unknown kind {kind:?}")),
    }
}

/// True for an interval on a line of its own.
fn is_interval(value: &Value) -> bool {
    value.get("kind").is_some_and(|kind| kind == "interval")
}

/// Writes a file beside its place and renames it.
fn save(text: &[u8], to: &Path, overwrite: bool) -> io::Result<()> {
    // Of a link, the file that it names is replaced.
    let to = &fs::canonicalize(to).unwrap_or_else(|_| to.to_owned());
    let directory = directory_of(to);
    let mut file = temporary_in(directory)?;
    file.as_file_mut().write_all(text)?;
    file.as_file().sync_all()?;
    let persist = if overwrite { NamedTempFile::persist } else { NamedTempFile::persist_noclobber };
    persist(file, to)?;
    // The name must survive a power failure, too. Not every file system can promise that.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

/// Creates a file that is removed when dropped. It has the permissions of any other file.
fn temporary_in(directory: &Path) -> io::Result<NamedTempFile> {
    let builder = &mut tempfile::Builder::new();
    // Errors of `File` do not contain the path.
    builder.prefix(".lockstep-").suffix(".tmp").make_in(directory, |path| File::create_new(path))
}

/// `20261123T122405Z-9f86d081-mio-1000x64`.
fn file_stem(document: &impl Document) -> String {
    let started = &document.header().started;
    let started: String = match humantime::parse_rfc3339(started) {
        Ok(time) => humantime::format_rfc3339_seconds(time).to_string(),
        Err(_) => started.clone(),
    };
    let started: String = started.chars().filter(|c| !"-:".contains(*c)).collect();
    let host = document.environment().host.as_deref().unwrap_or("unknown");
    let stem: String = document.stem().chars().take(STEM_MAX).collect();
    format!("{started}-{host}-{stem}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect()
}

/// Longest stem of a file's name, in characters.
const STEM_MAX: usize = 100;

/// Directory of a file.
fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// True if the path can only mean a directory: it ends in a slash.
fn names_a_directory(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}
