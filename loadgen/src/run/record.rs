//! The record of a run: options, counts and readings, and the verdict on them.

use std::slice;
use std::time::Duration;

use lockstep_results::{
    Cost, Environment, Fairness, Header, Latencies, Latency, Quota, Rank, Rate, Record,
    ServerProcess, Statistic, Subject, Threshold, format,
};
use lockstep_sys::cpus::format_list;

use crate::clients::counters::Totals;
use crate::clients::pattern::SIZE_MAX_ONE_SHOT;
use crate::machine::neighbours::Disturbance;
use crate::machine::placement::{Cpus, Place, Placement, SHARED};
use crate::machine::quota::QuotaUse;
use crate::machine::usage::Usage;
use crate::run::condition::{self, Condition};
use crate::run::measure::{Measured, Run};
use crate::run::prepare::Job;
use crate::run::server_page::PageUsage;
use crate::run::spread;
use crate::run::verdict::{Evidence, OpenEvidence, judge, trend};
use crate::run::warmup;
use crate::servers::embedded::Ended;

/// Builds the record of a run with this server, which reported `ended` at its end.
pub(super) fn record(
    job: &Job<'_>,
    run: &Run,
    cpus: &Cpus,
    subject: Subject,
    ended: Option<&Ended>,
    environment: Environment,
    measured: Measured,
) -> Record {
    let exchanges = measured.intervals.total.exchanges;
    let seconds = measured.window.as_secs_f64();
    let sides = Sides::new(run, &measured);
    let statistics = ended.and_then(|ended| ended.statistics.as_ref());
    let rate = rate(run, &measured);
    let verdict = judge(&evidence(job, run, ended, &measured, &sides, rate.as_ref()));
    let mut record = Record {
        header: Header::new("run", measured.started, job.argv.clone(), Some(run.seed)),
        valid: verdict.invalid_reasons.is_empty(),
        invalid_reasons: verdict.invalid_reasons,
        warnings: [
            verdict.warnings,
            sides.warnings(job, cpus, run),
            measured.server.page.iter().filter_map(PageUsage::warning).collect(),
            uneven_shards(run, statistics, &measured),
            late_start(&measured),
            environment.warnings(),
        ]
        .concat(),
        interrupted: measured.signal.is_some(),
        rank: rank(job, &measured),
        ranks: Vec::new(),
        merge: None,
        subject,
        load: if rate.is_some() { "open" } else { "closed" }.to_owned(),
        rate,
        conns: run.conns,
        sources: run.plan.target.sources_of(run.conns),
        size: run.plan.pattern.size(),
        threads: run.plan.threads as u32,
        engine: run.plan.engine.name().to_owned(),
        spin_ns: Some(run.plan.spin.as_nanos() as u64).filter(|&ns| ns > 0),
        warmup_s: measured.warmup.as_secs_f64(),
        warmup_end: measured.warmup_end.map(|end| end.name().to_owned()),
        duration_s: seconds,
        exchanges,
        throughput_per_s: if exchanges > 0 { exchanges as f64 / seconds } else { 0.0 },
        errors_total: measured.totals.failures.total(),
        unserved: measured.totals.unserved,
        outstanding: positive(measured.totals.outstanding),
        conns_without_exchange: positive(measured.totals.silent()),
        sent: Some(measured.totals.sent),
        latency: latencies(&measured, &job.args.percentiles),
        client: Cost {
            quota: sides.quota(&sides.client),
            ..sides.client.cost(exchanges as f64).unwrap_or_else(|| sides.client.idle())
        },
        placement: sides.placement(job),
        server: sides.server.as_ref().and_then(|side| {
            if let Some(page) = sides.page {
                return published(side, page);
            }
            Some(Cost {
                syscalls_per_exchange: statistics
                    .and_then(|object| object["syscalls_per_exchange"].as_f64()),
                quota: sides.quota(side),
                ..side.cost(exchanges as f64)?
            })
        }),
        server_processes: measured
            .server
            .processes
            .iter()
            .map(|(pid, name)| ServerProcess {
                pid: pid.as_raw_nonzero().get(),
                name: name.clone(),
            })
            .collect(),
        limit: verdict.limit.name().to_owned(),
        fairness: Fairness::from_counts(measured.totals.per_connection.iter().copied()),
        server_statistics: statistics.cloned(),
        floor: job.floor.clone(),
        environment,
        intervals: measured.intervals.finished,
        errors: measured.totals.failures.into_counts(),
        thresholds: Vec::new(),
    };
    judge_thresholds(&mut record, &job.args.fail_if);
    record
}

