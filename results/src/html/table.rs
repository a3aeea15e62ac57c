//! Tables: the data behind each chart, and what is better read than drawn.

use super::escape::escape;

/// Rows of text, the first column naming them.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<T: Into<String>>(head: impl IntoIterator<Item = T>) -> Table {
        Table { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table, in a box that scrolls when it is wider than the page.
    pub(super) fn html(&self) -> String {
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
        html + "</tbody></table></div>"
    }

    /// The table behind a line to open it with.
    pub(super) fn behind(&self, summary: &str) -> String {
        format!("<details><summary>{}</summary>{}</details>", escape(summary), self.html())
    }
}
