//! Scenario scripts: what a group of members comes to, step by step, for people to read. Each `.txt`
//! beside this file is run; what its commands print must be what stands below their `----`.
//!
//! `UPDATE_SCRIPTS=1 cargo test -p tests --test scripts` writes what was printed into the files; look
//! at the difference before believing it. `script` reads and writes the files, `world` runs the
//! commands, which it lists.

mod script;
mod world;

use script::Script;
use std::path::{Path, PathBuf};
use world::World;

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let files = std::fs::read_dir(folder).expect("the scripts lie beside this file");
    let paths = files.map(|file| file.expect("readable").path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    paths.sort();
    paths
}

/// Runs a script, and returns where it does not come out as written.
fn run(name: &str, script: &mut Script) -> Result<(), String> {
    let mut world = World::default();
    for block in &mut script.blocks {
        let mut printed = Vec::new();
        for (line, command) in &block.commands {
            let outcome = world.run(command).map_err(|error| format!("{name}:{line}: {error}"))?;
            printed.extend(outcome);
        }
        block.printed = printed;
    }
    Ok(())
}

#[test]
fn every_script_comes_out_as_it_is_written() {
    let paths = scripts();
    assert!(paths.len() >= 7, "{paths:?}");
    let is_update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    let mut failures = Vec::new();
    for path in paths {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("readable");
        let outcome = Script::parse(&text)
            .map_err(|error| format!("{name}:{error}"))
            .and_then(|mut script| run(&name, &mut script).map(|()| script));
        match outcome {
            Err(error) => failures.push(error),
            Ok(script) if is_update => {
                std::fs::write(&path, script.text()).expect("writable");
            }
            Ok(script) => failures.extend(script.differences(&name)),
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

#[test]
fn a_wrong_command_is_named_with_its_line() {
    let mut script =
        Script::parse("# three\nnodes 3\n\npropose 1\ndance 2\n").expect("well formed");
    let error = run("some.txt", &mut script).expect_err("nobody can dance");
    assert_eq!(error, "some.txt:4: member 1 does not lead");
    let mut script = Script::parse("nodes 3\ndance 2\n").expect("well formed");
    let error = run("some.txt", &mut script).expect_err("nobody can dance");
    assert!(error.starts_with("some.txt:2: no command \"dance 2\""), "{error}");
}

#[test]
fn what_comes_out_otherwise_is_shown_and_can_be_written_back() {
    let text = "# a comment\nnodes 1\nstate\n----\n1 leader\n\n# the end\n";
    let mut script = Script::parse(text).expect("well formed");
    run("some.txt", &mut script).expect("no error");
    let differences = script.differences("some.txt");
    assert_eq!(differences.len(), 1);
    assert!(differences[0].starts_with("some.txt:2: "), "{differences:?}");
    let updated = script.text();
    assert_eq!(updated.replace(&script.blocks[0].printed.join("\n"), "1 leader"), text);
    let mut script = Script::parse(&updated).expect("well formed");
    run("some.txt", &mut script).expect("no error");
    assert!(script.differences("some.txt").is_empty());
}