/// Tests thresholds. A record that does not decide them is invalid.
pub(crate) fn judge_thresholds(record: &mut Record, limits: &[Condition]) {
    record.thresholds = limits.iter().map(|limit| threshold(limit, record)).collect();
    // A threshold that is missed decides what the others cannot.
    if !record.thresholds.iter().any(Threshold::missed) {
        let undecided = record.thresholds.iter().filter_map(Threshold::doubt);
        record.invalid_reasons.extend(undecided);
        record.valid = record.invalid_reasons.is_empty();
    }
}

/// Cost of a server, as it has published it.
fn published(side: &Side<'_>, page: &PageUsage) -> Option<Cost> {
    let between = page.between.as_ref().ok()?;
    let cost = side.cost(between.exchanges)?;
    let divided = |us: Option<f64>| us.filter(|_| between.usage.divided);
    Some(Cost {
        user_us_per_exchange: divided(cost.user_us_per_exchange),
        system_us_per_exchange: divided(cost.system_us_per_exchange),
        source: Some(page.source.clone()),
        syscalls_per_exchange: between.usage.syscalls.map(|count| count / between.exchanges),
        counted_by: Some(between.counted_by.to_owned()),
        ..cost
    })
}

/// Place of the record among those of its run.
fn rank(job: &Job<'_>, measured: &Measured) -> Option<Rank> {
    let window = measured.looped.then_some((measured.warmup, measured.window));
    Some(job.member?.rank(&measured.start, window))
}

/// Warns of a load that started after the instant that was asked for.
fn late_start(measured: &Measured) -> Vec<String> {
    let late = measured.start.late().filter(|_| measured.looped);
    let warning = |late: Duration| {
        let late = format::duration(late.as_nanos() as u64);
        format!("late-start: the load started {late} after the agreed instant")
    };
    late.map(warning).into_iter().collect()
}

/// Warns of work that was not spread over the server's shards.
fn uneven_shards(
    run: &Run,
    statistics: Option<&serde_json::Value>,
    measured: &Measured,
) -> Vec<String> {
    let warning = match (statistics, &measured.server.shards) {
        (Some(statistics), _) => spread::of_connections(slice::from_ref(statistics)),
        (None, Some(cpu_ns)) => spread::of_cpu_time(cpu_ns, run.conns.into()),
        (None, None) => None,
    };
    warning.into_iter().collect()
}

/// Tests a threshold. A value that is unknown is a miss.
fn threshold(condition: &Condition, record: &Record) -> Threshold {
    let (held, undecided) = match condition.judge(record) {
        condition::Verdict::False => (true, None),
        condition::Verdict::True | condition::Verdict::Unmeasured => (false, None),
        condition::Verdict::Undecided(reason) => (false, Some(reason)),
    };
    let value = condition.value(record);
    Threshold { expression: condition.to_string(), value, held, undecided }
}

fn positive(count: u64) -> Option<u64> {
    Some(count).filter(|&count| count > 0)
}

