//! The record of a run, from what was asked and what was measured.

use std::net::SocketAddr;
use std::slice;
use std::time::Duration;

use lockstep_results::{
    Cost, Environment, Fairness, Floor, Header, Latencies, Latency, Rate, Record, Threshold,
};

use crate::clients::counters::{OpenTotals, Totals};
use crate::clients::intervals::IntervalCounts;
use crate::clients::pattern::SIZE_MAX_ONE_SHOT;
use crate::event::Ready;
use crate::machine::placement::Place;
use crate::machine::usage::Usage;
use crate::run::args::RunArgs;
use crate::run::condition::Condition;
use crate::run::measure::{Measured, Run};
use crate::run::verdict::{Evidence, OpenEvidence, judge, trend};
use crate::run::warmup;
use crate::servers::embedded::Ended;
use lockstep_sys::cpus::format_list;

/// What was asked for, and of whom.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The options.
    pub args: &'a RunArgs,
    /// The command line.
    pub argv: Vec<String>,
    /// Determined the bytes sent.
    pub seed: u64,
    /// The run.
    pub run: &'a Run,
    /// The server under test.
    pub subject: Subject,
    /// What the machine can do at all, if that was measured.
    pub floor: Option<Floor>,
    /// Where it ran.
    pub environment: Environment,
}

/// The server under test.
#[derive(Debug)]
pub struct Subject {
    /// Its address.
    pub addr: SocketAddr,
    /// What an embedded server said at its start.
    pub ready: Option<Ready>,
    /// How an embedded server ended.
    pub ended: Option<Ended>,
}

/// Builds the record.
pub fn record(mut asked: Asked<'_>, measured: Measured) -> Record {
    let totals = &measured.totals;
    let exchanges = measured.intervals.total.exchanges;
    let cpus = &asked.run.placement.client;
    let client = Side { usage: totals.usage, threads: asked.run.plan.threads, cpus };
    let server = measured.server.capacity.as_ref().map(|(threads, cpus)| Side {
        usage: measured.server.usage,
        threads: *threads,
        cpus,
    });
    let ended = asked.subject.ended.as_ref();
    let statistics = ended.and_then(|ended| ended.statistics.as_ref());
    let syscalls = statistics.and_then(|object| object["syscalls_per_exchange"].as_f64());
    let cost = |side: &Side<'_>| side.cost(measured.window, exchanges);
    let server_cost = server.as_ref().and_then(cost);
    let server_cost = server_cost.map(|cost| Cost { syscalls_per_exchange: syscalls, ..cost });
    let shared_busy = server.as_ref().and_then(|side| shared(&client, side, measured.window));
    // Threads that share processors wait for each other, which is nobody else's doing.
    let alone = shared_busy.is_none() && client.threads <= client.cpus.len();
    let rate = totals.open.as_ref().and_then(|open| rate(&asked, &measured, open));
    let verdict = judge(&Evidence {
        client_busy: totals.busy,
        client_waiting: alone.then_some(totals.waiting),
        // Who polls is busy also when there is nothing to do.
        server_busy: server
            .as_ref()
            .filter(|_| asked.args.server.server_spin.is_none_or(|spin| spin.is_zero()))
            .and_then(|side| side.busy(measured.window)),
        shared_busy,
        server_changed: measured.server.changed,
        exchanges,
        wrong_replies: totals.failures.wrong_replies(),
        conns: asked.args.conns.into(),
        failed: totals.failures.total(),
        disagreement: ended.and_then(|ended| {
            let certain = totals.failures.total() == 0 && measured.signal.is_none();
            disagreement(
                slice::from_ref(ended),
                asked.args.size,
                certain.then_some(totals.exchanges),
            )
        }),
        debug_build: cfg!(debug_assertions),
        warmup_at_bound: measured.warmup_end == Some(warmup::End::Bound),
        trend: trend_of(&asked, &measured),
        open: rate
            .as_ref()
            .zip(totals.open.as_ref())
            .map(|(rate, open)| kept(rate, open, &measured)),
    });
    let seconds = measured.window.as_secs_f64();
    asked.environment.capture_after();
    let mut record = Record {
        header: Header::new("run", measured.started, asked.argv, Some(asked.seed)),
        valid: verdict.invalid_reasons.is_empty(),
        invalid_reasons: verdict.invalid_reasons,
        warnings: [verdict.warnings, asked.environment.warnings()].concat(),
        interrupted: measured.signal.is_some(),
        subject: subject(&asked.subject, asked.args),
        load: if rate.is_some() { "open" } else { "closed" }.to_owned(),
        rate,
        conns: asked.args.conns,
        size: asked.args.size,
        threads: asked.run.plan.threads as u32,
        engine: asked.run.plan.engine.name().to_owned(),
        spin_ns: spin_ns(asked.run.plan.spin),
        warmup_s: measured.warmup.as_secs_f64(),
        warmup_end: measured.warmup_end.map(|end| end.name().to_owned()),
        duration_s: seconds,
        exchanges,
        throughput_per_s: if exchanges > 0 { exchanges as f64 / seconds } else { 0.0 },
        errors_total: totals.failures.total(),
        unserved: totals.unserved,
        latency: latencies(totals, &measured.intervals.total),
        client: cost(&client).unwrap_or_else(|| client.idle()),
        placement: server.as_ref().map(|server| placement(&client, server, statistics)),
        server: server_cost,
        limit: verdict.limit.name().to_owned(),
        intervals: measured.intervals.finished,
        fairness: Fairness::from_counts(totals.per_connection.iter().copied()),
        server_statistics: statistics.cloned(),
        floor: asked.floor,
        environment: asked.environment,
        errors: measured.totals.failures.into_counts(),
        thresholds: Vec::new(),
    };
    record.thresholds = asked.args.fail_if.iter().map(|limit| threshold(limit, &record)).collect();
    record
}

