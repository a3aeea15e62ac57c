//! `loadgen report -o page.html`, and the files that a comparison writes.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use crate::harness::{Finished, loadgen, run};

/// Runs the command in a directory.
fn run_in(directory: &Path, args: &[&str]) -> Finished {
    Finished::of(loadgen(args).current_dir(directory).output().expect("the command starts"))
}

const COMPARE: [&str; 8] =
    ["compare", "blocking", "--aa", "--rounds=1", "-c2", "-d50ms", "-w10ms", "--seed=1"];

/// A short comparison with more options.
fn compare_in(directory: &Path, options: &[&str]) -> Finished {
    run_in(directory, &[&COMPARE, options].concat())
}

#[test]
fn comparison_writes_only_the_file_asked_for() {
    let here = tempdir().unwrap();
    fs::create_dir_all(here.path().join("results/runs")).unwrap();
    let finished = compare_in(here.path(), &[]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.stderr.contains("-o FILE keeps"), "{finished:#?}");
    assert_eq!(fs::read_dir(here.path().join("results/runs")).unwrap().count(), 0);
    let finished = compare_in(here.path(), &["-o", "there.json"]);
    assert_eq!(finished.stderr, "wrote there.json\n", "{finished:#?}");
    let mut names: Vec<_> =
        fs::read_dir(here.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["results", "there.json"]);
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

    run(&["report", &one, "-o", &page]).assert_complains(2, "page.html: file exists");
    assert_eq!(run(&["report", &one, "-o", &page, "--force"]).code, Some(0));
    run(&["report", &one, "-o", &one, "--force"]).assert_complains(2, ".html");
    run(&["report", &file("absent.json"), "-o", &file("p.html")])
        .assert_complains(1, "absent.json");
    assert!(!here.path().join("p.html").exists());
}
