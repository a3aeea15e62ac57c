//! Findings of a comparison, in words.

use super::exclusion::by_kind;
use super::{Cell, Comparison, Exclusion, Measured, Metric};
use crate::statistics::{Ratio, Verdict};
use crate::text;

impl Comparison {
    /// Findings: for each cell and subject the comparison with the baseline in the primary metric,
    /// and the runs that do not count. A sentence names its cell if there are several.
    pub fn sentences(&self) -> Vec<String> {
        let of_cell = |cell| {
            let sentences = self.sentences_of(cell).into_iter();
            sentences.map(move |sentence| self.in_cell(cell, &sentence))
        };
        self.cells.iter().flat_map(of_cell).collect()
    }

    /// The [`sentences`](Comparison::sentences) of one cell, without its name.
    pub(crate) fn sentences_of(&self, cell: &Cell) -> Vec<String> {
        let others = cell.others(&self.plan.baseline);
        let primary = others.map(|measured| self.primary_sentence(measured));
        primary.chain(excluded(cell)).collect()
    }

    /// Largest difference that noise alone makes, for each cell, if all subjects are the same
    /// server.
    pub fn noise_floor(&self) -> Vec<String> {
        let floors = |cell: &Cell| -> Vec<String> {
            let shown = |metric: Metric| {
                let ratios = cell.others(&self.plan.baseline).map(|other| other.ratio(metric));
                let floor = ratios.map(|ratio| Some(hidden(ratio?))).collect::<Option<Vec<_>>>()?;
                let floor = floor.into_iter().reduce(f64::max)?;
                Some(format!("{} in {}", percent(floor), metric.words()))
            };
            // The primary first: it is what a claim rests on.
            let others = Metric::ALL.into_iter().filter(|metric| *metric != self.primary);
            std::iter::once(self.primary).chain(others).filter_map(shown).collect()
        };
        let mut sentences = Vec::new();
        for cell in &self.cells {
            let floors = floors(cell);
            if !floors.is_empty() {
                let sentence = format!(
                    "noise floor: the same server twice is only known to differ by less than {}",
                    floors.join(", ")
                );
                sentences.push(self.in_cell(cell, &sentence));
            }
            let claims = |other: &&Measured| other.ratio(self.primary).is_some_and(Ratio::claims);
            for other in cell.others(&self.plan.baseline).filter(claims) {
                let sentence = format!(
                    "{} is claimed to differ from {}, which is the same server: chance (up to 4 \
                     in 100), or something disturbs one of them",
                    text::printable(&other.name),
                    text::printable(&self.plan.baseline),
                );
                sentences.push(self.in_cell(cell, &sentence));
            }
        }
        sentences
    }

    /// Names the cell of a sentence, if there are several.
    fn in_cell(&self, cell: &Cell, sentence: &str) -> String {
        match self.cells.len() {
            1 => sentence.to_owned(),
            _ => format!("{}: {sentence}", text::load(cell.conns, cell.size)),
        }
    }

    fn primary_sentence(&self, measured: &Measured) -> String {
        let (name, baseline) =
            (text::printable(&measured.name), text::printable(&self.plan.baseline));
        let metric = self.primary;
        let Some(ratio) = measured.ratio(metric) else {
            return format!("{name} and {baseline}: no round with a valid run of both");
        };
        match ratio.verdict {
            Verdict::Lower | Verdict::Higher => format!(
                "{name} {} {} of {baseline}'s {}",
                metric.verb(),
                interval(ratio, decimals(ratio)),
                metric.words()
            ),
            Verdict::NoDifference => {
                let doubt = if ratio.half_width() > self.plan.stopping.precision {
                    format!("; the noise could hide {}", percent(hidden(ratio)))
                } else {
                    String::new()
                };
                format!(
                    "{baseline} and {name}: no difference within noise ({} of the {}{doubt})",
                    interval(ratio, decimals(ratio)),
                    metric.words()
                )
            }
            Verdict::TooFewRounds => format!(
                "{name} and {baseline}: too few rounds for a claim ({:.2}x of the {} over {})",
                ratio.median,
                metric.words(),
                ratio.rounds
            ),
        }
    }
}

