//! `lockstep backends`.

use std::io::{self, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};

use crate::BACKENDS;

/// Prints a row for each backend.
pub(super) fn backends() -> ExitCode {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(80);
    table.set_header(["backend", "here", "how, or why not"]);
    for backend in BACKENDS {
        match backend.probe(1) {
            Ok(how) => table.add_row([backend.name(), "yes", &how]),
            Err(refused) => {
                let why = format!("{}\nhint: {}", refused.cause, refused.hint);
                table.add_row([backend.name(), "no", &why])
            }
        };
    }
    let _nobody_reads = writeln!(io::stdout(), "{table}");
    ExitCode::SUCCESS
}
