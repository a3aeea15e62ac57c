//! Tables: the data behind each chart, and what is better read than drawn.

use super::escape;

/// Rows of text, the first column naming them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<T: Into<String>>(head: impl IntoIterator<Item = T>) -> Table {
        Table { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table, in a box that scrolls when it is wider than the page, and the meaning of `-`.
    pub(crate) fn html(&self) -> String {
        let mut html = String::from("<div class=\"scroll\" tabindex=\"0\"><table>");
        if !self.head.is_empty() {
            html += "<thead><tr>";
            for cell in &self.head {
                html += &format!("<th scope=\"col\">{}</th>", escape(cell));
            }
            html += "</tr></thead>";
        }
        html += "<tbody>";
        for row in &self.rows {
            html += "<tr>";
            for (index, cell) in row.iter().enumerate() {
                html += &match index {
                    0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
                    _ => format!("<td>{}</td>", escape(cell)),
                };
            }
            html += "</tr>";
        }
        let absent = self.rows.iter().flatten().any(|cell| cell == "-");
        let mark =
            if absent { "<p class=\"note\">-: not measured, or too few values</p>" } else { "" };
        html + "</tbody></table></div>" + mark
    }

    /// The table behind a line to open it with.
    pub(crate) fn behind(&self, summary: &str) -> String {
        format!("<details><summary>{}</summary>{}</details>", escape(summary), self.html())
    }
}
