//! A sweep as plain text that is also Markdown, in at most 100 columns.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::{Axis, Bound, Knee, Level, Outcome, Point, Purpose, SloResult, Sweep, slug};
use crate::{format, text};

/// Where the further lines of a sentence start.
const INDENT: usize = 4;

/// What was asked, the curve as a table and as a picture, and what it shows.
pub(super) fn text(sweep: &Sweep) -> String {
    let mut lines: Vec<String> = vec![line(&sweep.heading()), String::new()];
    let grid = sweep.grid().trim_fmt();
    lines.extend(grid.lines().map(|line| line.trim_end().to_owned()));
    let picture = sweep.picture();
    if !picture.is_empty() {
        lines.push(String::new());
        lines.extend(picture);
    }
    lines.push(String::new());
    lines.extend(sweep.sentences().iter().map(|sentence| line(sentence)));
    lines.join("\n") + "\n"
}

impl Sweep {
    /// What it shows: the knee or the rate that was searched for, and what does not count. A
    /// sentence each, as long as it is.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        match (&self.slo, &self.knee) {
            (Some(slo), _) => sentences.extend(self.searched(slo)),
            (None, Some(knee)) => sentences.push(self.bend(knee)),
            (None, None) => sentences.push(self.no_bend()),
        }
        // One reason a level says enough.
        let mut invalid: Vec<&Point> =
            self.points.iter().filter(|point| point.outcome == Outcome::Invalid).collect();
        invalid.sort_by_key(|point| point.level);
        invalid.dedup_by_key(|point| point.level);
        sentences.extend(invalid.into_iter().map(|point| {
            let reason = point.reasons.first().map_or("no reason is given", String::as_str);
            format!("INVALID at {}: {reason}", self.level(point.level))
        }));
        if self.interrupted {
            sentences.push("interrupted: there should be more runs".to_owned());
        }
        sentences
    }

    fn heading(&self) -> String {
        let plan = &self.plan;
        let conns = plan.conns.map_or(String::new(), |conns| {
            format!(", {conns} connection{}", if conns == 1 { "" } else { "s" })
        });
        let load = match (&plan.arrivals, plan.rate_per_s) {
            (None, _) => "closed loop".to_owned(),
            (Some(arrivals), None) => format!("open loop, {arrivals} arrivals"),
            (Some(arrivals), Some(rate)) => format!("open loop, {rate}/s {arrivals}"),
        };
        let order = if self.slo.is_some() { "a search" } else { "in random order" };
        let rounds = match plan.rounds {
            1 => String::new(),
            rounds => format!(", {rounds} rounds"),
        };
        let place = plan.placement.as_ref().map_or_else(String::new, |how| format!(", {how}"));
        let spin = text::polling(plan.server_spin_ns);
        format!(
            "{}{spin}{place}{conns}, requests of {} bytes ({}), {load}; {} s a level after {} s of warm-up, {order}\
             {rounds}, seed {}",
            plan.subject,
            plan.size,
            plan.service,
            plan.duration_s,
            plan.warmup_s,
            plan.header.seed.map_or("-".into(), |seed| seed.to_string())
        )
    }

    fn grid(&self) -> Table {
        let level = match self.plan.axis {
            Axis::Rate => "offered/s",
            Axis::Conns => "connections",
        };
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header([
            level,
            "achieved/s",
            "p50",
            "p99",
            "p99.9",
            "server CPU",
            "verdict",
        ]);
        // Only absurd values are too wide; they are broken, not the table.
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(text::COLUMNS as u16);
        for column in table.column_iter_mut().take(6) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for (level, verdict) in self.rows() {
            let duration = |ns: Option<f64>| {
                ns.map_or_else(|| "-".to_owned(), |ns| format::duration(ns.round() as u64))
            };
            table.add_row([
                format::count(level.level as f64),
                format::count(level.achieved_per_s),
                duration(level.p50_ns),
                duration(level.p99_ns),
                duration(level.p999_ns),
                duration(level.server_cpu_us.map(|us| us * 1e3)),
                text::printable(&verdict),
            ]);
        }
        table
    }

    /// A row for each level, with the medians of its runs; of a search, for each run as it came.
    fn rows(&self) -> Vec<(Level, String)> {
        if self.slo.is_some() {
            let row = |point: &Point| (Level::of(point.level, &[point]), searched_verdict(point));
            return self.points.iter().map(row).collect();
        }
        let mut levels: Vec<u64> = self.points.iter().map(|point| point.level).collect();
        levels.sort_unstable();
        levels.dedup();
        let row = |level| {
            let runs: Vec<&Point> =
                self.points.iter().filter(|point| point.level == level).collect();
            let counted: Vec<&Point> =
                runs.iter().copied().filter(|run| run.outcome != Outcome::Invalid).collect();
            // What does not count is shown if there is nothing better.
            let shown = if counted.is_empty() { &runs } else { &counted };
            (Level::of(level, shown), verdict(&runs, &counted))
        };
        levels.into_iter().map(row).collect()
    }

    fn level(&self, level: u64) -> String {
        match self.plan.axis {
            Axis::Rate => format!("{}/s", format::count(level as f64)),
            Axis::Conns if level == 1 => "1 connection".to_owned(),
            Axis::Conns => format!("{level} connections"),
        }
    }

    fn bend(&self, knee: &Knee) -> String {
        let at = self.level(knee.level);
        let p99 = knee.p99_ns.map_or("unknown".to_owned(), |ns| format::duration(ns as u64));
        let next = self.levels().into_iter().find(|level| level.level > knee.level);
        let beyond = match (self.plan.axis, next) {
            (Axis::Conns, _) => "more of them only wait".to_owned(),
            (Axis::Rate, Some(next)) if next.overloaded => {
                format!("at {} the server is overloaded", self.level(next.level))
            }
            (Axis::Rate, next) => next.and_then(|next| Some((next.level, next.p99_ns?))).map_or(
                "above it nothing was measured".to_owned(),
                |(level, p99)| {
                    format!("at {} it is {}", self.level(level), format::duration(p99 as u64))
                },
            ),
        };
        match self.plan.axis {
            Axis::Rate => format!("the knee is at {at}: p99 of the response is {p99}; {beyond}"),
            Axis::Conns => format!(
                "the knee is at {at}: {}/s with p99 {p99}; {beyond}",
                format::count(knee.achieved_per_s)
            ),
        }
    }

    fn no_bend(&self) -> String {
        let levels = self.levels();
        match (levels.first(), levels.last()) {
            (None, _) | (_, None) => "no level counts, so there is no knee".to_owned(),
            (Some(first), _) if first.overloaded => {
                let lowest = self.level(first.level);
                format!("the knee is below {lowest}: the server is overloaded already")
            }
            (_, Some(last)) => {
                format!("no knee up to {}: measure higher levels", self.level(last.level))
            }
        }
    }

    fn searched(&self, slo: &SloResult) -> Vec<String> {
        let objectives = slo.objectives.join(" and ");
        let Some(rate) = slo.rate_per_s else {
            let lowest = self.points.iter().map(|point| point.level).min();
            let lowest = lowest.map_or("none".to_owned(), |level| self.level(level));
            return vec![match slo.bound {
                Bound::Unfinished => format!("no rate was found yet that holds {objectives}"),
                Bound::Generator => format!(
                    "no rate was found that holds {objectives}: at {lowest} already, the generator \
                     was the limit or was disturbed, not the server"
                ),
                Bound::Objectives | Bound::Highest => {
                    format!("no rate holds {objectives}: {lowest} does not")
                }
            }];
        };
        let rate_text = self.level(rate);
        let why = match (slo.bound, slo.missed_per_s) {
            (Bound::Objectives, Some(missed)) => format!("{} does not", self.level(missed)),
            (Bound::Generator, _) => {
                "the generator's limit, not the server's: above it the generator was the limit, or \
                 was disturbed"
                    .to_owned()
            }
            (Bound::Highest, _) => "it is the highest that was allowed".to_owned(),
            (Bound::Objectives, None) | (Bound::Unfinished, _) => {
                "the search did not come to its end".to_owned()
            }
        };
        let mut sentences = vec![format!("{rate_text} holds {objectives}; {why}")];
        let confirmed = self
            .points
            .iter()
            .rfind(|point| point.purpose == Purpose::Confirm && point.level == rate);
        if let Some(point) = confirmed {
            sentences.push(format!("measured again for {:.1} s: {}", point.duration_s, at(point)));
        }
        for point in self.points.iter().filter(|point| point.purpose == Purpose::Share) {
            let share = point.level as f64 / rate as f64 * 100.0;
            sentences.push(format!(
                "at {share:.0} % of it, {}: {}",
                self.level(point.level),
                at(point)
            ));
        }
        sentences
    }
}

