//! Subjects of a comparison, and their names.

use super::CompareArgs;
use crate::run::args::RunArgs;
use crate::servers::command;
use crate::servers::embedded::{backend_name, backend_names, can_busy_poll};

/// Length of the longest name.
const NAME_MAX: usize = 40;

/// A server to compare.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// The embedded server with this backend.
    Backend(String),
    /// A server from a command line.
    Command(command::Subject),
}

impl Subject {
    /// The name, which is not unique: a subject may be given twice.
    fn name(&self) -> &str {
        match self {
            Self::Backend(name) => name,
            Self::Command(command) => &command.name,
        }
    }

    /// True if it is a backend that can busy-poll.
    pub(super) fn can_busy_poll(&self) -> bool {
        matches!(self, Self::Backend(name) if can_busy_poll(name))
    }

    /// The options of a run with it, without those that it cannot follow.
    pub(super) fn args(&self, base: &RunArgs) -> RunArgs {
        let backend = match self {
            Self::Backend(name) => name.clone(),
            Self::Command(_) => "auto".to_owned(),
        };
        let mut args = RunArgs { backend, ..base.clone() };
        args.server.server_spin = args.server.server_spin.filter(|_| self.can_busy_poll());
        args
    }

    /// The command; `None` for a backend.
    pub(super) fn command(&self) -> Option<&command::Subject> {
        match self {
            Self::Backend(_) => None,
            Self::Command(command) => Some(command),
        }
    }
}

/// A subject under a unique name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) subject: Subject,
    /// True for a reference server that was found, and not named by the user.
    pub(super) found: bool,
}

/// Parses `mio` or `name=command`.
pub(crate) fn parse(text: &str) -> Result<Subject, String> {
    let Some((name, command)) = text.split_once('=') else {
        return match backend_name(text).as_deref() {
            Ok("auto") => Err("auto may change from run to run: name a backend".to_owned()),
            Ok(name) => Ok(Subject::Backend(name.to_owned())),
            Err(_) => {
                Err(format!("possible values: {}, NAME='COMMAND'", backend_names().join(", ")))
            }
        };
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        return Err(format!(
            "a name has at most {NAME_MAX} characters: letters, digits, '-', '_' and '.'"
        ));
    }
    if backend_name(name).is_ok() {
        return Err(format!("{name} is a backend; give the command another name"));
    }
    if !command.contains("{addr}") && !command.contains("{port}") {
        return Err("a command contains {addr} or {port}, where it is to listen".to_owned());
    }
    let (name, command) = (name.to_owned(), command.to_owned());
    Ok(Subject::Command(command::Subject { name, command }))
}

/// The subjects, reference servers included. The second `mio` is named `mio-2`.
///
/// # Errors
///
/// If there are too few or too many subjects, or two different ones of one name.
pub(super) fn entries(args: &CompareArgs, peers: Vec<Subject>) -> Result<Vec<Entry>, String> {
    let mut subjects = args.subjects.clone();
    let named = subjects.len();
    subjects.extend(peers);
    match (args.aa, subjects.as_slice()) {
        (true, [one]) => subjects = vec![one.clone(), one.clone()],
        (true, _) => return Err("--aa takes one subject".to_owned()),
        (false, [] | [_]) => {
            return Err("give it two subjects, or one and --aa".to_owned());
        }
        (false, _) => {}
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (index, subject) in subjects.into_iter().enumerate() {
        let alike = entries.iter().filter(|entry| entry.subject.name() == subject.name());
        if alike.clone().any(|entry| entry.subject != subject) {
            return Err(format!("two different subjects are named {}", subject.name()));
        }
        let name = match alike.count() {
            0 => subject.name().to_owned(),
            count => format!("{}-{}", subject.name(), count + 1),
        };
        if entries.iter().any(|entry| entry.name == name) {
            return Err(format!("two subjects are named {name}"));
        }
        entries.push(Entry { name, subject, found: index >= named && !args.aa });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        compare: CompareArgs,
    }

    fn names(line: &str) -> Result<Vec<String>, String> {
        let line = Line::try_parse_from(line.split('|')).map_err(|error| error.to_string())?;
        let entries = entries(&line.compare, Vec::new())?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    #[test]
    fn subjects_have_unique_names() {
        assert_eq!(names("compare|mio|uring").unwrap(), ["mio", "io-uring"]);
        assert_eq!(names("compare|mio|my=serve -p {port} a=b").unwrap(), ["mio", "my"]);
        assert_eq!(names("compare|mio|--aa").unwrap(), ["mio", "mio-2"]);
        assert_eq!(names("compare|x={addr}|x={addr}|mio").unwrap(), ["x", "x-2", "mio"]);
    }

    #[test]
    fn subject_errors() {
        for (line, words) in [
            ("compare", "two subjects"),
            ("compare|mio", "--aa"),
            ("compare|mio|blocking|--aa", "one subject"),
            ("compare|mio|epoll2", "NAME='COMMAND'"),
            ("compare|mio|auto", "name a backend"),
            ("compare|mio|=x {port}", "a name has"),
            ("compare|mio|a b=x {port}", "a name has"),
            ("compare|mio|mio=x {port}", "mio is a backend"),
            ("compare|mio|x=serve", "{addr} or {port}"),
            ("compare|x={addr}|x={port}", "two different subjects"),
            ("compare|mio|mio|mio-2={port}", "named mio-2"),
            ("compare|mio|--rounds|0", "at least 1"),
            ("compare|mio|--rounds|2k", "at most 1000"),
            ("compare|mio|--precision|3", "write 3%"),
            ("compare|mio|--precision|0%", "between 0.1%"),
            ("compare|mio|--conns|64,0", "at least 1"),
            ("compare|mio|--size|64,2MiB", "at most 1MiB"),
        ] {
            let error = names(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
