//! Section of a sweep.

use super::curve;
use crate::html::Page;
use crate::text::{grouped, load, plural};
use crate::{Axis, Outcome, Sweep};

/// Adds the findings and the curves.
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
    page.paragraph("sub", &sweep.heading());
    let figures = [curve::latency(sweep), curve::throughput(sweep), curve::server_cpu(sweep)];
    page.charts(figures.into_iter().flatten());
}

/// `mio, 5.000k/s to 50.00k/s, 64 connections x 64 bytes`.
pub(super) fn title(sweep: &Sweep) -> String {
    let plan = &sweep.plan;
    let levels = sweep.points.iter().map(|point| point.level);
    let range = match (levels.clone().min(), levels.max()) {
        (Some(low), Some(high)) if low < high => {
            let low = match plan.axis {
                Axis::Rate => sweep.level(low),
                Axis::Conns => grouped(low),
            };
            format!(", {low} to {}", sweep.level(high))
        }
        (Some(level), _) => format!(", {}", sweep.level(level)),
        _ => String::new(),
    };
    let load = match plan.conns {
        Some(conns) => load(conns, plan.size),
        None => plural(plan.size.into(), "byte"),
    };
    format!("{}{range}, {load}", plan.subject)
}
