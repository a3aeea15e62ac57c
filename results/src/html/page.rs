//! The page around the sections.

use super::escape;
use super::figure::Figure;

const STYLE: &str = include_str!("report.css");

const SCRIPT: &str = include_str!("report.js");

/// SHA-256 of the script in base64: it alone may run. A name from a file that got past the escaping
/// could still do nothing.
const SCRIPT_HASH: &str = "5lxAexym2xike/BsXB1Vf2A2vcnToxM6Y1O4SypqhYs=";

/// A page under construction.
#[derive(Debug, Default)]
pub struct Page {
    body: String,
    figures: usize,
}

impl Page {
    /// Adds what is HTML already.
    pub(crate) fn push(&mut self, html: &str) {
        self.body += html;
    }

    /// Adds a paragraph of text.
    pub(crate) fn paragraph(&mut self, class: &str, text: &str) {
        self.body += &format!("<p class=\"{class}\">{}</p>", escape(text));
    }

    /// Adds lines of text in columns.
    pub(crate) fn preformatted(&mut self, text: &str) {
        let lines: Vec<String> = text.lines().map(escape).collect();
        self.body += &format!("<pre tabindex=\"0\">{}</pre>", lines.join("\n"));
    }

    /// Adds a list of texts, or nothing if there are none.
    pub(crate) fn list(&mut self, class: &str, items: &[String]) {
        if !items.is_empty() {
            let items: String =
                items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
            self.body += &format!("<ul class=\"{class}\">{items}</ul>");
        }
    }

    /// Adds charts, as many beside each other as there is room.
    pub(crate) fn charts(&mut self, figures: impl IntoIterator<Item = Figure>) {
        self.body += "<div class=\"charts\">";
        for figure in figures {
            self.figures += 1;
            self.body += &figure.html(&format!("f{}", self.figures));
        }
        self.body += "</div>";
    }

    /// The whole file.
    pub(crate) fn finish(self, title: &str) -> String {
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'unsafe-inline'; script-src 'sha256-{SCRIPT_HASH}'; base-uri 'none'; \
             form-action 'none'\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>{}</title>\n<style>\n{STYLE}</style></head>\n<body><main>{}</main>\n\
             <script>\n{SCRIPT}</script></body></html>\n",
            escape(title),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use sha2::{Digest, Sha256};

    use super::{SCRIPT, SCRIPT_HASH, STYLE};

    #[test]
    fn script_hash_is_up_to_date() {
        let hash = Sha256::digest(format!("\n{SCRIPT}"));
        assert_eq!(BASE64_STANDARD.encode(hash), SCRIPT_HASH, "the new value of SCRIPT_HASH");
    }

    #[test]
    fn style_and_script_stay_in_their_elements() {
        assert!(!STYLE.contains("</") && !STYLE.contains("url(") && !STYLE.contains("@import"));
        assert!(
            !SCRIPT.contains("</") && !SCRIPT.contains("<!--") && !SCRIPT.contains("innerHTML")
        );
    }
}
