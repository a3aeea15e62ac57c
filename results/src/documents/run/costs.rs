//! Charts of CPU time and throughput of single runs.

use crate::html::figure::Figure;
use crate::html::rows::{Mark, Row, Rows};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;
use crate::{Cost, Record, format};

/// One side of the exchange, if its cost is known.
type Side = fn(&Record) -> Option<&Cost>;

/// CPU time for an exchange of server and client, user and system.
pub(crate) fn costs(runs: &[(&str, &Record)]) -> Option<Figure> {
    let mut rows = Vec::new();
    let mut max = 0.0f64;
    let mut data =
        Table::new(["run", "side", "CPU", "user", "system", "switches", "system calls", "busy"]);
    let sides: [(&str, Side); 2] =
        [("server", |run| run.server.as_ref()), ("load generator", |run| Some(&run.client))];
    for (side, cost) in sides {
        if runs.iter().all(|(_, run)| cost(run).is_none()) {
            continue;
        }
        rows.push(Row::Heading(side.to_owned()));
        for (series, &(name, run)) in runs.iter().enumerate() {
            let Some(cost) = cost(run) else { continue };
            let (user, all) = (cost.user_us_per_exchange, cost.cpu_us_per_exchange);
            max = max.max(all);
            let time = |us: f64| Unit::Microseconds.show(us);
            let number = |value: Option<f64>| value.map_or("-".into(), |it| format!("{it:.3}"));
            rows.push(Row::Marks {
                name: name.to_owned(),
                series,
                marks: vec![Mark::Bar(0.0, user.min(all)), Mark::Part(user.min(all), all)],
                value: time(all),
            });
            data.row([
                name.to_owned(),
                side.to_owned(),
                time(all),
                time(user),
                time(cost.system_us_per_exchange),
                number(cost.context_switches_per_exchange),
                number(cost.syscalls_per_exchange),
                format!("{:.0}%", cost.busy * 100.0),
            ]);
        }
    }
    (max > 0.0).then(|| {
        let rows = Rows {
            title: "CPU time per exchange".into(),
            description: "A bar for each run and side: user time, then system time.".into(),
            scale: Scale::from_zero(Unit::Microseconds, max),
            reference: None,
            rows,
            note: "Full shade: user time; light shade: system time. One run has no interval: \
                   loadgen compare gives one."
                .into(),
            data,
        };
        rows.figure()
    })
}

/// Exchanges a second of each of several runs.
pub(crate) fn throughput(runs: &[(&str, &Record)]) -> Option<Figure> {
    let max = runs.iter().map(|(_, run)| run.throughput_per_s).fold(0.0, f64::max);
    if runs.len() < 2 || max <= 0.0 {
        return None;
    }
    let mut data = Table::new(["run", "throughput", "exchanges", "measured"]);
    let rows = runs.iter().enumerate().map(|(series, &(name, run))| {
        let value = Unit::PerSecond.show(run.throughput_per_s);
        data.row([
            name.to_owned(),
            value.clone(),
            run.exchanges.to_string(),
            format!("{:.2} s", run.duration_s),
        ]);
        let marks = vec![Mark::Bar(0.0, run.throughput_per_s)];
        let value = if run.valid { value } else { format!("{value} INVALID") };
        Row::Marks { name: name.to_owned(), series, marks, value }
    });
    let rows = Rows {
        title: "Throughput".into(),
        description: format!(
            "A bar for each run: exchanges a second, up to {}.",
            format::count(max)
        ),
        scale: Scale::from_zero(Unit::PerSecond, max),
        reference: None,
        rows: rows.collect(),
        note: String::new(),
        data,
    };
    Some(rows.figure())
}
