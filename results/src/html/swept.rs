//! The section of a sweep: where it bends, its curve, and what stands against points of it.

use super::charts::curve;
use super::escape::escape;
use super::page::Page;
use super::table::Table;
use crate::table::notes;
use crate::{Outcome, Sweep};

/// Adds the section; alone, the page's heading is its own.
pub(super) fn section(page: &mut Page, (file, sweep): (&str, &Sweep), id: &str, alone: bool) {
    let plan = &sweep.plan;
    page.push(&format!("<section class=\"document\" id=\"{id}\">"));
    page.paragraph("eyebrow", &format!("Sweep, {}", plan.started));
    if !alone {
        page.push(&format!("<h2>{}</h2>", escape(&title(sweep))));
    }
    if sweep.interrupted {
        page.paragraph("loud", "Interrupted: there should be more points.");
    }
    page.list("answer", &sweep.sentences());
    let invalid = sweep.points.iter().filter(|point| point.outcome == Outcome::Invalid).count();
    if invalid > 0 {
        let runs = sweep.points.len();
        page.paragraph("loud", &format!("{invalid} of {runs} runs are INVALID and do not count."));
    }
    page.paragraph("sub", &load(sweep));
    let figures = [curve::latency(sweep), curve::throughput(sweep), curve::server_cpu(sweep)];
    page.charts(figures.into_iter().flatten());
    let mut made = Table::default();
    made.row(["command line".into(), plan.argv.join(" ")]);
    made.row(["seed".into(), plan.seed.to_string()]);
    made.row(["program".into(), format!("{} {}", plan.tool, plan.version)]);
    let git = notes::git(&sweep.environment.build);
    made.row(["git".into(), git.unwrap_or("-".into())]);
    made.row(["file".into(), file.into()]);
    page.push(&made.behind("How it was made"));
    page.push("</section>");
}

/// `mio under load`.
pub(super) fn title(sweep: &Sweep) -> String {
    format!("{} under load", sweep.plan.subject)
}

fn load(sweep: &Sweep) -> String {
    let plan = &sweep.plan;
    let conns = plan.conns.map(|conns| format!("{conns} connections, "));
    let rate = plan.rate_per_s.map(|rate| format!("{rate} requests a second, "));
    format!(
        "{}{}{} bytes, {:.1} s a run after {:.1} s of warm-up, {} round{}",
        conns.unwrap_or_default(),
        rate.unwrap_or_default(),
        plan.size,
        plan.duration_s,
        plan.warmup_s,
        plan.rounds,
        if plan.rounds == 1 { "" } else { "s" }
    )
}
