//! What is compared, and what it is called.

use super::{CompareArgs, peers};
use crate::run::args::RunArgs;
use crate::servers::command;
use crate::servers::embedded::{backend_name, backend_names, can_busy_poll};

/// The longest name.
const NAME_MAX: usize = 40;

/// A server to compare.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// The embedded server with this backend.
    Backend(String),
    /// Anybody's server.
    Command(command::Subject),
}

impl Subject {
    /// Its name, which a second one like it shares.
    fn name(&self) -> &str {
        match self {
            Self::Backend(name) => name,
            Self::Command(command) => &command.name,
        }
    }

    /// Whether it is a backend that can poll.
    pub(super) fn spins(&self) -> bool {
        matches!(self, Self::Backend(name) if can_busy_poll(name))
    }

    /// The options of a run with it; those of a server are not asked about a command.
    pub(super) fn args(&self, base: &RunArgs) -> RunArgs {
        let backend = match self {
            Self::Backend(name) => name.clone(),
            Self::Command(_) => "auto".to_owned(),
        };
        let mut args = RunArgs { backend, ..base.clone() };
        args.server.server_spin = args.server.server_spin.filter(|_| self.spins());
        args
    }

    /// The command, if it is one.
    pub(super) fn command(&self) -> Option<&command::Subject> {
        match self {
            Self::Backend(_) => None,
            Self::Command(command) => Some(command),
        }
    }
}

/// A subject under a name that no other has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) subject: Subject,
    /// Whether it is there because it was found, and not by its name.
    pub(super) found: bool,
}

/// Parses `mio` or `name=command`.
pub(crate) fn parse(text: &str) -> Result<Subject, String> {
    let Some((name, command)) = text.split_once('=') else {
        return match backend_name(text).as_deref() {
            Ok("auto") => Err("name the backend that it stands for".to_owned()),
            Ok(name) => Ok(Subject::Backend(name.to_owned())),
            Err(_) => Err(format!(
                "the backends are {}; any other server is NAME='COMMAND'",
                backend_names().join(", ")
            )),
        };
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        return Err(format!(
            "a name is of letters, digits, - _ and ., and at most {NAME_MAX} of them"
        ));
    }
    if backend_name(name).is_ok() {
        return Err(format!("{name} is a backend's name; call the command something else"));
    }
    if !command.contains("{addr}") && !command.contains("{port}") {
        return Err("a command has {addr} or {port} in it, to be told where to listen".to_owned());
    }
    let (name, command) = (name.to_owned(), command.to_owned());
    Ok(Subject::Command(command::Subject { name, command }))
}

/// The subjects, the peers among them. The same one a second time is called `mio-2`.
///
/// # Errors
///
/// One line: too few or too many, or two different ones of one name.
pub(super) fn entries(args: &CompareArgs) -> Result<Vec<Entry>, String> {
    let mut subjects = args.subjects.clone();
    let named = subjects.len();
    if let Some(directory) = &args.peers {
        subjects.extend(peers::find(directory)?);
    }
    match (args.aa, subjects.as_slice()) {
        (true, [one]) => subjects = vec![one.clone(), one.clone()],
        (true, _) => return Err("--aa takes one subject, to compare it with itself".to_owned()),
        (false, [] | [_]) => {
            return Err("it takes two subjects to compare, or one and --aa".to_owned());
        }
        (false, _) => {}
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (index, subject) in subjects.into_iter().enumerate() {
        let alike = entries.iter().filter(|entry| entry.subject.name() == subject.name());
        if alike.clone().any(|entry| entry.subject != subject) {
            return Err(format!("two different subjects are called {}", subject.name()));
        }
        let name = match alike.count() {
            0 => subject.name().to_owned(),
            count => format!("{}-{}", subject.name(), count + 1),
        };
        if entries.iter().any(|entry| entry.name == name) {
            return Err(format!("two subjects are called {name}"));
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
        let entries = entries(&line.compare)?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    #[test]
    fn subjects_go_by_their_names() {
        assert_eq!(names("compare|mio|uring").unwrap(), ["mio", "io-uring"]);
        assert_eq!(names("compare|mio|my=serve -p {port} a=b").unwrap(), ["mio", "my"]);
        assert_eq!(names("compare|mio|--aa").unwrap(), ["mio", "mio-2"]);
        assert_eq!(names("compare|x={addr}|x={addr}|mio").unwrap(), ["x", "x-2", "mio"]);
    }

    #[test]
    fn what_cannot_be_compared_is_refused_in_words() {
        for (line, words) in [
            ("compare", "two subjects"),
            ("compare|mio", "--aa"),
            ("compare|mio|blocking|--aa", "one subject"),
            ("compare|mio|epoll2", "NAME='COMMAND'"),
            ("compare|mio|auto", "name the backend"),
            ("compare|mio|=x {port}", "a name is of"),
            ("compare|mio|a b=x {port}", "a name is of"),
            ("compare|mio|mio=x {port}", "a backend's name"),
            ("compare|mio|x=serve", "{addr} or {port}"),
            ("compare|x={addr}|x={port}", "two different subjects"),
            ("compare|mio|mio|mio-2={port}", "called mio-2"),
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