fn latencies(measured: &Measured, percentiles: &[Statistic]) -> Latencies {
    let Measured { totals, intervals, .. } = measured;
    let unanswered =
        |histogram, count| Some(Latency::with_unanswered(histogram, count)?.with(percentiles));
    let latency = |histogram| unanswered(histogram, 0);
    let exchange = unanswered(&intervals.total.exchange, totals.unanswered);
    let latencies = Latencies {
        connect: latency(&totals.connect),
        first_exchange: latency(&totals.first_exchange),
        ..Latencies::default()
    };
    match &intervals.total.open {
        None => Latencies { exchange, ..latencies },
        Some(open) => Latencies {
            response: unanswered(&open.response, totals.unanswered),
            service: exchange,
            lateness: latency(&open.lateness),
            ..latencies
        },
    }
}

/// Collects what the verdict is based on.
fn evidence(
    job: &Job<'_>,
    run: &Run,
    ended: Option<&Ended>,
    measured: &Measured,
    sides: &Sides<'_>,
    rate: Option<&Rate>,
) -> Evidence {
    let totals = &measured.totals;
    let failed = totals.failures.total();
    let shared_busy = sides.shared_busy();
    let server_polls = job.args.server.server_spin.is_some_and(|spin| !spin.is_zero());
    Evidence {
        client_busy: sides.busiest_client_cpu(totals, &run.placement),
        client_quota: sides.quota(&sides.client),
        server_quota: sides.server.as_ref().and_then(|server| sides.quota(server)),
        client_disturbed: sides.client_disturbance(measured, &run.placement),
        server_disturbed: sides.server_disturbance(measured),
        sides_share_cpus: sides.sharing_server().is_some(),
        own_server: job.args.target.is_none(),
        // A server that polls is busy even without load.
        server_busy: sides.server.as_ref().filter(|_| !server_polls).and_then(Side::load),
        shared_busy,
        server_changed: measured.server.changed,
        pauses: measured.pauses,
        pauses_before: measured.pauses_before,
        outstanding: totals.outstanding,
        longest_wait_ns: totals.longest_wait_ns,
        // Otherwise not every connection has something to do.
        silent: if run.plan.open.is_none() && run.requests.is_none() { totals.silent() } else { 0 },
        exchanges: measured.intervals.total.exchanges,
        wrong_replies: totals.failures.wrong_replies(),
        conns: run.conns.into(),
        failed,
        failure: totals.failures.cause(),
        // A prefix may not pass standard error on.
        disagreement: ended.filter(|it| !is_silent(job, it)).and_then(|ended| {
            let certain = failed + totals.outstanding == 0 && measured.signal.is_none();
            let total = certain.then_some(totals.exchanges);
            disagreement(slice::from_ref(ended), run.plan.pattern.size(), total)
        }),
        debug_build: cfg!(debug_assertions),
        warmup_at_bound: measured.warmup_end == Some(warmup::End::Bound),
        trend: closed_loop_trend(run, measured),
        open: rate.and_then(|rate| open_evidence(rate, measured)),
    }
}

/// True if a server of `--via` has ended in order, and nothing was heard of its counts.
fn is_silent(job: &Job<'_>, ended: &Ended) -> bool {
    job.args.server.via.is_some() && ended.error.is_none() && ended.statistics.is_none()
}

/// Trend of a closed loop's throughput; that of an open loop is planned.
fn closed_loop_trend(run: &Run, measured: &Measured) -> Option<f64> {
    if run.plan.open.is_some() {
        return None;
    }
    let intervals = &measured.intervals.finished;
    let whole = intervals.iter().filter(|interval| interval.length_s == intervals[0].length_s);
    let rates: Vec<f64> =
        whole.map(|interval| interval.exchanges as f64 / interval.length_s).collect();
    trend(&rates)
}

