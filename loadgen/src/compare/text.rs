//! A comparison as text.

use lockstep_results::{Comparison, wrap};

/// Columns at most.
const WIDTH: usize = 100;

/// What was compared and where it ran, the table, and what it shows.
pub fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    for line in header(comparison) {
        text += &wrap(&line, WIDTH, 4);
        text.push('\n');
    }
    text + "\n" + &comparison.table() + "\n" + &comparison.conclusion()
}

fn header(comparison: &Comparison) -> Vec<String> {
    let plan = &comparison.plan;
    let others: Vec<&str> =
        plan.subjects.iter().map(String::as_str).filter(|name| *name != plan.baseline).collect();
    let mut lines = vec![format!(
        "{} against {}: each run has a server of its own; the order is drawn by lot",
        others.join(", "),
        plan.baseline
    )];
    let subjects = comparison.cells.iter().flat_map(|cell| &cell.subjects);
    let mut places: Vec<String> = Vec::new();
    for measured in subjects {
        let server = measured.server_cpus.as_deref().unwrap_or("unknown");
        let threads = measured.threads;
        let place = format!(
            "servers on CPU {server}, generator on CPU {} with {threads} thread{}",
            measured.client_cpus,
            if threads == 1 { "" } else { "s" }
        );
        if !places.contains(&place) {
            places.push(place);
        }
    }
    lines.extend(places);
    lines.push(format!("seed {}", plan.seed));
    lines
}
