//! Text of one run.

pub(super) mod ranks;

use std::collections::BTreeSet;

use super::bars::bars;
use super::rank::clocks;
use crate::text::{COLUMNS, grouped, line, plural, polling, printable, wrap};
use crate::{Cost, Latency, Quota, Record, ServerProcess, Statistic, format};

/// Most columns of a table of statistics that were asked for.
const ASKED_MAX: usize = 8;

/// Number of processes that are named.
const PROCESSES: usize = 4;

pub(super) fn text(record: &Record) -> String {
    let mut text = header(record);
    text += &throughput(record);
    let rows = [
        ("connect", &record.latency.connect),
        ("first exchange", &record.latency.first_exchange),
        ("exchange", &record.latency.exchange),
        ("response", &record.latency.response),
        ("service", &record.latency.service),
        ("lateness", &record.latency.lateness),
    ];
    text += &latencies(&rows);
    text += &asked(&rows);
    text += &explanation(record);
    text += &histogram(record);
    text += &errors(record);
    text += &costs(record);
    text += &ranks::text(record);
    text += &verdict(record);
    text
}

/// A line that begins with a name in a column of its own.
fn named(name: &str, sentence: &str) -> String {
    wrap(&printable(&format!("{name:<14} {sentence}")), COLUMNS, 15) + "\n"
}

fn header(record: &Record) -> String {
    let subject = &record.subject;
    let place = |cpus: &str| match cpus {
        "" => String::new(),
        cpus => format!(" on CPU {cpus}"),
    };
    let threads = plural(record.threads.into(), "thread");
    let load = record.rate.as_ref().map_or_else(
        || "closed loop".to_owned(),
        |rate| format!("open loop, {}/s {}", crate::text::rate(rate.planned_per_s), rate.arrivals),
    );
    let spin =
        record.spin_ns.map_or_else(String::new, |ns| format!(" spinning {}", format::duration(ns)));
    let client = format!(
        "{load}, {} ({}), {threads} ({}){}{spin}",
        crate::text::load(record.conns, record.size),
        subject.service,
        record.engine,
        place(&record.client.cpus),
    );
    let server_place =
        record.server.as_ref().map_or_else(String::new, |server| place(&server.cpus));
    let how = match record.placement.as_deref() {
        Some("apart") | None => String::new(),
        Some(how) => format!(", {how}"),
    };
    let server = match (&subject.backend, subject.shards, subject.backlog) {
        (Some(backend), Some(shards), Some(backlog)) => format!(
            "server {backend} at {}, {}, backlog {backlog}{}{server_place}{how}",
            subject.addr,
            plural(shards.into(), "shard"),
            polling(subject.spin_ns),
        ),
        _ => format!("server {}{server_place}{how}", subject.addr),
    };
    let via = subject.via.as_ref().map_or_else(String::new, |via| format!(", through '{via}'"));
    let server = server + &via;
    let rank = record.rank.as_ref().map(|rank| {
        let punctuality = rank.punctuality().map(|it| format!(", {it}")).unwrap_or_default();
        line(&format!("{} of run {}{punctuality}", rank.place(), rank.run_id)) + "\n"
    });
    line(&client) + "\n" + &line(&server) + "\n" + &rank.unwrap_or_default()
}

fn throughput(record: &Record) -> String {
    let mut text = String::new();
    if !record.valid {
        text += "\nINVALID        the last lines say why\n";
    }
    let until = match record.warmup_end.as_deref() {
        Some("steady") => ", until it was steady",
        Some(_) => ", and not steady yet",
        None => "",
    };
    let sentence = format!(
        "{} exchanges/s   ({} in {:.2} s after {:.2} s of warm-up{until}{})",
        crate::text::rate(record.throughput_per_s),
        plural(record.exchanges, "exchange"),
        record.duration_s,
        record.warmup_s,
        if record.interrupted { ", interrupted" } else { "" },
    );
    text += &format!("\n{}\n", line(&sentence));
    if let Some(rate) = &record.rate {
        let unsent = match rate.unsent {
            0 => String::new(),
            unsent => format!(", {} never", grouped(unsent)),
        };
        let sentence = format!(
            "{} requests/s sent of {} planned   ({} in all{unsent})",
            crate::text::rate(rate.achieved_per_s),
            crate::text::rate(rate.planned_per_s),
            plural(rate.planned, "request"),
        );
        text += &(line(&sentence) + "\n");
    }
    text
}

