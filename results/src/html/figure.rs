//! A chart: caption, drawing, legend, data.

use super::escape;
use super::table::Table;

/// Width of every drawing in its own units; text in it is 13 of them high.
pub(crate) const WIDTH: f64 = 460.0;

/// A chart.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) title: String,
    /// Description of the drawing for readers who cannot see it.
    pub(crate) description: String,
    pub(crate) height: f64,
    /// Attributes of the drawing, for the script.
    pub(crate) attributes: String,
    /// Content of the `<svg>`.
    pub(crate) drawing: String,
    /// Names of the series, in the order of their styles; empty where rows name them.
    pub(crate) legend: Vec<Option<String>>,
    /// True if the series are percentiles.
    pub(crate) percentiles: bool,
    /// Explanation.
    pub(crate) note: String,
    /// Values drawn.
    pub(crate) data: Table,
}

impl Figure {
    /// The chart, with `id` for its parts to refer to each other by.
    pub(crate) fn html(&self, id: &str) -> String {
        let (title, description) = (escape(&self.title), escape(&self.description));
        let Figure { height, attributes, drawing, .. } = self;
        let mut html = format!(
            "<figure class=\"chart\"><figcaption>{title}</figcaption>\
             <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}t {id}d\" \
             {attributes}><title id=\"{id}t\">{title}</title><desc id=\"{id}d\">{description}\
             </desc>{drawing}</svg>",
            height = number(*height),
        );
        if !self.legend.is_empty() {
            html += "<ul class=\"legend\">";
            let named = |(index, name): (usize, &'_ Option<String>)| Some((index, name.clone()?));
            for (index, name) in self.legend.iter().enumerate().filter_map(named) {
                html += &format!(
                    "<li class=\"{}\" data-series=\"{index}\"><svg class=\"swatch\" \
                     viewBox=\"0 0 28 10\" aria-hidden=\"true\"><path class=\"line\" d=\"M1 5H27\"/>\
                     </svg><span>{}</span></li>",
                    style(index, self.percentiles),
                    escape(&name)
                );
            }
            html += "</ul>";
        }
        if !self.note.is_empty() {
            html += &format!("<p class=\"note\">{}</p>", escape(&self.note));
        }
        html += &self.data.behind("Data");
        html + "</figure>"
    }
}

/// Classes of a series: a colour and a pattern of dashes, either of which identifies it.
pub(crate) fn style(index: usize, percentile: bool) -> String {
    match percentile {
        true => format!("p{} d{}", index % 4, index % 7),
        false => format!("s{} d{}", index % 8, index % 7),
    }
}

/// Number for an attribute: at most one decimal, always finite.
pub(crate) fn number(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".into() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_short_and_finite() {
        for (value, text) in [(1.0, "1"), (-0.01, "0"), (2.25, "2.2"), (f64::NAN, "0")] {
            assert_eq!(number(value), text);
        }
    }
}
