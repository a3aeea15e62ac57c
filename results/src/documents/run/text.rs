//! A record as text, in at most 100 columns.

use std::fmt::Write as _;

use super::bars;
use crate::text::{COLUMNS, polling, wrap};
use crate::{Cost, Latency, Record, format};

/// Everything that a person wants to know about one run.
pub(super) fn text(record: &Record) -> String {
    let mut text = header(record);
    text += &throughput(record);
    text += &rate(record);
    text += &latencies(record);
    text += &explanation(record);
    text += &picture(record);
    text += &errors(record);
    text += &costs(record);
    text += &fairness(record);
    text += &floor(record);
    text += &verdict(record);
    text
}

fn header(record: &Record) -> String {
    let subject = &record.subject;
    let place = |cpus: &str| match cpus {
        "" => String::new(),
        cpus => format!(" on CPU {cpus}"),
    };
    let threads = plural(record.threads.into(), "thread", "threads");
    let load = record.rate.as_ref().map_or_else(
        || "closed loop".to_owned(),
        |rate| format!("open loop, {}/s {}", grouped(rate.planned_per_s as u64), rate.arrivals),
    );
    let spin =
        record.spin_ns.map_or_else(String::new, |ns| format!(" spinning {}", format::duration(ns)));
    let text = format!(
        "{load}, {}, requests of {} bytes ({}), {threads} ({}){}{spin}",
        plural(record.conns.into(), "connection", "connections"),
        grouped(record.size.into()),
        subject.service,
        record.engine,
        place(&record.client.cpus),
    );
    let mut text = wrap(&text, COLUMNS, 0) + "\n";
    let server_place =
        record.server.as_ref().map_or_else(String::new, |server| place(&server.cpus));
    let how = match record.placement.as_deref() {
        Some("apart") | None => String::new(),
        Some(how) => format!(", {how}"),
    };
    text += &match (&subject.backend, subject.shards, subject.backlog) {
        (Some(backend), Some(shards), Some(backlog)) => format!(
            "server {backend} at {}, {}, backlog {backlog}{}{server_place}{how}\n",
            subject.addr,
            plural(shards.into(), "shard", "shards"),
            polling(subject.spin_ns),
        ),
        _ => format!("server {}{server_place}{how}\n", subject.addr),
    };
    text
}

fn throughput(record: &Record) -> String {
    let rate = grouped(record.throughput_per_s.round() as u64);
    let exchanges = plural(record.exchanges, "exchange", "exchanges");
    let interrupted = if record.interrupted { ", interrupted" } else { "" };
    let until = match record.warmup_end.as_deref() {
        Some("steady") => ", until it was steady",
        Some(_) => ", and not steady yet",
        None => "",
    };
    let invalid = if record.valid { "" } else { "\nINVALID        the last lines say why\n" };
    format!(
        "{invalid}\n{rate} exchanges/s   ({exchanges} in {:.2} s after {:.2} s of warm-up{until}{interrupted})\n",
        record.duration_s, record.warmup_s,
    )
}

fn rate(record: &Record) -> String {
    let Some(rate) = &record.rate else { return String::new() };
    let unsent = match rate.unsent {
        0 => String::new(),
        unsent => format!(", {} never", grouped(unsent)),
    };
    let text = format!(
        "{} requests/s sent of {} planned   ({} in all{unsent})",
        grouped(rate.achieved_per_s.round() as u64),
        grouped(rate.planned_per_s as u64),
        plural(rate.planned, "request", "requests"),
    );
    wrap(&text, COLUMNS, 0) + "\n"
}

/// What the three distributions of an open loop are.
fn explanation(record: &Record) -> String {
    let Some(rate) = &record.rate else { return String::new() };
    let mut text = "\nresponse       planned instant to whole reply: what a user waits\n\
                    service        send to whole reply: what the server takes\n\
                    lateness       planned instant to send: "
        .to_owned();
    let waited = match rate.waited {
        0 => "every request found an idle connection".to_owned(),
        waited => format!(
            "{} of {} requests waited for an idle connection",
            grouped(waited),
            grouped(rate.planned)
        ),
    };
    text += &waited;
    if let Some(own_ns) = rate.own_lateness_p99_ns {
        let _ = write!(text, ";\n               the generator's own part has p99 {}", {
            format::duration(own_ns)
        });
    }
    text + "\n"
}

