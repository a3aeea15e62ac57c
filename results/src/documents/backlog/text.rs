//! Text of a backlog experiment.

use std::fmt::Write as _;

use super::picture::{bar, ladder, timeline};
use super::{Backlog, Kernel, Outcome, Range, Trial};
use crate::text::{COLUMNS, line, printable, wrap};

/// Trials side by side in the table of checks.
const SIDE_BY_SIDE: usize = 3;

/// Text of the whole experiment.
pub(super) fn text(backlog: &Backlog) -> String {
    let mut text = backlog.plan();
    text += &backlog.table();
    for trial in &backlog.trials {
        text += &trial.story();
    }
    text += &backlog.checks();
    text + &backlog.verdict()
}

impl Backlog {
    fn plan(&self) -> String {
        let place = match (&self.target, self.private) {
            (Some(target), _) => format!("at {}", printable(target)),
            (None, true) => "each in a network namespace of its own".to_owned(),
            (None, false) => "in the network namespace of every program".to_owned(),
        };
        let pace = if self.mode == "storm" { "concurrently" } else { "one after another" };
        let lines = [
            format!(
                "listen(n), {place}: {} more connects than there is room for, {pace}, and nothing \
                 accepts before {} s",
                self.extra, self.hold_s
            ),
            self.trials.first().map_or_else(String::new, |trial| settings(&trial.kernel)),
        ];
        let notes = self.notes.iter().map(|note| format!("note: {}", printable(note)));
        lines
            .into_iter()
            .filter(|line| !line.is_empty())
            .chain(notes)
            .fold(String::new(), |text, sentence| text + &line(&sentence) + "\n")
    }

    /// Measured and predicted, a line for each trial.
    fn table(&self) -> String {
        let mut text = format!(
            "\n{:<17} {:>5} {:>9} {:>9} {:>7} {:>7} {:>5} {:>7} {:>6}\n",
            "", "conns", "at once", "late", "ghosts", "refused", "reset", "timeout", "served"
        );
        for trial in &self.trials {
            let Outcome { instant, late, ghosts, refused, reset, timed_out, served, .. } =
                trial.measured;
            let predicted = &trial.predicted;
            let _ = writeln!(
                text,
                "{:<17} {:>5} {:>9} {:>9} {:>7} {refused:>7} {reset:>5} {timed_out:>7} {served:>6}",
                trial.name(),
                trial.conns,
                format!("{instant}/{}", range(predicted.instant)),
                format!("{late}/{}", range(predicted.late)),
                format!("{ghosts}/{}", range(predicted.ghosts)),
            );
        }
        text += "a/b: measured and predicted\n";
        text + "ghosts: clients that believe they are connected and are not\n"
    }

    /// The kernel's counters against each other and against the clients.
    fn checks(&self) -> String {
        let mut text = String::new();
        for trials in self.trials.chunks(SIDE_BY_SIDE) {
            let mut names: Vec<&str> = Vec::new();
            for check in trials.iter().flat_map(|trial| &trial.checks) {
                if !names.contains(&check.name.as_str()) {
                    names.push(&check.name);
                }
            }
            if names.is_empty() {
                continue;
            }
            let _ = write!(text, "\n{:<51}", "the kernel's counters");
            for trial in trials {
                let _ = write!(text, " {:>8}", format!("n={}", trial.n));
            }
            text.push('\n');
            for name in names {
                let _ = write!(text, "{:<51}", printable(name));
                for trial in trials {
                    let check = trial.checks.iter().find(|check| check.name == name);
                    let cell = check.map_or_else(String::new, |check| match check.holds {
                        true if !check.is_bound() => check.left.to_string(),
                        true => format!("{} >= {}", check.left, check.right),
                        false => format!("{} / {}!", check.left, check.right),
                    });
                    let _ = write!(text, " {cell:>8}");
                }
                text.push('\n');
            }
        }
        if self.trials.iter().flat_map(|trial| &trial.checks).any(|check| !check.holds) {
            text += "a / b!: left and right side of a relation that does not hold\n";
        }
        if !self.private && !text.is_empty() {
            text +=
                "Other programs in this network namespace count too: no verdict rests on these.\n";
        }
        text
    }

    fn verdict(&self) -> String {
        let disagreements = self.disagreements();
        let mut text = "\n".to_owned();
        if self.interrupted {
            text += "interrupted: incomplete\n";
        } else if disagreements.is_empty() {
            text += "as predicted\n";
        }
        for reason in disagreements {
            text += &wrap(&format!("NOT AS PREDICTED  {}", printable(&reason)), COLUMNS, 18);
            text.push('\n');
        }
        text
    }
}

