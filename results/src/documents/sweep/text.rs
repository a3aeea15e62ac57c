//! Text of a sweep; its tables are also Markdown.

use super::{Axis, Bound, Knee, Level, Outcome, Point, Purpose, SloResult, Sweep, slug};
use crate::format;
use crate::text::{line, plural, polling, shorten, table};

/// Longest name of a server in a table, in characters.
const NAME: usize = 12;

/// Fewest connections whose memory is shown: below, it is a few pages that a server takes anyway.
const MEMORY_CONNS_MIN: u32 = 1000;

/// Columns of the table of opened and idle connections.
pub(super) const CONNECTIONS: [&str; 7] =
    ["server", "conns", "processes", "opened/s", "CPU each", "memory", "kernel"];

/// Plan, curve as a table and as a picture, and findings.
pub(super) fn text(sweep: &Sweep) -> String {
    let sentences: Vec<String> = sweep.sentences().iter().map(|text| line(text)).collect();
    let mut blocks = vec![line(&sweep.heading()), sweep.grid()];
    blocks.extend(sweep.connections());
    blocks.push(sweep.picture().join("\n"));
    blocks.push(sentences.join("\n"));
    blocks.retain(|block| !block.is_empty());
    blocks.join("\n\n") + "\n"
}

impl Sweep {
    /// Findings: the knee or the rate that was searched for, and the runs that do not count. One
    /// sentence each.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        match (&self.slo, &self.knee) {
            (Some(slo), _) => sentences.extend(self.searched(slo)),
            (None, Some(knee)) => sentences.push(self.bend(knee)),
            (None, None) if self.servers().len() > 1 => {}
            (None, None) => sentences.extend(self.knee_or_reason().err()),
        }
        // One reason for each server and level is enough.
        for runs in self.by_level(|point| point.outcome == Outcome::Invalid) {
            let reason = runs[0].reasons.first().map_or("no reason is given", String::as_str);
            sentences.push(format!("INVALID {}: {reason}", self.place(runs[0])));
        }
        sentences.extend(self.warnings());
        for omission in &self.omitted {
            let level = self.level(omission.level);
            let (subject, reason) = (&omission.subject, &omission.reason);
            sentences.push(format!("left out: {subject} at {level}: {reason}"));
        }
        if self.interrupted {
            sentences.push("ended early: there should be more runs".to_owned());
        }
        sentences
    }

    /// Plan.
    pub(super) fn heading(&self) -> String {
        let plan = &self.plan;
        let size = plural(plan.size.into(), "byte");
        let load = match plan.conns {
            Some(conns) => crate::text::load(conns, plan.size),
            None => size,
        };
        let pace = match (&plan.arrivals, plan.rate_per_s) {
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
        let seed = plan.header.seed.map_or_else(String::new, |seed| format!(", seed {seed}"));
        format!(
            "{}{}{place}, {load} ({}), {pace}; {} s a level after {} s of warm-up, {order}{rounds}\
             {seed}",
            plan.subject,
            polling(plan.server_spin_ns),
            plan.service,
            plan.duration_s,
            plan.warmup_s
        )
    }

    fn grid(&self) -> String {
        let several = self.servers().len() > 1;
        let level = match self.plan.axis {
            Axis::Rate => "offered/s",
            Axis::Conns => "conns",
        };
        let mut head = Vec::new();
        head.extend(several.then_some("server"));
        head.extend([level, "achieved/s", "p50", "p99", "p99.9", "CPU", "verdict"]);
        let row = |(level, verdict): (Level, String)| {
            let duration = |ns: Option<f64>| {
                ns.map_or_else(|| "-".to_owned(), |ns| format::duration(ns.round() as u64))
            };
            let mut row = Vec::new();
            row.extend(several.then(|| server(level.subject.as_deref())));
            row.extend([
                match self.plan.axis {
                    Axis::Rate => format::count(level.level),
                    Axis::Conns => level.level.to_string(),
                },
                format::count(level.achieved_per_s),
                duration(level.p50_ns),
                duration(level.p99_ns),
                duration(level.p999_ns),
                duration(level.server_cpu_us.map(|us| us * 1e3)),
                match several && verdict.starts_with("INVALID") {
                    true => "INVALID".to_owned(),
                    false => crate::text::printable(&verdict),
                },
            ]);
            row
        };
        let rows: Vec<Vec<String>> = self.rows().into_iter().map(row).collect();
        let unknown = rows.iter().flatten().any(|cell| cell == "-");
        let absent = if unknown { ". -: not measured, or too few values" } else { "" };
        let table = table(usize::from(several), &head, rows);
        format!("{table}\nCPU: of the server, for an exchange{absent}")
    }

    /// Table of [`connection_costs`](Self::connection_costs), if there are any.
    fn connections(&self) -> Option<String> {
        let mut rows = self.connection_costs();
        for row in &mut rows {
            row[0] = server(Some(&row[0]));
        }
        let legend = line(&self.connection_legend());
        (!rows.is_empty()).then(|| format!("{}\n{legend}", table(1, &CONNECTIONS, rows)))
    }

    /// Cost of opening the connections and of keeping them idle, for each run that measured it.
    pub(super) fn connection_costs(&self) -> Vec<Vec<String>> {
        let row = |point: &Point| {
            let opening = point.opening.as_ref()?;
            let idle = point.idle_memory.filter(|_| point.conns >= MEMORY_CONNS_MIN);
            let memory = |bytes: Option<i64>| {
                bytes.map_or("-".to_owned(), |bytes| bytes_each(bytes, point.conns))
            };
            Some(vec![
                point.subject.clone().unwrap_or_else(|| self.plan.subject.clone()),
                point.conns.to_string(),
                point.server_processes.unwrap_or(1).to_string(),
                format::count(opening.opened_per_s.round()),
                format::duration((opening.open_cpu_us_per_connection * 1e3) as u64),
                memory(idle.map(|idle| idle.server_memory_bytes as i64)),
                memory(idle.map(|idle| idle.kernel_memory_bytes)),
            ])
        };
        self.by_level(|_| true).into_iter().flatten().filter_map(row).collect()
    }

    /// Meaning of the columns of [`CONNECTIONS`], and of `-` where it occurs.
    pub(super) fn connection_legend(&self) -> String {
        let opened = || self.points.iter().filter(|point| point.opening.is_some());
        let few = opened().any(|point| point.conns < MEMORY_CONNS_MIN);
        let unread =
            opened().any(|point| point.conns >= MEMORY_CONNS_MIN && point.idle_memory.is_none());
        let least = plural(MEMORY_CONNS_MIN.into(), "connection");
        let absent = match (few, unread) {
            (false, false) => String::new(),
            (false, true) => ". -: not measured".to_owned(),
            (true, false) => format!(". -: not shown below {least}"),
            (true, true) => format!(". -: not measured, or below {least}"),
        };
        format!(
            "CPU each: server CPU time to open a connection and serve its first exchange. memory, \
             kernel: bytes for each idle connection, of the server and of the kernel (both ends, \
             and everything else on the machine){absent}"
        )
    }

    /// A row for each server and level, with the medians of its runs; of a search, for each run in
    /// its order.
    fn rows(&self) -> Vec<(Level, String)> {
        if self.slo.is_some() {
            let row = |point: &Point| (Level::of(&[point]), searched_verdict(point));
            return self.points.iter().map(row).collect();
        }
        let row = |runs: Vec<&Point>| {
            let counted: Vec<&Point> =
                runs.iter().copied().filter(|run| run.outcome != Outcome::Invalid).collect();
            // Runs that do not count are shown if there is nothing better.
            let shown = if counted.is_empty() { &runs } else { &counted };
            (Level::of(shown), verdict(&runs, &counted))
        };
        self.by_level(|_| true).into_iter().map(row).collect()
    }

    /// Warnings of the runs, one sentence for each kind.
    fn warnings(&self) -> Vec<String> {
        let mut kinds: Vec<(&str, Vec<&Point>)> = Vec::new();
        for point in &self.points {
            for warning in &point.warnings {
                match kinds.iter_mut().find(|(kind, _)| slug(kind) == slug(warning)) {
                    Some((_, points)) => points.push(point),
                    None => kinds.push((warning, vec![point])),
                }
            }
        }
        let sentence = |(warning, points): (&str, Vec<&Point>)| match points.len() - 1 {
            0 => format!("warning {}: {warning}", self.place(points[0])),
            more => {
                let runs = plural(more as u64, "run");
                format!("warning {} and in {runs} more: {warning}", self.place(points[0]))
            }
        };
        kinds.into_iter().map(sentence).collect()
    }

    /// `mio at 40.00k/s`; without the server in a sweep of one.
    fn place(&self, point: &Point) -> String {
        let level = self.level(point.level);
        match &point.subject {
            Some(subject) if self.servers().len() > 1 => format!("{subject} at {level}"),
            _ => format!("at {level}"),
        }
    }

    pub(super) fn level(&self, level: f64) -> String {
        match self.plan.axis {
            Axis::Rate => format!("{}/s", format::count(level)),
            Axis::Conns => plural(level as u64, "connection"),
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

    fn searched(&self, slo: &SloResult) -> Vec<String> {
        let objectives = slo.objectives.join(" and ");
        let Some(rate) = slo.rate_per_s else {
            let lowest = self.points.iter().map(|point| point.level).reduce(f64::min);
            let lowest = lowest.map_or("none".to_owned(), |level| self.level(level));
            return vec![match slo.bound {
                Bound::Unfinished => format!("no rate was found yet that holds {objectives}"),
                Bound::Generator => format!(
                    "no rate was found that holds {objectives}: at {lowest} already, the generator \
                     was the limit or was disturbed, not the server"
                ),
                Bound::Undecided => format!(
                    "no rate was found that holds {objectives}: at {lowest} already, the samples \
                     are too few to tell"
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
            (Bound::Undecided, _) => "above it, the samples are too few to tell".to_owned(),
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
            let share = point.level / rate * 100.0;
            sentences.push(format!(
                "at {share:.0} % of it, {}: {}",
                self.level(point.level),
                at(point)
            ));
        }
        sentences
    }
}

fn server(name: Option<&str>) -> String {
    shorten(&crate::text::printable(name.unwrap_or("-")), NAME)
}

/// Memory of each connection in bytes, or from ten thousand on in KiB.
fn bytes_each(bytes: i64, conns: u32) -> String {
    match bytes / i64::from(conns.max(1)) {
        each @ 10_000.. => format!("{}KiB", each / 1024),
        each => format!("{each}B"),
    }
}

/// `p50 88us, p99 310us, server CPU 9.1us an exchange`.
fn at(point: &Point) -> String {
    let level = Level::of(&[point]);
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

/// Verdict on the runs of a level.
fn verdict(runs: &[&Point], counted: &[&Point]) -> String {
    if counted.is_empty() {
        return runs.first().map_or_else(String::new, |run| invalid(run));
    }
    let overloaded = counted.iter().filter(|run| run.outcome == Outcome::Overloaded).count();
    let mut verdict = match overloaded {
        0 => "ok".to_owned(),
        all if all == counted.len() => "overloaded".to_owned(),
        some => format!("overloaded {some} of {} times", counted.len()),
    };
    // The reasons stand below the table.
    match runs.len() - counted.len() {
        0 => {}
        left_out => verdict += &format!(" ({left_out} of {} INVALID)", runs.len()),
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
        (Outcome::Overloaded, _) => "overloaded",
        (Outcome::Ok, Some(true)) => "held",
        (Outcome::Ok, Some(false)) => "missed",
        (Outcome::Ok, None) => "ok",
    };
    let purpose = match point.purpose {
        Purpose::Confirm => ", again",
        Purpose::Share => ", a share",
        Purpose::Level | Purpose::Search => "",
    };
    format!("{held}{purpose}")
}
