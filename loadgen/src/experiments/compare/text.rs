//! A comparison as text.

use lockstep_results::{Asked, Comparison, format, wrap};

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
            "servers on CPU {server}, generator on CPU {} with {threads} thread{}{}",
            measured.client_cpus,
            if threads == 1 { "" } else { "s" },
            match measured.placement.as_deref() {
                Some("apart") | None => String::new(),
                Some(how) => format!(", {how}"),
            }
        );
        if !places.contains(&place) {
            places.push(place);
        }
    }
    lines.extend(places);
    lines.extend(plan.asked.as_ref().map(asked));
    lines.extend(plan.asked.as_ref().and_then(turns));
    lines.push(format!("seed {}", plan.seed));
    for absent in &plan.absent {
        lines.push(format!("without {}, which did not start: {}", absent.subject, absent.cause));
    }
    lines
}

/// How the runs of a round take turns.
fn turns(asked: &Asked) -> Option<String> {
    let turns = asked.conns.iter().zip(&asked.turns_s).filter(|&(_, &turn_s)| turn_s > 0.0);
    let turns: Vec<String> =
        turns.map(|(conns, turn_s)| format!("{:.0} ms at {conns} conns", turn_s * 1e3)).collect();
    (!turns.is_empty()).then(|| format!("subjects are under load in turn: {}", turns.join(", ")))
}

/// What every run was asked for.
fn asked(asked: &Asked) -> String {
    let load = match (asked.rate_per_s, &asked.arrivals) {
        (Some(rate), Some(arrivals)) => format!("{rate} requests/s, {arrivals}"),
        _ => "closed loop".to_owned(),
    };
    let warmup = match asked.warmup_s {
        Some(seconds) => format!("{seconds} s of warm-up"),
        None => "it was steady".to_owned(),
    };
    let mut line = format!("each run: {load}, {} s after {warmup}", asked.duration_s);
    let more = [("threads", asked.threads), ("shards", asked.shards), ("backlog", asked.backlog)];
    for (name, value) in more {
        line.extend(value.map(|value| format!(", {name} {value}")));
    }
    line.extend(asked.engine.iter().map(|engine| format!(", generator on {engine}")));
    line.extend(asked.spin_s.map(|spin_s| format!(", spinning {:.0} us", spin_s * 1e6)));
    line.extend(
        asked.server_spin_ns.map(|ns| format!(", backends polling for {}", format::duration(ns))),
    );
    line
}