/// A table of distributions, those that are there.
pub(crate) fn latencies(rows: &[(&str, &Option<Latency>)]) -> String {
    let statistics = ["min", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let statistics = statistics.map(|name| name.parse().expect("a statistic"));
    let mut lines = grid(rows, &statistics);
    lines[0] += &format!(" {:>9}", "count");
    let distributions = rows.iter().filter_map(|(_, latency)| latency.as_ref());
    for (line, latency) in lines[1..].iter_mut().zip(distributions) {
        let count = match latency.count {
            ..10_000_000 => grouped(latency.count),
            count => format::count(count as f64),
        };
        *line += &format!(" {count:>9}");
    }
    block(&lines)
}

/// Tables of the statistics that were asked for.
fn asked(rows: &[(&str, &Option<Latency>)]) -> String {
    let keys =
        rows.iter().filter_map(|(_, latency)| latency.as_ref()).flat_map(|it| it.asked.keys());
    let statistics: BTreeSet<Statistic> = keys.filter_map(|key| Statistic::of_key(key)).collect();
    let statistics: Vec<Statistic> = statistics.into_iter().collect();
    statistics.chunks(ASKED_MAX).map(|columns| block(&grid(rows, columns))).collect()
}

/// A line of names and one for each distribution that is there. A percentile with no sample beyond
/// it is `-`: it would be the maximum under another name.
fn grid(rows: &[(&str, &Option<Latency>)], statistics: &[Statistic]) -> Vec<String> {
    let head = statistics.iter().fold(format!("{:<14}", "latency"), |line, statistic| {
        line + &format!(" {:>7}", statistic.to_string())
    });
    let row = |&(name, latency): &(&str, &Option<Latency>)| {
        let latency = latency.as_ref()?;
        let line = format!("{name:<14}");
        Some(statistics.iter().fold(line, |line, &statistic| {
            let value = latency.value(statistic).filter(|_| latency.is_beyond(statistic));
            let shown = |ns| latency.shown(statistic.share(), ns);
            let cell = value.map_or_else(|| "-".to_owned(), shown);
            line + &format!(" {cell:>7}")
        }))
    };
    std::iter::once(head).chain(rows.iter().filter_map(row)).collect()
}

/// A table's lines, and the meaning of `-`.
fn block(lines: &[String]) -> String {
    let text = format!("\n{}\n", lines.join("\n"));
    let absent = text.contains(" - ") || text.contains(" -\n");
    let marks = [
        (absent, "-: too few values for this percentile\n"),
        (text.contains('>'), ">: at least; requests without a reply may have taken longer\n"),
    ];
    text + &marks.into_iter().filter(|(shown, _)| *shown).map(|(_, mark)| mark).collect::<String>()
}

/// Meaning of the three distributions of an open loop.
fn explanation(record: &Record) -> String {
    let Some(rate) = &record.rate else { return String::new() };
    let waited = match rate.waited {
        0 => "every request found an idle connection".to_owned(),
        waited => format!(
            "{} of {} requests waited for an idle connection",
            grouped(waited),
            grouped(rate.planned)
        ),
    };
    let own = rate.own_lateness_p99_ns.map_or_else(String::new, |ns| {
        format!("; the generator's own part has p99 {}", format::duration(ns))
    });
    "\n".to_owned()
        + &named("response", "planned instant to whole reply: what a user waits")
        + &named("service", "send to whole reply: what the server takes")
        + &named("lateness", &format!("planned instant to send: {waited}{own}"))
}

fn histogram(record: &Record) -> String {
    let Some(Ok(histogram)) = record.latency.main().map(Latency::histogram) else {
        return String::new();
    };
    bars(&histogram).iter().fold("\n".to_owned(), |text, bar| text + bar + "\n")
}

fn errors(record: &Record) -> String {
    let mut text = match record.errors_total {
        0 => "\nerrors         none\n".to_owned(),
        total => format!("\nerrors         {}\n", grouped(total)),
    };
    for error in &record.errors {
        let errno = error.errno.as_deref().unwrap_or("-");
        let (kind, count) = (&error.kind, grouped(error.count));
        let sentence = format!("  {kind:<12} {errno:<14} {count:>9}   {}", error.first);
        text += &(wrap(&printable(&sentence), COLUMNS, 15) + "\n");
    }
    if let Some(sent) = &record.sent {
        let phases = [
            (sent.first_exchanges, "first exchanges"),
            (sent.warmup, "in the warm-up"),
            (sent.window, "in the window"),
            (sent.after, "after it"),
        ];
        let phases = phases.into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> =
            phases.map(|(count, when)| format!("{} {when}", grouped(count))).collect();
        let total = plural(sent.total, "request");
        let sentence = match parts.as_slice() {
            [] => total,
            parts => format!("{total} in all: {}", parts.join(", ")),
        };
        text += &named("sent", &sentence);
    }
    if let Some(outstanding) = record.outstanding {
        let requests = plural(outstanding, "request");
        text += &named("outstanding", &format!("{requests} without a reply when the run ended"));
    }
    if record.unserved > 0 {
        let unserved = plural(record.unserved, "connection");
        text += &named("unserved", &format!("{unserved} never got a reply"));
    }
    text
}

fn costs(record: &Record) -> String {
    if record.exchanges == 0 {
        return "\n".to_owned();
    }
    let mut text = format!(
        "\n{:<14} {:>8} {:>8} {:>8} {:>10} {:>10}\n",
        "per exchange", "CPU us", "user", "system", "switches", "syscalls"
    );
    text += &cost("generator", &record.client);
    match &record.server {
        Some(server) => text += &cost("server", server),
        None => text += "server         cannot be read from here\n",
    }
    if text.contains(" -") {
        text += "-: not measured\n";
    }
    text + "\n"
}

fn cost(name: &str, cost: &Cost) -> String {
    let known = |value: Option<f64>, digits| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    format!(
        "{name:<14} {:>8.2} {:>8} {:>8} {:>10} {:>10}\n",
        cost.cpu_us_per_exchange,
        known(cost.user_us_per_exchange, 2),
        known(cost.system_us_per_exchange, 2),
        known(cost.context_switches_per_exchange, 4),
        known(cost.syscalls_per_exchange, 3),
    )
}

/// Facts about the whole run, and all doubts.
fn verdict(record: &Record) -> String {
    let mut text = String::new();
    if record.exchanges > 0 {
        let side = |name: &str, cost: &Cost| {
            let busy = cost.busy? * 100.0;
            Some(format!("{name} {busy:.0} % of CPU {}{}", cost.cpus, quota(cost)))
        };
        let sides = [side("generator", &record.client), {
            record.server.as_ref().and_then(|server| side("server", server))
        }];
        text += &named("busy", &sides.into_iter().flatten().collect::<Vec<_>>().join(", "));
    }
    text += &processes(&record.server_processes);
    text += &record.server.as_ref().map_or_else(String::new, source);
    let used_up =
        |cost: Option<&Cost>| cost.and_then(|cost| cost.quota.clone()).filter(Quota::is_used_up);
    let quotas = (used_up(Some(&record.client)), used_up(record.server.as_ref()));
    let limit = match (record.limit.as_str(), quotas) {
        ("server", (_, Some(quota))) => format!("the server had used up its {}", quota.words()),
        ("client", (Some(quota), _)) => format!("the generator had used up its {}", quota.words()),
        ("both", (Some(quota), _)) if quota.shared => {
            format!("both sides together had used up their {}", quota.words())
        }
        ("both", (Some(client), Some(server))) => format!(
            "the generator had used up its {}, the server its {}",
            client.words(),
            server.words()
        ),
        (limit, _) => full(limit, record).to_owned(),
    };
    text += &named("limit", &limit);
    text += &record.rank.as_ref().map_or_else(String::new, |rank| named("clock", &clocks([rank])));
    if let Some(fairness) = &record.fairness {
        let (min, max) = (grouped(fairness.min), grouped(fairness.max));
        let jain = fairness.jain;
        let sentence = format!("{min} to {max} exchanges a connection, Jain's index {jain:.4}");
        text += &named("fairness", &sentence);
    }
    text += &record.against_floor().map_or_else(String::new, |floor| named("floor", &floor));
    for threshold in &record.thresholds {
        let verdict = match threshold.held {
            true => "held  ",
            false if threshold.missed() => "MISSED",
            false => "UNDECIDED",
        };
        let value = threshold.shown().unwrap_or_else(|| "not measured".to_owned());
        text += &named("threshold", &format!("{verdict}   {}   {value}", threshold.expression));
    }
    let reasons = record.invalid_reasons.iter().map(|reason| ("INVALID", reason));
    let warnings = record.warnings.iter().map(|warning| ("warning", warning));
    text + &reasons.chain(warnings).map(|(name, text)| named(name, text)).collect::<String>()
}

/// `server CPU     nginx (pid 12), nginx (pid 13) and 6 more`.
fn processes(processes: &[ServerProcess]) -> String {
    if processes.is_empty() {
        return String::new();
    }
    let shown = processes.iter().take(PROCESSES);
    let shown: Vec<_> =
        shown.map(|process| format!("{} (pid {})", process.name, process.pid)).collect();
    let more = match processes.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    named("server CPU", &format!("of {}{more}", shown.join(", ")))
}

/// `server CPU     from http://10.0.0.2:9100/metrics, for an exchange that it counted`.
fn source(server: &Cost) -> String {
    let Some(source) = &server.source else { return String::new() };
    let divisor = match server.counted_by.as_deref() {
        Some("generator") => "the generator",
        _ => "the server",
    };
    named("server CPU", &format!("from {source}; exchanges as {divisor} counted them"))
}

/// ` (CPU quota of 0.5, throttled 48 % of the time)`.
fn quota(cost: &Cost) -> String {
    let Some(quota) = &cost.quota else { return String::new() };
    let throttled = match quota.throttled * 100.0 {
        0.0 => String::new(),
        percent @ ..1.0 => format!(", throttled {percent:.1} % of the time"),
        percent => format!(", throttled {percent:.0} % of the time"),
    };
    format!(" ({}{throttled})", quota.words())
}

/// Meaning of [`Record::limit`] where it is not a quota.
fn full(limit: &str, record: &Record) -> &'static str {
    match limit {
        "server" => "the server's CPUs were full",
        "client" if record.merge.is_some() => "the CPUs or the quota of a rank's generator",
        "client" => "the generator's CPUs were full, the server's were not",
        "both" => "the CPUs of both sides were full",
        "neither" => "the CPUs of neither side were full",
        _ if record.server.is_some() && record.subject.spin_ns.is_some_and(|ns| ns > 0) => {
            "unknown: the server polls, so it is busy even without load"
        }
        _ if record.exchanges == 0 => "unknown: no exchange was measured",
        _ if record.server.as_ref().is_some_and(|server| server.busy.is_none()) => {
            "unknown: the server does not publish its CPUs"
        }
        _ => "unknown: the server's CPU time cannot be read from here",
    }
}
