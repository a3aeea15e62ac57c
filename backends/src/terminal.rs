//! What a command says to the person who runs it.

use std::io::{self, IsTerminal, Write};

/// Prints an error and what could be done about it.
pub(crate) fn complain(error: &str, hint: Option<&str>) {
    say(&format!("error: {error}"));
    if let Some(hint) = hint {
        say(&format!("hint: {hint}"));
    }
}

/// Prints a line on standard error. Unlike `eprintln!`, it does not panic when nobody reads.
pub(crate) fn say(line: &str) {
    let _nobody_reads = writeln!(io::stderr(), "{line}");
}

/// Asks for a line, where there is somebody to ask.
pub(crate) fn prompt() {
    if io::stdin().is_terminal() {
        let mut stdout = io::stdout();
        let _nobody_reads = write!(stdout, "> ").and_then(|()| stdout.flush());
    }
}
