//! Ranks of a run: of one, its place; of a merged record, what they have in common, and a row for
//! each.

use std::collections::BTreeSet;
use std::iter::once;
use std::time::{Duration, UNIX_EPOCH};

use super::named;
use crate::documents::run::notes::ranges;
use crate::documents::run::rank::{Merge, RankRow, clocks};
use crate::text::{grouped, plural, printable, shorten};
use crate::{Record, format};

/// Number of ranks that have a row.
const ROWS: usize = 128;

/// Width of a host.
const HOST: usize = 8;

/// Heads of the columns.
pub(in crate::documents::run) const HEAD: [&str; 10] =
    ["rank", "host", "conns", "exch./s", "p50", "p99", "errors", "CPU", "start", ""];

/// Empty for a run of one process.
pub(super) fn text(record: &Record) -> String {
    let Some(merge) = &record.merge else { return String::new() };
    let head = HEAD.map(str::to_owned);
    let rows = once(head).chain(record.ranks.iter().take(ROWS).map(cells));
    let mut text: String = rows.map(line).collect();
    if let more @ 1.. = record.ranks.len().saturating_sub(ROWS) {
        text += &format!("and {} in the record\n", plural(more as u64, "more rank"));
    }
    text += "CPU: of the rank, for an exchange; start: after the agreed instant\n\n";
    text + &facts(record, merge)
        .iter()
        .map(|(name, sentence)| named(name, sentence))
        .collect::<String>()
}

fn line(cells: [String; 10]) -> String {
    let [rank, host, conns, rate, p50, p99, errors, cpu, start, doubt] = cells;
    // Only numbers of a damaged file are wider.
    let fit = |cell: String, width: usize| if cell.len() > width { "?".to_owned() } else { cell };
    let [rate, p50, p99, cpu] = [rate, p50, p99, cpu].map(|cell| fit(cell, 7));
    let start = fit(start, 8);
    let line = format!(
        "{rank:<6} {host:<HOST$} {conns:>6} {rate:>7} {p50:>7} {p99:>7} {errors:>6} {cpu:>7} \
         {start:>8} {doubt}"
    );
    line.trim_end().to_owned() + "\n"
}

/// Row of a rank.
pub(in crate::documents::run) fn cells(row: &RankRow) -> [String; 10] {
    let time = |ns: Option<u64>| ns.map_or("-".to_owned(), format::duration);
    let cpu_ns = row.client_cpu_us_per_exchange.map(|us| (us * 1e3).round() as u64);
    let host = row.host.as_deref().unwrap_or("-");
    [
        row.rank.index.to_string(),
        shorten(&printable(host), HOST),
        format::count(row.conns.into()),
        format::count(row.throughput_per_s),
        time(row.p50_ns),
        time(row.p99_ns),
        format::count(row.errors_total as f64),
        time(cpu_ns),
        row.late_us().map_or("-".to_owned(), late),
        if row.valid { "" } else { "INVALID" }.to_owned(),
    ]
}

/// `+120us`, `-3.00ms`.
fn late(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "+" };
    sign.to_owned() + &duration(us.unsigned_abs())
}

fn duration(us: u64) -> String {
    format::duration(us.saturating_mul(1000))
}

/// What the ranks have in common, each with a name.
pub(in crate::documents::run) fn facts(
    record: &Record,
    merge: &Merge,
) -> Vec<(&'static str, String)> {
    let hosts: BTreeSet<Option<&str>> = record.ranks.iter().map(RankRow::machine).collect();
    let missing = match &merge.missing[..] {
        [] => String::new(),
        missing => format!("; without a record: {}", ranges(missing)),
    };
    let ranks = format!(
        "{} of {} of run {} on {}{missing}",
        grouped(record.ranks.len() as u64),
        grouped(merge.expected.into()),
        merge.run_id,
        plural(hosts.len() as u64, "host"),
    );
    let clock = match merge.clock.as_str() {
        "monotonic" => "on the monotonic clock that all ranks share".to_owned(),
        _ => {
            let clocks = clocks(record.ranks.iter().map(|row| &row.rank));
            format!("by the realtime clocks, and only as good as they are: {clocks}")
        }
    };
    let mut facts = vec![("ranks", ranks)];
    if let Some(skew_us) = merge.start_skew_us {
        let skew = format!("{} between the first and the last, {clock}", duration(skew_us));
        facts.push(("start skew", skew));
    }
    if let (Some(start_us), Some(end_us)) = (merge.first_start_unix_us, merge.last_end_unix_us) {
        let window = format!(
            "{:.1} % of the longest is common to all ranks; first start {}, last end {}",
            merge.overlap * 100.0,
            instant(start_us),
            instant(end_us),
        );
        facts.push(("windows", window));
    }
    facts
}

/// RFC 3339 with milliseconds; the number if it is out of range, as in a damaged file.
fn instant(unix_us: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_micros(unix_us.min(1 << 53)));
    time.map_or(unix_us.to_string(), |time| humantime::format_rfc3339_millis(time).to_string())
}