impl Trial {
    /// A sentence and two pictures.
    fn story(&self) -> String {
        let mut text = "\n".to_owned() + &wrap(&self.sentence(), COLUMNS, 0) + "\n";
        for note in &self.notes {
            text += &wrap(&format!("  note: {}", printable(note)), COLUMNS, 8);
            text.push('\n');
        }
        let rungs = ladder(&self.clients);
        let most = rungs.iter().map(|rung| rung.clients).max().unwrap_or(0);
        for rung in &rungs {
            let time = rung.connect_s.map_or_else(|| "-".to_owned(), seconds);
            let line = format!(
                "  {:>4} SYN {time:>8} {:>6} {}",
                ordinal(rung.syn),
                rung.clients,
                bar(rung.clients, most)
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let full = u64::from(self.listeners) * (u64::from(self.limit) + 1);
        let deepest = self.depth.iter().map(|sample| sample.depth).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "  queue, {:.1} s     {} at most {deepest}",
            self.length_s,
            timeline(&self.depth, full, self.length_s)
        );
        text
    }

    /// One sentence that a student understands.
    pub fn sentence(&self) -> String {
        let Outcome { instant, late, ghosts, refused, reset, timed_out, served, unserved } =
            self.measured;
        let mut parts = vec![format!("{} admitted {instant} at once", self.name())];
        if self.listeners > 1 {
            parts[0] += &format!(", {} for each listener", instant / u64::from(self.listeners));
        }
        if late > 0 {
            let rungs = ladder(&self.clients);
            let later: Vec<_> = rungs.iter().skip(1).filter(|rung| rung.clients > 0).collect();
            let waited = match later.as_slice() {
                [rung] => format!(
                    "{} for their {} SYN",
                    rung.connect_s.map_or_else(String::new, seconds),
                    in_words(rung.syn)
                ),
                [first, .., last] => format!(
                    "{} to {} for their {} to {} SYN",
                    first.connect_s.map_or_else(String::new, seconds),
                    last.connect_s.map_or_else(String::new, seconds),
                    in_words(first.syn),
                    in_words(last.syn)
                ),
                [] => "for a later SYN".to_owned(),
            };
            parts.push(format!("{late} more waited {waited}"));
        }
        if ghosts > 0 {
            let of = if late > 0 { "of them " } else { "" };
            let were = if ghosts == 1 {
                "believed it was connected and was not"
            } else {
                "believed they were connected and were not"
            };
            parts.push(format!("{ghosts} {of}{were}"));
        }
        if refused > 0 {
            parts.push(format!("{refused} {} refused", if refused == 1 { "was" } else { "were" }));
        }
        if reset > 0 {
            let they = if reset == 1 { "was reset after it" } else { "were reset after they" };
            parts.push(format!("{reset} {they} had connected"));
        }
        if timed_out > 0 {
            parts.push(format!("{timed_out} timed out"));
        }
        parts.push(match (served, unserved) {
            (0, 0) => "no client had a reply".to_owned(),
            (served, 0) => format!("in the end all {served} connected had a reply"),
            (served, unserved) => format!("in the end {served} had a reply and {unserved} had not"),
        });
        parts.join("; ") + "."
    }
}

fn settings(kernel: &Kernel) -> String {
    let settings = [
        ("somaxconn", kernel.somaxconn),
        ("tcp_syncookies", kernel.syncookies),
        ("tcp_abort_on_overflow", kernel.abort_on_overflow),
        ("tcp_max_syn_backlog", kernel.max_syn_backlog),
        ("tcp_syn_retries", kernel.syn_retries),
        ("tcp_syn_linear_timeouts", kernel.syn_linear_timeouts),
    ];
    let settings = settings.iter().map(|(name, value)| match value {
        Some(value) => format!("{name} {value}"),
        None => format!("{name} unknown"),
    });
    let settings: Vec<String> = settings.collect();
    format!("Linux {}: {}", printable(&kernel.release), settings.join(", "))
}

/// `8`, or `0-2`.
pub(super) fn range(range: Range) -> String {
    match range.least == range.most {
        true => range.least.to_string(),
        false => format!("{}-{}", range.least, range.most),
    }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0} us", seconds * 1e6),
        ..0.1 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

fn ordinal(number: u32) -> String {
    let suffix = match (number % 10, number % 100) {
        (1, tens) if tens != 11 => "st",
        (2, tens) if tens != 12 => "nd",
        (3, tens) if tens != 13 => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

fn in_words(number: u32) -> String {
    const WORDS: [&str; 9] =
        ["second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];
    let word = number.checked_sub(2).and_then(|index| WORDS.get(index as usize));
    word.map_or_else(|| ordinal(number), |word| (*word).to_owned())
}
