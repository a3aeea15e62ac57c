//! Files that the documents name.

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