/// What cannot be told counts as missed: who asked wants to know.
fn threshold(condition: &Condition, record: &Record) -> Threshold {
    let value = condition.value(record);
    let held = value.is_some_and(|value| !condition.is_met_by(value));
    Threshold { expression: condition.to_string(), value, held }
}

fn latencies(totals: &Totals, sum: &IntervalCounts) -> Latencies {
    let exchange = Latency::from_histogram(&sum.exchange);
    let latencies = Latencies {
        connect: Latency::from_histogram(&totals.connect),
        first_exchange: Latency::from_histogram(&totals.first_exchange),
        ..Latencies::default()
    };
    match &sum.open {
        None => Latencies { exchange, ..latencies },
        Some(open) => Latencies {
            response: Latency::from_histogram(&open.response),
            service: exchange,
            lateness: Latency::from_histogram(&open.lateness),
            ..latencies
        },
    }
}

/// What an open loop planned, and what became of it.
fn rate(asked: &Asked<'_>, measured: &Measured, open: &OpenTotals) -> Option<Rate> {
    let plan = asked.run.plan.open?;
    let mut span_ns = open.plan_end_ns.saturating_sub(measured.start_ns);
    // A number of requests has no end but its last one.
    if asked.run.requests == Some(open.planned) {
        span_ns = span_ns.max(open.last_sent_ns.saturating_sub(measured.start_ns));
    }
    let own = (!open.own_lateness.is_empty()).then(|| open.own_lateness.value_at_quantile(0.99));
    Some(Rate {
        planned_per_s: plan.rate as f64,
        achieved_per_s: per_second(open.sent_in_time, span_ns),
        arrivals: plan.arrivals.name().to_owned(),
        planned: open.planned,
        unsent: open.unsent,
        waited: open.waited,
        own_lateness_p99_ns: own,
        spin_ns: plan.spin.as_nanos() as u64,
    })
}

fn spin_ns(spin: Duration) -> Option<u64> {
    (!spin.is_zero()).then_some(spin.as_nanos() as u64)
}

fn per_second(count: u64, span_ns: u64) -> f64 {
    if span_ns == 0 { 0.0 } else { count as f64 * 1e9 / span_ns as f64 }
}

/// The trend of a closed loop's throughput; an open loop's is planned.
fn trend_of(asked: &Asked<'_>, measured: &Measured) -> Option<f64> {
    let intervals = &measured.intervals.finished;
    let whole = intervals.iter().filter(|interval| interval.length_s == intervals[0].length_s);
    let rates: Vec<f64> =
        whole.map(|interval| interval.exchanges as f64 / interval.length_s).collect();
    asked.run.plan.open.is_none().then(|| trend(&rates)).flatten()
}

/// How well an open loop kept to its plan.
fn kept(rate: &Rate, open: &OpenTotals, measured: &Measured) -> OpenEvidence {
    let planned_ns = open.plan_end_ns.saturating_sub(measured.start_ns);
    let planned_per_s = per_second(open.planned, planned_ns);
    OpenEvidence {
        planned_per_s: rate.planned_per_s,
        achieved_per_s: rate.achieved_per_s,
        // Of Poisson arrivals there are by chance more or fewer than asked for.
        kept: if planned_per_s > 0.0 { rate.achieved_per_s / planned_per_s } else { 1.0 },
        planned: open.planned,
        // What a signal cut is nobody's fault.
        unsent: if measured.signal.is_some() { 0 } else { open.unsent },
        waited: open.waited,
        own_late_p99_ns: rate.own_lateness_p99_ns.unwrap_or(0),
        response_p99_ns: measured.intervals.total.main().value_at_quantile(0.99),
        spacing: open.spacing.iter().find_map(|spacing| spacing.fault()),
    }
}

