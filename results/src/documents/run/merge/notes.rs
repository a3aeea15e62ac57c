//! Reasons and warnings of a merged record.

use std::collections::{BTreeMap, BTreeSet};

use super::input::Part;
use crate::documents::run::notes::ranges;
use crate::environment::circumstances::{circumstances, value};
use crate::text::plural;

/// Circumstances that may differ between ranks without a meaning for the numbers.
const OWN: [&str; 2] = ["host", "CPUs allowed"];

/// Reasons for invalid ranks.
pub(super) fn reasons(parts: &[Part<'_>]) -> Vec<String> {
    let mut reasons = grouped(parts, |part| &part.record.invalid_reasons);
    let silent = |part: &&Part<'_>| !part.record.valid && part.record.invalid_reasons.is_empty();
    let silent: Vec<u32> = parts.iter().filter(silent).map(|part| part.rank.index).collect();
    if !silent.is_empty() {
        reasons.push(format!("rank-invalid: {}: no reason given", named(&silent)));
    }
    reasons
}

/// Warnings of the ranks, about missing ranks, and about machines that differ.
pub(super) fn warnings(parts: &[Part<'_>], missing: &[u32], count: u32) -> Vec<String> {
    let mut warnings = Vec::new();
    if !missing.is_empty() {
        warnings.push(format!(
            "missing-ranks: {} of {} without a record ({}): the load was not the whole, and their \
             requests are in no count",
            missing.len(),
            plural(count.into(), "rank"),
            ranges(missing)
        ));
    }
    warnings.extend(differences(parts));
    let of_ranks = grouped(parts, |part| &part.record.warnings);
    // The late start is among the reasons.
    warnings.extend(of_ranks.into_iter().filter(|warning| !warning.starts_with("late-start: ")));
    warnings
}

/// Sentences of the ranks, equal ones once: `stolen: ranks 0-1: the hypervisor gave …`. Of many
/// with the same word, the first are shown.
fn grouped<'a>(parts: &[Part<'a>], of: fn(&Part<'a>) -> &'a Vec<String>) -> Vec<String> {
    let mut ranks: BTreeMap<&str, (usize, Vec<u32>)> = BTreeMap::new();
    for part in parts {
        for sentence in of(part) {
            let place = ranks.len();
            let (_, found) = ranks.entry(sentence).or_insert((place, Vec::new()));
            if found.last() != Some(&part.rank.index) {
                found.push(part.rank.index);
            }
        }
    }
    let mut groups: Vec<_> = ranks.into_iter().collect();
    groups.sort_by_key(|(_, (place, _))| *place);
    let is_word = |word: &str| word.bytes().all(|c| c.is_ascii_lowercase() || c == b'-');
    let mut lines = Vec::new();
    let mut of_word: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rest: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for (sentence, (_, ranks)) in groups {
        let Some((word, text)) = sentence.split_once(": ").filter(|(word, _)| is_word(word)) else {
            lines.push(format!("{}: {sentence}", named(&ranks)));
            continue;
        };
        let shown = of_word.entry(word).or_default();
        *shown += 1;
        match *shown <= ALIKE_SHOWN {
            true => lines.push(format!("{word}: {}: {text}", named(&ranks))),
            false => rest.entry(word).or_default().extend(ranks),
        }
    }
    lines.extend(rest.into_iter().map(|(word, ranks)| likewise(word, ranks)));
    lines
}

/// Number of sentences with the same word that are shown.
pub(super) const ALIKE_SHOWN: usize = 4;

/// `late: ranks 4-63: likewise, with figures of their own`.
pub(super) fn likewise(word: &str, ranks: impl IntoIterator<Item = u32>) -> String {
    let ranks: Vec<u32> = ranks.into_iter().collect();
    format!("{word}: {}: likewise, with figures of their own", named(&ranks))
}

/// `rank 2` or `ranks 0-1,3`.
fn named(ranks: &[u32]) -> String {
    let plural = if ranks.len() == 1 { "" } else { "s" };
    format!("rank{plural} {}", ranges(ranks))
}

/// Properties of machine, kernel and build that are not the same for all ranks: `hosts-differ:
/// governor: performance (ranks 0-1), powersave (rank 2)`.
fn differences(parts: &[Part<'_>]) -> Vec<String> {
    let all: Vec<_> = parts.iter().map(|part| circumstances(&part.record.environment)).collect();
    let mut names: Vec<&String> = all.iter().flatten().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !OWN.contains(&name.as_str()));
    let mut lines = Vec::new();
    for name in names {
        let mut values: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (part, own) in parts.iter().zip(&all) {
            values.entry(value(own, name)).or_default().push(part.rank.index);
        }
        if values.len() > 1 {
            let shown = values.iter().map(|(value, ranks)| format!("{value} ({})", named(ranks)));
            let shown: Vec<String> = shown.collect();
            lines.push(format!("hosts-differ: {name}: {}", shown.join(", ")));
        }
    }
    lines
}
