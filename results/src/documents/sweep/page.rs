//! The section of a sweep: where it bends, its curve, and what stands against points of it.

use super::curve;
use crate::html::Page;
use crate::{Outcome, Sweep};

/// Adds what the sweep shows, and its curves.
pub(super) fn draw(sweep: &Sweep, page: &mut Page) {
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
