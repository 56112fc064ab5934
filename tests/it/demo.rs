//! `make demo`, with the programs under test: the first thing that a newcomer sees has to work.

use crate::support::{pg, run};
use std::process::Command;

#[test]
fn the_demo_proves_what_it_says_and_leaves_nothing() {
    proves(&[]);
}

#[test]
fn the_demo_proves_the_same_out_of_a_bucket() {
    assert!(proves(&[("S3", "1")]).contains("s3://"), "there was no bucket");
}

/// Runs it with these variables; what it said.
#[track_caller]
fn proves(variables: &[(&str, &str)]) -> String {
    // Started as whoever runs the tests: the script itself becomes an ordinary user.
    let output = Command::new("timeout")
        .args(["-k", "10", "180", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo.sh")])
        .arg(run::programs())
        .env("WALKEEP_DEMO_PGBIN", pg::bin())
        .envs(variables.iter().copied())
        .output()
        .expect("start the demo");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let story = format!("{stdout}\n--- stderr\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{story}");
    assert!(stdout.contains("Proved: "), "{story}");
    let words = stdout.split_whitespace();
    let scratch = words.rev().find(|word| word.contains("walkeep-demo-")).expect("the scratch directory");
    assert!(!std::path::Path::new(scratch).exists(), "{scratch} is still there\n{story}");
    story
}

#[test]
fn the_demo_names_the_step_that_failed() {
    let scratch = crate::support::Scratch::new();
    for (name, text) in
        [("walpush", "exit 1"), ("walfetch", "exit 1"), ("walkeep", "[ $1 != check ] || exit 3")]
    {
        let program = scratch.write(name, format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("chmod");
    }
    let output = Command::new("timeout")
        .args(["-k", "10", "180", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo.sh")])
        .arg(scratch.path())
        .env("WALKEEP_DEMO_PGBIN", pg::bin())
        .output()
        .expect("start the demo");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("FAILED in step 2:"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let place =
        stdout.split_whitespace().find(|word| word.contains("walkeep-demo-")).expect("the scratch directory");
    assert!(!std::path::Path::new(place).exists(), "{place} is still there");
}
