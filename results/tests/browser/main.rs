//! The page in a real browser, with and without its script.
//!
//! Without Chromium it is skipped with a message, or fails if `LOCKSTEP_REQUIRE` names `chromium`.
//! Screenshots are left in the target directory.

mod devtools;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lockstep_results::report;
use lockstep_results::{Stored, store};
use serde_json::{Value, json};

use devtools::Browser;

#[test]
fn page_reacts_to_pointer_and_keys() {
    let Some(program) = devtools::find() else { return skip() };
    let directory = tempfile::tempdir().unwrap();
    let page = report::page(&documents());
    let charts = page.matches("<figure class=\"chart\">").count();
    assert!(charts >= 12, "{charts}");
    let file = directory.path().join("report.html");
    fs::write(&file, page).unwrap();

    let mut browser = Browser::start(&program);
    browser.open(&file);
    assert_eq!(browser.evaluate("document.querySelectorAll('svg[role=img]').length"), charts);
    assert_eq!(browser.evaluate("document.documentElement.className"), "scripted");
    hostile_names_have_no_effect(&mut browser);
    pointer_shows_values(&mut browser);
    drag_zooms_and_button_resets(&mut browser);
    series_can_be_switched_off(&mut browser);
    keys_move_along_a_line(&mut browser);
    page_fits_a_phone(&mut browser);
    page_is_dark_if_preferred(&mut browser);
    assert_eq!(browser.complaints(), [""; 0]);

    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    browser.open(&file);
    every_chart_has_a_size(&mut browser, charts);
    assert_eq!(browser.complaints(), [""; 0]);
}

fn skip() {
    writeln!(io::stderr(), "SKIPPED: chromium: not found").expect("stderr can be written");
    let required = std::env::var("LOCKSTEP_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == "chromium"), "chromium is required here");
}

/// Stored runs; one of them has intervals and a name that is markup.
fn documents() -> Vec<(String, Stored)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("runs");
    let mut files: Vec<PathBuf> = (fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    // The first four: a comparison and three runs.
    let mut documents = Vec::new();
    for file in files {
        match store::read(&file).unwrap() {
            document if documents.len() < 4 => {
                documents.push((file.display().to_string(), document))
            }
            _ => break,
        }
    }
    let run = documents.iter_mut().find_map(|(_, document)| match document {
        Stored::Run(run) => Some(run),
        _ => None,
    });
    let run = run.expect("there is a run among them");
    run.subject.name = "<img src=x onerror=\"window.hurt=1\"><script>window.hurt=1</script>".into();
    let interval = |index: u32| {
        json!({
            "start_s": index, "length_s": 1, "exchanges": 1000, "errors": 0,
            "p50_ns": 500_000, "p90_ns": 700_000, "p99_ns": 900_000 + index * 1000,
            "max_ns": 4_000_000
        })
    };
    run.intervals = serde_json::from_value((0..9).map(interval).collect()).unwrap();
    documents
}

fn hostile_names_have_no_effect(browser: &mut Browser) {
    assert_eq!(browser.evaluate("typeof window.hurt"), "undefined");
    assert_eq!(browser.evaluate("document.images.length"), 0);
    assert_eq!(browser.evaluate("document.scripts.length"), 1);
}

/// Place of the first chart of lines in the window, after scrolling to it: left, top, width,
/// height.
fn plot(browser: &mut Browser) -> [f64; 4] {
    let place = browser.evaluate(
        "(() => { const plot = document.querySelector('svg.lines .plot rect, svg.lines .frame');
           const svg = document.querySelector('svg.lines');
           svg.scrollIntoView({ block: 'center' });
           const box = svg.getBoundingClientRect(); const axis = plot.getBoundingClientRect();
           return [axis.left, box.top, axis.width, box.height]; })()",
    );
    serde_json::from_value(place).unwrap()
}

fn tip(browser: &mut Browser) -> Option<String> {
    let text = browser
        .evaluate("(tip => tip.hidden ? null : tip.textContent)(document.querySelector('#tip'))");
    text.as_str().map(str::to_owned)
}

