//! Section of the machines, with differences between documents first.

use std::collections::BTreeSet;

use super::page::Page;
use super::table::Table;
use crate::environment::circumstances::{Circumstance, value};

/// Circumstances of a document, under its name.
pub(crate) struct Origin {
    pub(crate) name: String,
    /// Kind of the document.
    pub(crate) kind: String,
    pub(crate) circumstances: Vec<Circumstance>,
}

/// Circumstances that are shown at once; the others are behind a line to open.
const FIRST: [&str; 14] = [
    "CPU",
    "CPUs online",
    "client CPUs",
    "server CPUs",
    "hypervisor",
    "product",
    "kernel",
    "governor",
    "SMT",
    "turbo",
    "git",
    "profile",
    "rustc",
    "program",
];

/// Adds the tables; of several documents, the differences first.
pub(crate) fn section(page: &mut Page, origins: &[Origin]) {
    let mut seen = BTreeSet::new();
    let names = origins.iter().flat_map(|origin| &origin.circumstances).map(|(name, _)| name);
    let names: Vec<&str> = names.filter(|&name| seen.insert(name)).map(String::as_str).collect();
    let values = |name: &str| -> Vec<String> {
        origins.iter().map(|origin| value(&origin.circumstances, name).to_owned()).collect()
    };
    let (same, different): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| {
        // A circumstance that only runs have does not make an experiment different from them.
        let has = |origin: &&Origin| origin.circumstances.iter().any(|(found, _)| found == name);
        let kinds: Vec<&str> =
            origins.iter().filter(has).map(|origin| origin.kind.as_str()).collect();
        let concerned = origins.iter().filter(|origin| kinds.contains(&origin.kind.as_str()));
        let mut values = concerned.map(|origin| value(&origin.circumstances, name));
        let first = values.next();
        values.all(|value| Some(value) == first)
    });
    page.push("<section class=\"document\" id=\"environment\"><h2>Environment</h2>");
    if !different.is_empty() {
        let heads = origins.iter().map(|origin| origin.name.clone());
        let mut table = Table::new(std::iter::once("not the same in all".to_owned()).chain(heads));
        for name in &different {
            table.row(std::iter::once(format!("\u{2260} {name}")).chain(values(name)));
        }
        page.paragraph("warning", "The documents do not have all circumstances in common:");
        page.push("<div class=\"different\">");
        page.push(&table.html());
        page.push("</div>");
    }
    let table = |names: Vec<&str>| {
        let mut table = Table::default();
        for name in names {
            if let Some(value) = values(name).into_iter().find(|value| value != "-") {
                table.row([name.to_owned(), value]);
            }
        }
        table
    };
    let (first, rest): (Vec<&str>, Vec<&str>) =
        same.into_iter().partition(|name| FIRST.contains(name));
    page.push(&table(first).html());
    page.push(&table(rest).behind("All settings, mitigations and sysctls"));
    page.push("</section>");
}