/// Planned and achieved rate of an open loop.
fn rate(run: &Run, measured: &Measured) -> Option<Rate> {
    let (plan, open) = (run.plan.open?, measured.totals.open.as_ref()?);
    let mut span_ns = open.plan_end_ns.saturating_sub(measured.start_ns);
    // A number of requests ends with its last one.
    if run.requests == Some(open.planned) {
        span_ns = span_ns.max(open.last_sent_ns.saturating_sub(measured.start_ns));
    }
    let own = (!open.own_lateness.is_empty()).then(|| open.own_lateness.value_at_quantile(0.99));
    Some(Rate {
        planned_per_s: run.plan.share.rate(plan.rate),
        achieved_per_s: per_second(open.sent_in_time, span_ns),
        arrivals: plan.arrivals.name().to_owned(),
        planned: open.planned,
        unsent: open.unsent,
        waited: open.waited,
        own_lateness_p99_ns: own,
        spin_ns: plan.spin.as_nanos() as u64,
    })
}

fn open_evidence(rate: &Rate, measured: &Measured) -> Option<OpenEvidence> {
    let open = measured.totals.open.as_ref()?;
    let planned_ns = open.plan_end_ns.saturating_sub(measured.start_ns);
    let planned_per_s = per_second(open.planned, planned_ns);
    Some(OpenEvidence {
        planned_per_s,
        achieved_per_s: rate.achieved_per_s,
        // The number of Poisson arrivals differs by chance from the rate asked for.
        kept: if planned_per_s > 0.0 { rate.achieved_per_s / planned_per_s } else { 1.0 },
        planned: open.planned,
        // After a signal, requests remain unsent by intention.
        unsent: if measured.signal.is_some() { 0 } else { open.unsent },
        waited: open.waited,
        own_late_p99_ns: rate.own_lateness_p99_ns.unwrap_or(0),
        response_p99_ns: measured.intervals.total.main().value_at_quantile(0.99),
        spacing: open.spacing.iter().find_map(|spacing| spacing.fault()),
    })
}

fn per_second(count: u64, span_ns: u64) -> f64 {
    if span_ns == 0 { 0.0 } else { count as f64 * 1e9 / span_ns as f64 }
}

/// Resource usage of both sides in the window. The server is `None` on another machine, unless it
/// publishes its usage.
struct Sides<'a> {
    client: Side<'a>,
    server: Option<Side<'a>>,
    page: Option<&'a PageUsage>,
}

/// Resource usage of one side in the window.
struct Side<'a> {
    window: Duration,
    usage: Option<Usage>,
    threads: usize,
    /// CPUs that it may use; empty if they are unknown.
    cpus: &'a [usize],
    quota: Option<&'a QuotaUse>,
}

impl Side<'_> {
    /// CPU time in the window, seconds.
    fn used_s(&self) -> Option<f64> {
        Some(self.usage?.cpu_ns as f64 / 1e9)
    }

    /// Number of CPUs that it can use. A thread uses one at a time.
    fn usable_cpus(&self) -> usize {
        self.cpus.len().min(self.threads).max(1)
    }

    /// Share of its CPUs that were busy. The edges of the readings differ a little from those of
    /// the window, so a full CPU may be read as a little more.
    fn busy(&self) -> Option<f64> {
        if self.cpus.is_empty() {
            return None;
        }
        share(self.used_s()?, self.window.as_secs_f64() * self.usable_cpus() as f64)
    }

    /// Share that it used of what it may use: of its CPUs or its quota, whichever is less.
    fn load(&self) -> Option<f64> {
        let of_quota = self.quota.map_or(0.0, |quota| quota.used(self.used_s().unwrap_or(0.0)));
        Some(self.busy()?.max(of_quota).min(1.0))
    }

    /// Cost per exchange; `None` without exchanges, or if the usage is unknown.
    fn cost(&self, exchanges: f64) -> Option<Cost> {
        if exchanges == 0.0 {
            return None;
        }
        Some(self.cost_of(self.usage?, self.busy(), exchanges))
    }

    /// Cost without exchanges: zero.
    fn idle(&self) -> Cost {
        let context_switches = self.usage.and_then(|usage| usage.context_switches).map(|_| 0);
        self.cost_of(Usage { context_switches, ..Usage::default() }, Some(0.0), 1.0)
    }

    fn cost_of(&self, usage: Usage, busy: Option<f64>, exchanges: f64) -> Cost {
        let cpu_us = usage.cpu_ns as f64 / 1e3 / exchanges;
        let user_us = cpu_us * usage.user_share();
        Cost {
            cpu_us_per_exchange: cpu_us,
            user_us_per_exchange: Some(user_us),
            system_us_per_exchange: Some(cpu_us - user_us),
            context_switches_per_exchange: usage
                .context_switches
                .map(|switches| switches as f64 / exchanges),
            busy,
            cpus: format_list(self.cpus),
            syscalls_per_exchange: None,
            quota: None,
            source: None,
            counted_by: None,
        }
    }
}

