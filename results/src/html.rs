//! Stored documents as one HTML page with charts: for people, in a browser, without a network.
//!
//! The page is a single file. Every chart is an inline SVG drawn here, so that a page without
//! script, on paper or in a text browser loses nothing: each has a title, a description and a table
//! of its values. The script that is part of the file adds values under the pointer, zoom, and
//! series to be switched off. The page's own policy forbids it everything else.
//!
//! Files may come from anywhere, so all text in them is escaped, and every number is finite before
//! it becomes a place in a drawing.

mod charts;
mod compared;
mod environment;
mod escape;
mod figure;
mod lines;
mod page;
mod rows;
mod runs;
mod scale;
mod swept;
mod table;
mod unit;

use self::environment::Origin;
use self::page::Page;
use crate::store::Document;
use crate::table::notes;
use crate::{Comparison, Record, Sweep};

/// The page of any documents, each with the name of its file.
///
/// The runs among them are shown side by side, everything else in a section of its own, what has no
/// chart as its text; and last where all of it took place.
pub fn report(documents: &[(String, Document)]) -> String {
    let mut page = Page::default();
    let mut runs: Vec<(&str, &Record)> = Vec::new();
    let mut comparisons: Vec<(&str, &Comparison)> = Vec::new();
    let mut sweeps: Vec<(&str, &Sweep)> = Vec::new();
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut origins = Vec::new();
    for (name, document) in documents {
        let (kind, circumstances) = match document {
            Document::Record(run) => {
                runs.push((name, run));
                ("run", notes::circumstances(run))
            }
            Document::Comparison(comparison) => {
                comparisons.push((name, comparison));
                ("comparison", notes::places(&comparison.environment))
            }
            Document::Backlog(backlog) => {
                texts.push((format!("Backlog experiment, {}", backlog.started), backlog.text()));
                ("backlog", notes::places(&backlog.environment))
            }
            Document::Storms(storms) => {
                texts.push(("Storms".to_owned(), storms.text()));
                let place = storms.storms.first().map(|storm| notes::places(&storm.environment));
                ("storms", place.unwrap_or_default())
            }
            Document::Storm(storm) => {
                texts.push((format!("Storm, {}", storm.started), storm.text()));
                ("storm", notes::places(&storm.environment))
            }
            Document::Many(many) => {
                texts.push((format!("Few connections and many, {}", many.started), many.text()));
                ("many", notes::places(&many.environment))
            }
            Document::Floor(report) => {
                texts.push((format!("Floor, {}", report.floor.measured), report.floor.text()));
                ("floor", notes::places(&report.environment))
            }
            Document::Sweep(sweep) => {
                sweeps.push((name, sweep));
                ("sweep", notes::places(&sweep.environment))
            }
        };
        origins.push(Origin { name: file_name(name).to_owned(), kind, circumstances });
    }
    let alone = documents.len() == 1;
    let title = title(&runs, &comparisons, &sweeps, texts.len());
    page.push("<header><p class=\"brand\">Lockstep</p>");
    page.push(&format!("<h1>{}</h1></header>", escape::escape(&title)));
    for (index, &comparison) in comparisons.iter().enumerate() {
        compared::section(&mut page, comparison, &format!("comparison-{}", index + 1), alone);
    }
    for (index, &sweep) in sweeps.iter().enumerate() {
        swept::section(&mut page, sweep, &format!("sweep-{}", index + 1), alone);
    }
    for (eyebrow, text) in &texts {
        page.push("<section class=\"document\">");
        page.paragraph("eyebrow", eyebrow);
        page.preformatted(text);
        page.push("</section>");
    }
    if !runs.is_empty() {
        runs::section(&mut page, &runs, runs.len() == documents.len());
    }
    environment::section(&mut page, &origins);
    page.push("<footer>");
    page.paragraph("note", &format!("Drawn by lockstep-results {}", env!("CARGO_PKG_VERSION")));
    page.push("</footer>");
    page.finish(&title)
}

/// What the page is about.
fn title(
    runs: &[(&str, &Record)],
    comparisons: &[(&str, &Comparison)],
    sweeps: &[(&str, &Sweep)],
    experiments: usize,
) -> String {
    match (runs, comparisons, sweeps, experiments) {
        ([(_, run)], [], [], 0) => runs::headline(run),
        ([], [(_, comparison)], [], 0) => compared::title(comparison),
        ([], [], [(_, sweep)], 0) => swept::title(sweep),
        _ => {
            let counts = [
                (comparisons.len(), "comparison"),
                (sweeps.len(), "sweep"),
                (experiments, "experiment"),
                (runs.len(), "run"),
            ];
            let shown = counts.into_iter().filter(|(count, _)| *count > 0);
            let shown = shown.map(|(count, name)| match count {
                1 => format!("1 {name}"),
                _ => format!("{count} {name}s"),
            });
            shown.collect::<Vec<_>>().join(", ")
        }
    }
}

/// The last part of a path.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
