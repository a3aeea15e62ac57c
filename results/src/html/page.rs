//! The page around the sections.

use super::escape::escape;
use super::figure::Figure;

const STYLE: &str = include_str!("report.css");

const SCRIPT: &str = include_str!("report.js");

/// The script's hash, base64 of SHA-256, by which it alone is allowed to run: should a name from a
/// file ever get past the escaping, it could still do nothing.
const SCRIPT_HASH: &str = "DmeM7L2meRPcYdxs7tw7qMavLa+TV89Yro+P8x4W8cQ=";

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
    use std::process::Command;

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::{SCRIPT, SCRIPT_HASH, STYLE};

    #[test]
    fn the_hash_is_the_scripts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("script");
        std::fs::write(&file, format!("\n{SCRIPT}")).unwrap();
        let output = Command::new("sha256sum").arg(&file).output().unwrap();
        let digits = String::from_utf8(output.stdout).unwrap();
        let bytes: Vec<u8> = (0..32)
            .map(|index| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).unwrap())
            .collect();
        assert_eq!(BASE64_STANDARD.encode(bytes), SCRIPT_HASH, "the constant wants this");
    }

    #[test]
    fn style_and_script_stay_in_their_elements() {
        assert!(!STYLE.contains("</") && !STYLE.contains("url(") && !STYLE.contains("@import"));
        assert!(
            !SCRIPT.contains("</") && !SCRIPT.contains("<!--") && !SCRIPT.contains("innerHTML")
        );
    }
}