/// Runs of a cell that do not count, for which metrics, and why. Subjects with the same numbers and
/// reasons share a sentence.
fn excluded(cell: &Cell) -> Vec<String> {
    let mut groups: Vec<(Vec<Exclusion>, usize, Vec<&str>)> = Vec::new();
    for measured in cell.subjects.iter().filter(|measured| measured.excluded > 0) {
        // Older files have only the reasons of each run.
        let found = match measured.exclusions.as_slice() {
            [] => by_kind(&measured.runs),
            exclusions => exclusions.to_vec(),
        };
        let runs = measured.runs.len();
        match groups.iter_mut().find(|group| group.0 == found && group.1 == runs) {
            Some((_, _, names)) => names.push(&measured.name),
            None => groups.push((found, runs, vec![&measured.name])),
        }
    }
    let sentences = |(found, runs, names): (Vec<Exclusion>, usize, Vec<&str>)| {
        let names = match names.len() {
            all if all > 1 && all == cell.subjects.len() => "each subject".to_owned(),
            _ => names.join(", "),
        };
        let sentence = move |found: Exclusion| exclusion(&found, runs, &names);
        found.into_iter().map(sentence)
    };
    groups.into_iter().flat_map(sentences).collect()
}

/// `throughput and latency of mio: 2 of 8 runs do not count (disturbed: ...)`.
fn exclusion(exclusion: &Exclusion, runs: usize, names: &str) -> String {
    let spared = |metric: &Metric| metric.is_cpu_time() && !exclusion.metrics.contains(metric);
    let what = match Metric::ALL.iter().any(spared) {
        true => "throughput and latency of ",
        false => "",
    };
    let count = exclusion.runs;
    let verb = if count == 1 { "does" } else { "do" };
    text::printable(&format!(
        "{what}{names}: {count} of {runs} runs {verb} not count ({})",
        exclusion.example
    ))
}

/// `0.87x [0.84, 0.90]`, with a number of decimals.
pub(crate) fn interval(ratio: &Ratio, decimals: usize) -> String {
    let Ratio { median, low, high, .. } = ratio;
    format!("{median:.decimals$}x [{low:.decimals$}, {high:.decimals$}]")
}

/// Two decimals, or three where two would hide the interval or a claim.
pub(crate) fn decimals(ratio: &Ratio) -> usize {
    let Ratio { low, high, .. } = ratio;
    let ends = [format!("{low:.2}"), format!("{high:.2}")];
    let hides =
        low < high && ends[0] == ends[1] || ratio.claims() && ends.contains(&"1.00".to_owned());
    if hides { 3 } else { 2 }
}

/// The largest difference that the interval does not exclude, as a share.
fn hidden(ratio: &Ratio) -> f64 {
    (1.0 / ratio.low).max(ratio.high) - 1.0
}

/// Rounded up, as it is a bound: `1.8 %`, `12 %`; at least `0.1 %`.
fn percent(share: f64) -> String {
    // The rounding error of a ratio is not a tenth of a percent.
    let percent = (share * 100.0 - 1e-9).max(0.1);
    if percent <= 9.9 {
        format!("{:.1} %", (percent * 10.0).ceil() / 10.0)
    } else {
        format!("{:.0} %", percent.ceil())
    }
}

#[cfg(test)]
mod tests {
    use super::{decimals, hidden, percent};
    use crate::statistics::{Ratio, Verdict};

    fn ratio(median: f64, low: f64, high: f64) -> Ratio {
        let verdict = if high < 1.0 { Verdict::Lower } else { Verdict::NoDifference };
        let (confidence, rounds, p_signed_rank) = (0.99, 8, 0.5);
        Ratio { median, low, high, confidence, rounds, p_signed_rank, verdict }
    }

    fn shown(ratio: &Ratio) -> String {
        super::interval(ratio, decimals(ratio))
    }

    #[test]
    fn decimals_are_two_unless_they_hide_something() {
        assert_eq!(shown(&ratio(0.871, 0.844, 0.899)), "0.87x [0.84, 0.90]");
        assert_eq!(shown(&ratio(0.99, 0.983, 0.9961)), "0.990x [0.983, 0.996]");
        assert_eq!(shown(&ratio(1.001, 0.9989, 1.0021)), "1.001x [0.999, 1.002]");
        assert_eq!(shown(&ratio(1.001, 0.9911, 1.0021)), "1.00x [0.99, 1.00]");
        assert_eq!(shown(&ratio(1.0, 1.0, 1.0)), "1.00x [1.00, 1.00]");
        assert_eq!(shown(&ratio(12.0, 9.0, 14.5)), "12.00x [9.00, 14.50]");
    }

    #[test]
    fn hidden_difference_is_rounded_up() {
        assert_eq!(percent(hidden(&ratio(1.0, 0.98, 1.01))), "2.1 %");
        assert_eq!(percent(hidden(&ratio(1.0, 1.0, 1.25))), "25 %");
        assert_eq!(percent(hidden(&ratio(1.0, 0.9, 1.0))), "12 %");
        assert_eq!(percent(0.0), "0.1 %");
        assert_eq!(percent(0.0991), "10 %");
    }
}
