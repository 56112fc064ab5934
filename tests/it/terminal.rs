//! Names and labels that hold what a terminal obeys: text output shows it escaped, JSON as it is.

use crate::support::live::{self, Live};

const HOSTILE: &str = "\u{1b}]0;owned\u{7}\rgood\u{202e}\u{9b}2J";

#[track_caller]
fn is_harmless(text: &str) {
    let obeyed = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!text.contains(obeyed), "{text:?}");
}

#[test]
fn a_label_and_a_database_cannot_drive_the_terminal() {
    let live = Live::new();
    live.server.psql(&format!("create database \"{HOSTILE}\""));
    let label = format!("ticket={HOSTILE}\nrestorable: for ever");
    let backup = live.backing_up().args(["--label", &label]).go().ok();
    is_harmless(&backup.stderr);
    let id = live::records(live.archive.root()).remove(0);
    for arguments in [vec!["list"], vec!["show", &id], vec!["status"], vec!["prune", "--dry-run"]] {
        let outcome = live.archive.walkeep(&arguments);
        is_harmless(&outcome.stdout);
        is_harmless(&outcome.stderr);
        assert!(!outcome.stdout.lines().any(|line| line.starts_with("restorable: for ever")), "{outcome}");
    }
    let shown = live.archive.walkeep(&["show", &id]).ok().stdout;
    assert!(shown.contains(r"\u{1b}]0;owned\u{7}\rgood\u{202e}\u{9b}2J\nrestorable"), "{shown}");
    let json = live::json(&live.archive.walkeep(&["show", &id, "--json"]).ok());
    assert_eq!(json["labels"]["ticket"], label["ticket=".len()..], "{json}");
    let to = live.archive.scratch().join("restored");
    let to = to.to_str().expect("a path");
    let outcome = live.archive.walkeep(&["restore", "--to", to, "--database", "absent"]);
    is_harmless(&outcome.is(1).stderr);
}