fn latencies(record: &Record) -> String {
    let latency = &record.latency;
    let rows = [
        ("connect", &latency.connect),
        ("first exchange", &latency.first_exchange),
        ("exchange", &latency.exchange),
        ("response", &latency.response),
        ("service", &latency.service),
        ("lateness", &latency.lateness),
    ];
    let mut text = format!(
        "\n{:<14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>13}\n",
        "latency", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max", "count"
    );
    for (name, latency) in rows {
        let Some(latency) = latency else { continue };
        let _ = write!(text, "{name:<14}");
        for (quantile, ns) in [
            (0.0, latency.min_ns),
            (0.5, latency.p50_ns),
            (0.9, latency.p90_ns),
            (0.99, latency.p99_ns),
            (0.999, latency.p999_ns),
            (0.9999, latency.p9999_ns),
            (0.0, latency.max_ns),
        ] {
            // With no sample beyond it, a percentile would be the maximum under another name.
            let beyond = (latency.count as f64 * (1.0 - quantile)).round();
            let cell = if beyond < 1.0 { "-".to_owned() } else { format::duration(ns) };
            let _ = write!(text, " {cell:>8}");
        }
        let _ = writeln!(text, " {:>13}", grouped(latency.count));
    }
    text
}

fn picture(record: &Record) -> String {
    let latency = record.latency.main();
    let histogram = latency.map(Latency::histogram);
    let Some(Ok(histogram)) = histogram else { return String::new() };
    let mut text = "\n".to_owned();
    for line in bars::bars(&histogram) {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn errors(record: &Record) -> String {
    let unserved = match record.unserved {
        0 => String::new(),
        unserved => format!(
            "unserved       {} never got a reply\n",
            plural(unserved, "connection", "connections")
        ),
    };
    if record.errors.is_empty() {
        return format!("\nerrors         none\n{unserved}");
    }
    let mut text = format!("\nerrors         {}\n", grouped(record.errors_total));
    for error in &record.errors {
        let errno = error.errno.as_deref().unwrap_or("-");
        let (kind, count) = (&error.kind, grouped(error.count));
        let _ = writeln!(text, "  {kind:<12} {errno:<14} {count:>9}   {}", error.first);
    }
    text + &unserved
}

fn costs(record: &Record) -> String {
    if record.exchanges == 0 {
        return "\n".to_owned();
    }
    let mut text = format!(
        "\n{:<14} {:>8} {:>8} {:>8} {:>10} {:>10} {:>6}   {}\n",
        "per exchange", "CPU us", "user", "system", "switches", "syscalls", "busy", "CPUs"
    );
    text += &cost("generator", &record.client);
    match &record.server {
        Some(server) => text += &cost("server", server),
        None => text += "server         cannot be read from here\n",
    }
    text
}

fn cost(name: &str, cost: &Cost) -> String {
    let known = |value: Option<f64>, digits| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    format!(
        "{name:<14} {:>8.2} {:>8.2} {:>8.2} {:>10} {:>10} {:>4.0} %   {}\n",
        cost.cpu_us_per_exchange,
        cost.user_us_per_exchange,
        cost.system_us_per_exchange,
        known(cost.context_switches_per_exchange, 4),
        known(cost.syscalls_per_exchange, 3),
        cost.busy * 100.0,
        cost.cpus,
    )
}

fn fairness(record: &Record) -> String {
    record.fairness.as_ref().map_or_else(String::new, |fairness| {
        format!(
            "\nfairness       {} to {} exchanges a connection, Jain's index {:.4}\n",
            grouped(fairness.min),
            grouped(fairness.max),
            fairness.jain,
        )
    })
}

fn floor(record: &Record) -> String {
    record.against_floor().map_or_else(String::new, |sentence| {
        wrap(&format!("floor          {sentence}"), COLUMNS, 15) + "\n"
    })
}

fn verdict(record: &Record) -> String {
    let limit = match record.limit.as_str() {
        "server" => "the server's processors were full",
        "client" => "the generator's processors were full, the server's were not",
        "both" => "the processors of both sides were full",
        "neither" => "neither side's processors were full",
        _ => "unknown: how busy the server was cannot be told from here",
    };
    let mut text = format!("limit          {limit}\n");
    for threshold in &record.thresholds {
        let verdict = if threshold.held { "held  " } else { "MISSED" };
        let value = threshold.shown().unwrap_or_else(|| "not measured".to_owned());
        let _ = writeln!(text, "threshold      {verdict}   {}   {value}", threshold.expression);
    }
    let reasons = record.invalid_reasons.iter().map(|reason| ("INVALID", reason));
    let warnings = record.warnings.iter().map(|warning| ("warning", warning));
    for (name, sentence) in reasons.chain(warnings) {
        let _ = writeln!(text, "{}", wrap(&format!("{name:<14} {sentence}"), COLUMNS, 15));
    }
    text
}

/// A count with the noun that fits it.
fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// A count with a comma after every three digits.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        for (count, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (12_345, "12,345"), (1 << 20, "1,048,576")]
        {
            assert_eq!(grouped(count), text);
        }
        assert_eq!(plural(1, "shard", "shards"), "1 shard");
        assert_eq!(plural(2000, "shard", "shards"), "2,000 shards");
    }
}
