//! What the compiler cannot check of the house: that docs and code name the same things.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the workspace") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Words with underscores that stand between two `mark`s.
fn names(text: &str, mark: char) -> BTreeSet<String> {
    let is_name = |word: &&str| {
        word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    text.split(mark).skip(1).step_by(2).filter(is_name).map(str::to_owned).collect()
}

/// Names that assertions of the engine carry as their message.
fn asserted_names() -> BTreeSet<String> {
    let mut files = Vec::new();
    rust_files(&root().join("engine/src"), &mut files);
    let mut found = BTreeSet::new();
    for file in files {
        let text = read(&file);
        for assertion in text.split("assert").skip(1) {
            let call = assertion.split(");").next().unwrap_or_default();
            found.extend(names(call, '"'));
        }
    }
    found
}

#[test]
fn the_design_lists_every_named_invariant_and_no_other() {
    let design = read(&root().join("docs/design.md"));
    let (_, section) = design.split_once("## Invariants").expect("design.md lists them");
    let section = section.split("\n## ").next().expect("a section");
    let table: String = section.lines().filter(|line| line.starts_with('|')).collect();
    let (listed, asserted) = (names(&table, '`'), asserted_names());
    assert!(asserted.len() > 40, "{asserted:?}");
    let unlisted: Vec<_> = asserted.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(&asserted).collect();
    assert!(
        unlisted.is_empty() && unknown.is_empty(),
        "not in docs: {unlisted:?}; not in code: {unknown:?}"
    );
}

/// What stands between the fences of a module's own documentation.
fn diagrams(module: &str) -> Vec<String> {
    let text = read(&root().join("engine/src").join(module));
    let docs = text.lines().filter_map(|line| line.strip_prefix("//!"));
    let docs: Vec<&str> = docs.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    let docs = docs.join("\n");
    let fenced = docs.split("```text\n").skip(1);
    fenced.filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn the_design_draws_every_format_as_its_module_does() {
    let design = read(&root().join("docs/design.md"));
    for module in [
        "record.rs",
        "block.rs",
        "storage/format.rs",
        "wire/mod.rs",
        "queue/snapshot.rs",
        "backup/format.rs",
    ] {
        let drawn = diagrams(module);
        assert!(!drawn.is_empty(), "{module} draws its format");
        for diagram in drawn {
            assert!(
                design.contains(&diagram),
                "docs/design.md draws otherwise than {module}:\n{diagram}"
            );
        }
    }
}

#[test]
fn the_page_on_testing_names_every_suite() {
    let page = read(&root().join("docs/testing.md"));
    for folder in ["tests/tests", "node/tests", "client/tests"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder of suites") {
            let path = entry.expect("readable").path();
            let is_suite = path.extension().is_some_and(|ending| ending == "rs")
                || path.join("main.rs").exists();
            let stem = path.file_stem().expect("a name").to_string_lossy();
            let name = format!("`{folder}/{stem}");
            assert!(!is_suite || page.contains(&name), "docs/testing.md does not name {name}`");
        }
    }
}

/// The sections of the page on testing that list what is claimed where.
fn conformance_tables() -> String {
    let page = read(&root().join("docs/testing.md"));
    let (_, section) = page.split_once("\n## Conformance\n").expect("testing.md has the tables");
    let section = section.split("\n## ").next().expect("a section");
    section.lines().filter(|line| line.starts_with("| ")).map(|line| format!("{line}\n")).collect()
}

/// The source that a table means by `suite`.
fn suite_file(suite: &str) -> PathBuf {
    let tests = root().join("tests/tests");
    let places = [
        tests.join(format!("conformance/{suite}.rs")),
        tests.join(format!("{suite}.rs")),
        tests.join(format!("{suite}/main.rs")),
        root().join(format!("engine/src/raft/{suite}.rs")),
    ];
    let found = places.into_iter().find(|place| place.exists());
    found.unwrap_or_else(|| panic!("docs/testing.md names a suite {suite} that is not there"))
}

#[test]
fn every_test_in_the_conformance_tables_exists() {
    let tables = conformance_tables();
    let mut count = 0;
    for name in tables.split('`').skip(1).step_by(2) {
        if let Some((suite, test)) = name.split_once("::") {
            let text = read(&suite_file(suite));
            assert!(text.contains(&format!("fn {test}(")), "docs/testing.md names {name}");
        } else {
            assert!(root().join("tests/tests").join(name).exists(), "docs/testing.md names {name}");
        }
        count += 1;
    }
    assert!(count > 90, "{count} names");
}

#[test]
fn every_conformance_test_and_script_is_in_the_tables() {
    let tables = conformance_tables();
    let mut files = Vec::new();
    rust_files(&root().join("tests/tests/conformance"), &mut files);
    for file in files {
        let suite = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = read(&file);
        for test in text.split("#[test]").skip(1) {
            let name = test.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            let listed = format!("`{suite}::{}`", name.expect("a function follows"));
            assert!(tables.contains(&listed), "docs/testing.md does not list {listed}");
        }
    }
    for entry in std::fs::read_dir(root().join("tests/tests/scripts")).expect("the scripts") {
        let name = entry.expect("readable").file_name().to_string_lossy().into_owned();
        let listed = format!("`scripts/{name}`");
        assert!(!name.ends_with(".txt") || tables.contains(&listed), "{listed} is not listed");
    }
}

#[test]
fn no_page_of_the_docs_links_to_a_file_that_is_not_there() {
    let mut pages: Vec<PathBuf> = vec![root().join("README.md")];
    let docs = std::fs::read_dir(root().join("docs")).expect("docs");
    pages.extend(docs.map(|entry| entry.expect("readable").path()));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = read(page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let target = page.parent().expect("a folder").join(file);
            assert!(target.exists(), "{} links to {link}", page.display());
        }
    }
}