fn line(sentence: &str) -> String {
    text::wrap(&text::printable(sentence), text::COLUMNS, INDENT)
}

/// `p50 88us, p99 310us, server CPU 9.1us an exchange`.
fn at(point: &Point) -> String {
    let level = Level::of(point.level, &[point]);
    let mut words = Vec::new();
    for (name, ns) in [("p50", level.p50_ns), ("p99", level.p99_ns), ("p99.9", level.p999_ns)] {
        words.extend(ns.map(|ns| format!("{name} {}", format::duration(ns as u64))));
    }
    if let Some(us) = level.server_cpu_us {
        let cpu = format::duration((us * 1e3) as u64);
        words.push(format!("server CPU {cpu} an exchange"));
    }
    match point.outcome {
        Outcome::Ok => {}
        Outcome::Overloaded => words.push("overloaded".to_owned()),
        Outcome::Invalid => words.push(invalid(point)),
    }
    words.join(", ")
}

/// `INVALID late`.
fn invalid(point: &Point) -> String {
    let why = point.reasons.first().map_or("", |reason| slug(reason));
    format!("INVALID {why}").trim_end().to_owned()
}

/// What the runs of a level come to.
fn verdict(runs: &[&Point], counted: &[&Point]) -> String {
    let left_out = runs.iter().find(|run| run.outcome == Outcome::Invalid);
    let left_out = left_out.map(|run| invalid(run));
    if counted.is_empty() {
        return left_out.unwrap_or_default();
    }
    let overloaded = counted.iter().filter(|run| run.outcome == Outcome::Overloaded).count();
    let mut verdict = match overloaded {
        0 => "ok".to_owned(),
        all if all == counted.len() => "overloaded".to_owned(),
        some => format!("overloaded {some} of {} times", counted.len()),
    };
    if let Some(left_out) = left_out {
        let count = runs.len() - counted.len();
        verdict += &format!(" ({count} of {} {left_out})", runs.len());
    }
    let errors: u64 = counted.iter().map(|run| run.errors_total).sum();
    if errors > 0 {
        verdict += &format!(", {errors} errors");
    }
    verdict
}

fn searched_verdict(point: &Point) -> String {
    let held = match (point.outcome, point.held) {
        (Outcome::Invalid, _) => return invalid(point),
        (Outcome::Overloaded, _) => "missed, overloaded",
        (Outcome::Ok, Some(true)) => "held",
        (Outcome::Ok, Some(false)) => "missed",
        (Outcome::Ok, None) => "ok",
    };
    let purpose = match point.purpose {
        Purpose::Confirm => " (measured again)",
        Purpose::Share => " (a part of it)",
        Purpose::Level | Purpose::Search => "",
    };
    format!("{held}{purpose}")
}
