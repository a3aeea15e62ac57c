//! The page: what writes it, where to, and what it never overwrites.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::tempdir;

use crate::harness::{Finished, loadgen, run};

/// Runs the command in a directory.
fn run_in(directory: &Path, args: &[&str]) -> Finished {
    Finished::of(loadgen(args).current_dir(directory).output().expect("the command starts"))
}

const COMPARE: [&str; 8] =
    ["compare", "blocking", "--aa", "--rounds=1", "-c2", "-d50ms", "-w10ms", "--seed=1"];

/// A comparison that is over in a moment, with other options.
fn compare_in(directory: &Path, options: &[&str]) -> Finished {
    run_in(directory, &[&COMPARE, options].concat())
}

fn with_extension(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn compare_writes_record_and_page() {
    let here = tempdir().unwrap();
    let finished = compare_in(here.path(), &[]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let (records, pages) =
        (with_extension(here.path(), "json"), with_extension(here.path(), "html"));
    assert_eq!((records.len(), pages.len()), (1, 1));
    assert_eq!(records[0].with_extension("html"), pages[0]);
    let page = fs::read_to_string(&pages[0]).unwrap();
    assert!(page.contains("blocking-2 against blocking"), "{page}");
    assert_eq!(finished.stderr.matches("wrote ").count(), 2, "{finished:#?}");

    // Where records have a place, that is it.
    let runs = here.path().join("results/runs");
    fs::create_dir_all(&runs).unwrap();
    assert_eq!(compare_in(here.path(), &[]).code, Some(0));
    assert_eq!((with_extension(&runs, "json").len(), with_extension(&runs, "html").len()), (1, 1));
    assert_eq!(with_extension(here.path(), "json"), records);
}

#[test]
fn compare_no_output_writes_no_file() {
    for option in ["--no-output", "--json"] {
        let here = tempdir().unwrap();
        assert_eq!(compare_in(here.path(), &[option]).code, Some(0));
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0, "{option}");
    }
    let here = tempdir().unwrap();
    let twice = compare_in(here.path(), &["--no-output", "-o", "there.json"]);
    twice.assert_complains(2, "cannot be used with");
}

#[test]
fn compare_checks_output_paths_first() {
    let here = tempdir().unwrap();
    fs::write(here.path().join("there.html"), "somebody's").unwrap();
    compare_in(here.path(), &["-o", "there.json"]).assert_complains(2, "there.html: exists");
    compare_in(here.path(), &["-o", "other.html"]).assert_complains(2, "not the record's");
    assert_eq!(fs::read_to_string(here.path().join("there.html")).unwrap(), "somebody's");
}

#[test]
fn report_draws_several_documents_into_one_page() {
    let here = tempdir().unwrap();
    let file = |name: &str| here.path().join(name).to_str().unwrap().to_owned();
    let (one, other, page) = (file("run.json"), file("compared.json"), file("page.html"));
    let measured = run(&["--conns=2", "-d50ms", "-w0s", "--no-floor", "-o", &one]);
    measured.assert_measured();
    assert_eq!(compare_in(here.path(), &["-o", &other]).code, Some(0));

    let drawn = run(&["report", &one, &other, "-o", &page]);
    assert_eq!((drawn.code, drawn.stdout.as_str()), (Some(0), ""), "{drawn:#?}");
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("1 comparison, 1 run") && text.contains("<svg"), "{text}");

    run(&["report", &one, "-o", &page]).assert_complains(1, "page.html: exists");
    assert_eq!(run(&["report", &one, "-o", &page, "--force"]).code, Some(0));
    run(&["report", &one, "-o", &one, "--force"]).assert_complains(2, ".html");
    run(&["report", &file("absent.json"), "-o", &file("p.html")])
        .assert_complains(1, "absent.json");
    assert!(!here.path().join("p.html").exists());
}