fn labels(browser: &mut Browser) -> Vec<String> {
    let labels = browser.evaluate(
        "[...document.querySelectorAll('svg.lines')[0].querySelectorAll('.axis.x text')]
           .map(text => text.textContent)",
    );
    serde_json::from_value(labels).unwrap()
}

fn pointer_shows_values(browser: &mut Browser) {
    let [left, top, width, height] = plot(browser);
    assert_eq!(tip(browser), None);
    browser.pointer("mouseMoved", (left + width / 2.0, top + height / 2.0), false);
    let name = browser.evaluate("document.querySelector('svg.lines .series').dataset.name");
    let tip = tip(browser).expect("a box with values");
    assert!(tip.contains(name.as_str().unwrap()) && tip.contains('%'), "{tip}");
}

fn drag_zooms_and_button_resets(browser: &mut Browser) {
    let [left, top, width, height] = plot(browser);
    let before = labels(browser);
    let middle = top + height / 2.0;
    browser.pointer("mouseMoved", (left + width * 0.5, middle), false);
    browser.pointer("mousePressed", (left + width * 0.5, middle), true);
    browser.pointer("mouseMoved", (left + width * 0.7, middle), true);
    browser.pointer("mouseReleased", (left + width * 0.7, middle), false);
    let zoomed = labels(browser);
    assert!(zoomed.len() >= 2 && zoomed != before, "{zoomed:?}");
    browser.evaluate("document.querySelector('.reset:not([hidden])').click()");
    assert_eq!(labels(browser), before);
}

fn series_can_be_switched_off(browser: &mut Browser) {
    let shown = "getComputedStyle(document.querySelector('svg.lines .series')).display";
    assert_eq!(browser.evaluate(shown), "inline");
    browser.evaluate("document.querySelector('.legend [role=button]').click()");
    assert_eq!(browser.evaluate(shown), "none");
    browser.evaluate("document.querySelector('.legend [role=button]').click()");
    assert_eq!(browser.evaluate(shown), "inline");
}

fn keys_move_along_a_line(browser: &mut Browser) {
    browser.evaluate("document.querySelector('svg.lines').focus()");
    let mut seen = Vec::new();
    for _ in 0..2 {
        for kind in ["keyDown", "keyUp"] {
            let key = json!({ "type": kind, "key": "ArrowRight", "code": "ArrowRight" });
            browser.call("Input.dispatchKeyEvent", key);
        }
        seen.push(tip(browser).expect("a box with values"));
    }
    assert_ne!(seen[0], seen[1]);
}

fn page_fits_a_phone(browser: &mut Browser) {
    let phone = json!({ "width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true });
    browser.call("Emulation.setDeviceMetricsOverride", phone);
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth"), 360);
    picture(browser, "report-phone.png");
    browser.call("Emulation.clearDeviceMetricsOverride", json!({}));
}

fn page_is_dark_if_preferred(browser: &mut Browser) {
    let color = "getComputedStyle(document.body).backgroundColor";
    let light = browser.evaluate(color);
    picture(browser, "report-light.png");
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.call("Emulation.setEmulatedMedia", dark);
    assert_ne!(browser.evaluate(color), light);
    picture(browser, "report-dark.png");
}

/// Screenshot of the whole page. A blank one is a PNG of a few hundred bytes.
fn picture(browser: &mut Browser, name: &str) {
    let parameters = json!({ "format": "png", "captureBeyondViewport": true });
    let picture = browser.call("Page.captureScreenshot", parameters);
    let png = BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
    assert!(png.len() > 20_000, "{name} has {} bytes", png.len());
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), png).unwrap();
}

fn every_chart_has_a_size(browser: &mut Browser, charts: usize) {
    let document = browser.call("DOM.getDocument", json!({}));
    let all = json!({ "nodeId": document["root"]["nodeId"], "selector": "svg[role=img]" });
    let found = browser.call("DOM.querySelectorAll", all);
    let nodes: Vec<Value> = serde_json::from_value(found["nodeIds"].clone()).unwrap();
    assert_eq!(nodes.len(), charts);
    for node in nodes {
        let size = browser.call("DOM.getBoxModel", json!({ "nodeId": node }));
        let model = &size["model"];
        let large = |side: &str| model[side].as_f64() > Some(40.0);
        assert!(large("width") && large("height"), "{model}");
    }
}
