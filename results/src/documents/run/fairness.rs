//! Chart of the fairness between the connections of a run.

use crate::Record;
use crate::html::figure::Figure;
use crate::html::rows::{Mark, Row, Rows};
use crate::html::scale::Scale;
use crate::html::table::Table;
use crate::html::unit::Unit;

/// The fewest and the most exchanges of a connection beside the mean, for each run.
pub(crate) fn fairness(runs: &[(&str, &Record)]) -> Option<Figure> {
    let mut data = Table::new(["run", "fewest", "mean", "most", "Jain's index"]);
    let (mut rows, mut max) = (Vec::new(), 0.0f64);
    for (series, &(name, run)) in runs.iter().enumerate() {
        let Some(fairness) = &run.fairness else { continue };
        let mean = run.exchanges as f64 / f64::from(run.conns.max(1));
        let (least, most) = (fairness.min as f64, fairness.max as f64);
        max = max.max(most);
        let jain = format!("{:.4}", fairness.jain);
        data.row([
            name.to_owned(),
            fairness.min.to_string(),
            format!("{mean:.1}"),
            fairness.max.to_string(),
            jain.clone(),
        ]);
        rows.push(Row::Marks {
            name: name.to_owned(),
            series,
            marks: vec![Mark::Interval(least, most), Mark::Value(mean)],
            value: format!("Jain {jain}"),
        });
    }
    (max > 0.0).then(|| {
        let rows = Rows {
            title: "Fairness: exchanges per connection".into(),
            description: "For each run the fewest and the most exchanges that a connection \
                          completed, and their mean."
                .into(),
            scale: Scale::from_zero(Unit::Count, max),
            reference: None,
            rows,
            note: "From the connection served least to the one served most; the dot is the mean. \
                   Jain's index is 1 when all are equal."
                .into(),
            data,
        };
        rows.figure()
    })
}