/// Share of `whole` that is used; at most 1.
fn share(used: f64, whole: f64) -> Option<f64> {
    let share = used / whole;
    share.is_finite().then_some(share.min(1.0))
}

impl<'a> Sides<'a> {
    fn new(run: &'a Run, measured: &'a Measured) -> Self {
        let window = measured.window;
        let client = Side {
            window,
            usage: measured.totals.usage,
            threads: run.plan.threads,
            cpus: &measured.client_cpus,
            quota: measured.quota.as_ref(),
        };
        let read = || {
            measured.server.capacity.as_ref().map(|(threads, cpus)| Side {
                window,
                usage: measured.server.usage,
                threads: *threads,
                cpus,
                quota: measured.server.quota.as_ref(),
            })
        };
        let page = measured.server.page.as_ref();
        let server = match page {
            None => read(),
            Some(page) => page.between.as_ref().ok().map(|between| Side {
                window: between.window,
                usage: Some(between.usage.usage),
                threads: between.usage.capacity.as_ref().map_or(0, |capacity| capacity.0),
                cpus: between.usage.capacity.as_ref().map_or(&[][..], |capacity| &capacity.1),
                quota: None,
            }),
        };
        Self { client, server, page }
    }

    /// The server, if it is known to be on this machine.
    fn server_here(&self) -> Option<&Side<'a>> {
        self.server.as_ref().filter(|_| self.page.is_none_or(|page| page.is_here))
    }

    /// The server, if it shares CPUs with the generator.
    fn sharing_server(&self) -> Option<&Side<'a>> {
        let shared = |server: &&Side<'_>| self.client.cpus.iter().any(|c| server.cpus.contains(c));
        self.server_here().filter(shared)
    }

    /// True if both sides are in the group of the quota.
    fn share_quota(&self) -> bool {
        let server = self.server.as_ref().and_then(|server| server.quota);
        self.client.quota.zip(server).is_some_and(|(client, server)| client.is_shared_with(server))
    }

    /// Quota of a side, for records.
    fn quota(&self, side: &Side<'_>) -> Option<Quota> {
        Some(side.quota?.record(side.usable_cpus(), self.share_quota()))
    }

    /// Share of the busiest of the generator's CPUs that its threads used, or of its quota.
    fn busiest_client_cpu(&self, totals: &Totals, placement: &Placement) -> f64 {
        let on = |cpu: &usize| {
            let threads = totals.threads.iter();
            threads.filter(|it| placement.of_thread(it.thread) == *cpu).map(|it| it.busy).sum()
        };
        let busiest: f64 = placement.client.iter().map(on).fold(0.0, f64::max);
        let spun_s = totals.spun_ns as f64 / 1e9;
        let worked_s = self.client.used_s().map_or(0.0, |used_s| used_s - spun_s);
        let of_quota = self.client.quota.map_or(0.0, |quota| quota.used(worked_s));
        busiest.max(of_quota).min(1.0)
    }

    /// Disturbance of the generator's threads on the CPU where it was greatest, if the server has
    /// other CPUs.
    fn client_disturbance(
        &self,
        measured: &Measured,
        placement: &Placement,
    ) -> Option<Disturbance> {
        let neighbours = measured.neighbours.as_ref()?;
        if self.sharing_server().is_some() {
            return None;
        }
        let on_cpu = |&cpu: &usize| {
            let threads = measured.totals.threads.iter();
            let of_cpu = threads.filter(|it| placement.of_thread(it.thread) == cpu);
            neighbours.disturbance(&[cpu], false, of_cpu.map(|it| it.waiting).sum())
        };
        let disturbances = placement.client.iter().filter_map(on_cpu);
        disturbances.max_by(|a, b| a.share.total_cmp(&b.share))
    }

    /// Disturbance of the server's threads; if the sides share CPUs, of the threads of both.
    fn server_disturbance(&self, measured: &Measured) -> Option<Disturbance> {
        let (neighbours, server) = (measured.neighbours.as_ref()?, self.server_here()?);
        let window_ns = self.client.window.as_nanos() as f64;
        let waiting = |side: &Side<'_>| Some(side.usage?.waited_ns? as f64 / window_ns);
        let (mut cpus, mut waited) = (server.cpus.to_vec(), waiting(server));
        if self.sharing_server().is_some() {
            cpus.extend(self.client.cpus);
            cpus.sort_unstable();
            cpus.dedup();
            waited = Some(waited.unwrap_or(0.0) + waiting(&self.client).unwrap_or(0.0));
        }
        neighbours.disturbance(&cpus, true, waited?)
    }

    /// Warnings about the placement.
    fn warnings(&self, job: &Job<'_>, cpus: &Cpus, run: &Run) -> Vec<String> {
        // The user wants both sides on the same CPUs.
        if job.args.server.place == Place::Steered {
            return Vec::new();
        }
        let server = self.server_here().map_or(&[][..], |server| server.cpus);
        cpus.warnings(self.client.cpus, server, run.placement.server.is_some())
    }

    /// Placement as in [`Record::placement`]. Only an embedded server steers.
    fn placement(&self, job: &Job<'_>) -> Option<String> {
        self.server_here().filter(|server| !server.cpus.is_empty())?;
        let steered = job.args.server.place == Place::Steered && job.command.is_none();
        let placement = match self.sharing_server() {
            None => Place::Apart.name(),
            Some(_) if steered => Place::Steered.name(),
            Some(_) => SHARED,
        };
        Some(placement.to_owned())
    }

    /// Share of all CPUs that were busy, if both sides share some; likewise of a quota.
    fn shared_busy(&self) -> Option<f64> {
        let client = &self.client;
        let used_s = client.used_s()? + self.server.as_ref()?.used_s()?;
        let of_quota = client.quota.filter(|_| self.share_quota()).map(|quota| quota.used(used_s));
        let of_cpus = self.sharing_server().and_then(|server| {
            let others = server.cpus.iter().filter(|cpu| !client.cpus.contains(cpu)).count();
            let cpus = client.cpus.len() + others;
            share(used_s, client.window.as_secs_f64() * cpus as f64)
        });
        of_cpus.into_iter().chain(of_quota).reduce(f64::max).map(|share| share.min(1.0))
    }
}

/// Compares the counts of embedded servers over their whole life with `total` exchanges of `size`
/// bytes. `total` is `None` after failures and signals: then exchanges may have ended on one side
/// only. Returns the difference, or the error of a server, as a reason for the verdict.
pub(crate) fn disagreement(ended: &[Ended], size: u32, total: Option<u64>) -> Option<String> {
    if let Some(error) = ended.iter().find_map(|ended| ended.error.as_ref()) {
        return Some(format!("server-failed: {error}"));
    }
    let total = total?;
    let statistics: Option<Vec<_>> = ended.iter().map(|ended| ended.statistics.as_ref()).collect();
    let Some(statistics) = statistics else {
        return Some("miscount: the server did not report its counts".to_owned());
    };
    // To the server, a request that takes several receives is several exchanges.
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
