//! Files that the documents name, and the form of comments.

use crate::{files, read, root};

#[test]
fn links_lead_to_files() {
    for document in files("md") {
        let text = read(&document);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.is_empty() && !target.starts_with("http")) {
            let path = root().join(&document).with_file_name("").join(target);
            assert!(path.exists(), "{} links to {target}", document.display());
        }
    }
}

/// Words in backticks that contain a slash and look like a path are a path, or the end of one.
#[test]
fn paths_in_backticks_exist() {
    let known: Vec<String> = ["rs", "md", "json", "toml", "py", "js", "css", "html"]
        .into_iter()
        .flat_map(files)
        .map(|path| format!("/{}", path.display()))
        .collect();
    for document in files("md").iter().filter(|path| !path.ends_with("CHANGELOG.md")) {
        let text = read(document);
        for quoted in text.split('`').skip(1).step_by(2).filter(|quoted| is_path(quoted)) {
            for path in expand(quoted) {
                let is_file = known.iter().any(|known| known.ends_with(&format!("/{path}")));
                let folder = format!("/{}/", path.trim_end_matches('/'));
                let is_folder = known.iter().any(|known| known.contains(&folder));
                assert!(is_file || is_folder, "{} names {path}", document.display());
            }
        }
    }
}

fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./{},".contains(c);
    let first = ["core/", "backends/", "loadgen/", "results/", "bench/", "docs/"];
    word.chars().all(plain)
        && (first.iter().any(|folder| word.starts_with(folder))
            || (word.contains('/') && word.ends_with(".rs")))
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (names, after) = rest.split_once('}').expect("braces are closed");
    names.split(',').flat_map(|name| expand(&format!("{before}{name}{after}"))).collect()
}

#[test]
fn comments_fit_100_columns() {
    for path in files("rs") {
        for (index, line) in read(&path).lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            let fits = line.chars().count() <= 100 || line.contains("://");
            assert!(fits || !is_comment, "{}:{}", path.display(), index + 1);
        }
    }
}

/// A doc comment begins with its subject or a verb. A few may begin with a question word.
#[test]
fn doc_comments_do_not_begin_with_question_words() {
    let is_question = |line: &str| {
        let text = line.trim_start();
        let text = text.strip_prefix("/// ").or(text.strip_prefix("//! ")).unwrap_or_default();
        let first = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        ["What", "Who", "Whose", "How", "Whether", "When"].contains(&first)
    };
    let count = |path| read(path).lines().filter(|line| is_question(line)).count();
    let found: usize = files("rs").into_iter().map(count).sum();
    assert!(found < 60, "{found} doc comments begin with a question word");
}
