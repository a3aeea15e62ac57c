//! Disturbances during a measurement.

use std::collections::BTreeMap;

use super::circumstances::circumstances;
use super::{Environment, Load};
use crate::format;

/// Share of CPU time whose loss is reported; neighbours take less on any shared machine.
const STOLEN: f64 = 0.03;

/// Settings that changed, with their new values.
pub(super) fn changes(before: &Environment, after: &Environment) -> BTreeMap<String, String> {
    let was: BTreeMap<_, _> = circumstances(before).into_iter().collect();
    let is: BTreeMap<_, _> = circumstances(after).into_iter().collect();
    let names = was.keys().chain(is.keys());
    let value = |values: &BTreeMap<String, Option<String>>, name: &String| {
        values.get(name).cloned().flatten()
    };
    names
        .filter(|name| value(&was, name) != value(&is, name))
        .map(|name| (name.clone(), value(&is, name).unwrap_or("-".into())))
        .collect()
}

pub(super) fn warnings(environment: &Environment) -> Vec<String> {
    let mut warnings = Vec::new();
    let during = |value: fn(&Load) -> Option<f64>| {
        let before = value(environment.load_before.as_ref()?)?;
        Some(value(environment.load_after.as_ref()?)? - before)
    };
    if let Some(elapsed_s) = during(|load| load.uptime_s).filter(|elapsed_s| *elapsed_s > 0.0) {
        let shown = format::duration((elapsed_s * 1e9) as u64);
        let cpus = environment.cpus_online.as_deref().map_or(1, count);
        let stolen = during(|load| load.steal_s).map(|s| s / elapsed_s / cpus as f64);
        if let Some(stolen) = stolen.filter(|share| *share >= STOLEN) {
            warnings.push(format!(
                "stolen: the hypervisor gave {:.0} % of the CPUs' time to others in the {shown} \
                 of the run",
                stolen * 100.0
            ));
        }
    }
    let was: BTreeMap<_, _> = circumstances(environment).into_iter().collect();
    for (name, now) in &environment.changed {
        let before = was.get(name).and_then(Option::as_deref).unwrap_or("-");
        warnings.push(format!("changed: {name} was {before} before the run and {now} after it"));
    }
    warnings
}

/// Number of CPUs in a list such as `0,2-3`.
fn count(list: &str) -> usize {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (last + 1).checked_sub(first)
    };
    list.split(',').filter_map(part).sum::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(uptime_s: f64, steal_s: f64) -> Option<Load> {
        Some(Load {
            loadavg_1m: 0.0,
            runnable: 1,
            steal_s: Some(steal_s),
            throttled_s: None,
            frequency_mhz: None,
            uptime_s: Some(uptime_s),
        })
    }

    #[test]
    fn stolen_time_is_reported() {
        let mut environment = Environment {
            cpus_online: Some("0,2-4".into()),
            load_before: load(100.0, 8.0),
            load_after: load(110.0, 9.1),
            ..Environment::default()
        };
        assert_eq!(warnings(&environment), [""; 0], "1.1 s of 40 s");
        environment.load_after = load(110.0, 10.0);
        let found = warnings(&environment);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("stolen: ") && found[0].contains(" 5 % "), "{found:?}");
        // Records of before it was noted when they were asked.
        environment.load_before = None;
        assert_eq!(warnings(&environment), [""; 0]);
    }

    #[test]
    fn changed_settings_are_reported() {
        let before = Environment { governor: Some("powersave".into()), ..Environment::default() };
        let mut after = before.clone();
        after.load_after = load(1.0, 1.0);
        assert_eq!(changes(&before, &after), BTreeMap::new(), "to be busier is no change");
        after.governor = Some("performance".into());
        let changed = changes(&before, &after);
        let found = warnings(&Environment { changed, ..before });
        let expected = "changed: governor was powersave before the run and performance after it";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(["0", "0-1", "0,2-3", "", "x"].map(count), [1, 2, 3, 1, 1]);
    }
}