pub(crate) fn subject(subject: &Subject, args: &RunArgs) -> lockstep_results::Subject {
    let addr = subject.addr.to_string();
    let ready = subject.ready.as_ref();
    lockstep_results::Subject {
        name: ready.map_or_else(|| addr.clone(), |ready| ready.backend.clone()),
        backend: ready.map(|ready| ready.backend.clone()),
        service: args.service.name().to_owned(),
        addr,
        shards: ready.map(|ready| ready.shards),
        backlog: ready.map(|ready| ready.backlog),
        spin_ns: ready
            .and(args.server.server_spin)
            .map(|spin| spin.as_nanos() as u64)
            .filter(|&ns| ns > 0),
    }
}

/// One side of the exchange.
struct Side<'a> {
    usage: Option<Usage>,
    threads: usize,
    cpus: &'a [usize],
}

impl Side<'_> {
    /// Seconds of processor time in the window.
    fn used_s(&self) -> Option<f64> {
        Some(self.usage?.cpu_ns as f64 / 1e9)
    }

    /// The share of the processors it may use. A thread uses one at a time.
    fn busy(&self, window: Duration) -> Option<f64> {
        let processors = self.cpus.len().min(self.threads).max(1);
        let available_s = window.as_secs_f64() * processors as f64;
        let busy = self.used_s()? / available_s;
        busy.is_finite().then_some(busy)
    }

    fn cost(&self, window: Duration, exchanges: u64) -> Option<Cost> {
        if exchanges == 0 {
            return None;
        }
        let usage = self.usage?;
        let cpu_us = usage.cpu_ns as f64 / 1e3 / exchanges as f64;
        Some(Cost {
            cpu_us_per_exchange: cpu_us,
            user_us_per_exchange: cpu_us * usage.user_share(),
            system_us_per_exchange: cpu_us * (1.0 - usage.user_share()),
            context_switches_per_exchange: usage
                .context_switches
                .map(|switches| switches as f64 / exchanges as f64),
            busy: self.busy(window)?,
            cpus: format_list(self.cpus),
            syscalls_per_exchange: None,
        })
    }

    /// The cost where there was no exchange to bear it.
    fn idle(&self) -> Cost {
        Cost {
            cpu_us_per_exchange: 0.0,
            user_us_per_exchange: 0.0,
            system_us_per_exchange: 0.0,
            context_switches_per_exchange: self
                .usage
                .and_then(|usage| usage.context_switches.map(|_| 0.0)),
            busy: 0.0,
            cpus: format_list(self.cpus),
            syscalls_per_exchange: None,
        }
    }
}

/// Whether some processor is of both sides.
fn overlap(client: &Side<'_>, server: &Side<'_>) -> bool {
    client.cpus.iter().any(|cpu| server.cpus.contains(cpu))
}

/// How the sides lay, as [`Record::placement`] has it; by what the server says of itself.
fn placement(
    client: &Side<'_>,
    server: &Side<'_>,
    statistics: Option<&serde_json::Value>,
) -> String {
    let steered = statistics.is_some_and(|statistics| statistics["steer"] == "cpu");
    match overlap(client, server) {
        false => Place::Apart.name(),
        true if steered => Place::Steered.name(),
        true => "shared",
    }
    .to_owned()
}

/// How full the processors of two sides are that share some.
fn shared(client: &Side<'_>, server: &Side<'_>, window: Duration) -> Option<f64> {
    if !overlap(client, server) {
        return None;
    }
    let others = server.cpus.iter().filter(|cpu| !client.cpus.contains(cpu)).count();
    let available_s = window.as_secs_f64() * (client.cpus.len() + others) as f64;
    let busy = (client.used_s()? + server.used_s()?) / available_s;
    busy.is_finite().then_some(busy)
}

/// What embedded servers did otherwise than the generator has it, over their whole life: `total`
/// exchanges of `size` bytes, if that is certain. After failures and signals there may be some that
/// only one side saw the end of.
pub(crate) fn disagreement(ended: &[Ended], size: u32, total: Option<u64>) -> Option<String> {
    if let Some(trouble) = ended.iter().find_map(|ended| ended.error.as_ref()) {
        return Some(format!("server-failed: {trouble}"));
    }
    let total = total?;
    let statistics: Option<Vec<_>> = ended.iter().map(|ended| ended.statistics.as_ref()).collect();
    let Some(statistics) = statistics else {
        return Some("miscount: the server did not say what it has counted".to_owned());
    };
    // What is more than one receive takes is several exchanges to the server.
    let (what, key, ours) = match size {
        ..=SIZE_MAX_ONE_SHOT => ("exchanges", "exchanges", total),
        _ => ("bytes of requests", "bytes_received", total * u64::from(size)),
    };
    let theirs: Option<u64> = statistics.iter().map(|counts| counts[key].as_u64()).sum();
    (theirs != Some(ours)).then(|| {
        let theirs = theirs.map_or("none".to_owned(), |count| count.to_string());
        format!("miscount: the server counted {theirs} {what}, the generator {ours}")
    })
}
