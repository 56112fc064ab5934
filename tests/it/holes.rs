//! Missing WAL after somebody has dealt with it, repositories that are away, and backups that a
//! verification found damaged: alarms that mean something and end.

use crate::support::live::{self, Live, json};
use crate::support::*;
use serde_json::Value;

/// Loses one segment behind everything that is archived so far; returns its name.
fn lose_segment(live: &Live) -> String {
    live.flush_wal();
    let lost = live.flush_wal();
    live.flush_wal();
    std::fs::remove_file(live.archive.object(&lost)).expect("lose a segment");
    lost
}

fn listed(archive: &Archive, status: i32) -> Value {
    json(&archive.walkeep(&["list", "--json"]).is(status))["repositories"][0].clone()
}

/// The finding of this name.
fn finding(archive: &Archive, status: i32, name: &str) -> (String, String, String) {
    let report = json(&archive.walkeep(&["status", "--json"]).is(status));
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["name"] == name && check["light"] != "green");
    let found = found.or_else(|| checks.iter().find(|check| check["name"] == name));
    let found = found.unwrap_or_else(|| panic!("no {name} in {report:#}"));
    let hint = found["hint"].as_str().unwrap_or_default().to_owned();
    (live::text(found, "light"), live::text(found, "detail"), hint)
}

/// The WAL that a backup needs.
fn show_wal(live: &Live, id: &str) -> Value {
    json(&live.archive.walkeep(&["show", id, "--json"]).ok())["wal"].clone()
}

#[test]
fn a_hole_with_a_backup_behind_it_is_no_alarm_and_says_when_it_ends() {
    let mut live = Live::new();
    let before = live.backup_id();
    let lost = lose_segment(&live);
    assert_eq!(listed(&live.archive, 3)["wal"]["holes"][0]["state"], "open");
    let (light, detail, hint) = finding(&live.archive, 3, "gaps");
    assert!(light == "red" && detail.contains(&lost) && hint.contains("walkeep backup"), "{detail}; {hint}");
    live.archive.walkeep(&["verify"]).is(3);
    // What the hint says.
    let behind = live.backup_id();
    live.flush_wal();
    let list = listed(&live.archive, 0);
    assert_eq!(list["wal"]["gaps"][0]["first"], *lost, "{list:#}");
    let hole = &list["wal"]["holes"][0];
    assert!(
        hole["state"] == "passed" && hole["passed_by"] == *behind && hole["until"] == *before,
        "{hole:#}"
    );
    assert!(hole["from"].is_string() && hole["to"].is_string() && hole["ends"].is_null(), "{hole:#}");
    let text = live.archive.walkeep(&["list"]).ok().stdout;
    assert!(text.contains(&format!("missing: {lost} to {lost}: moments from ")), "{text}");
    let (light, detail, hint) = finding(&live.archive, 0, "gaps");
    assert_eq!(light, "yellow", "{detail}");
    assert!(detail.contains(&format!("ends when backup {before} is removed")), "{detail}");
    assert!(hint.contains(&format!("walkeep prune --remove {before}")), "{hint}");
    let verify = json(&live.archive.walkeep(&["verify", "--json"]).ok());
    assert!(verify["notes"].to_string().contains(&lost), "{verify:#}");
    // WAL that is lost behind the back of the last backup is a problem until the next one.
    let another = live.archive.stored().into_iter().map(|(name, _)| name).find(|name| {
        name.len() == 24 && *name > lost && *name < live::text(&show_wal(&live, &behind), "first")
    });
    let another = another.expect("a segment between the hole and the backup");
    let object = live.archive.object(&another);
    let content = read(&object);
    std::fs::remove_file(&object).expect("lose another");
    live.archive.walkeep(&["verify"]).is(3);
    assert_eq!(finding(&live.archive, 3, "gaps").0, "red");
    scratch::write(&object, content);
    live.archive.walkeep(&["verify"]).ok();
    // A rule that removes the backup before it gives a date.
    live.archive.set_retention(0, &["keep_last = 2"]);
    let (_, detail, _) = finding(&live.archive, 0, "gaps");
    assert!(detail.contains("is removed, about 2"), "{detail}");
    // A second hole is not covered by the first one's backup.
    lose_segment(&live);
    let (light, ..) = finding(&live.archive, 3, "gaps");
    assert_eq!(light, "red");
    live.archive.walkeep(&["verify"]).is(3);
    live.backup();
    live.archive.walkeep(&["verify"]).ok();
    // And it ends as the hint says.
    live.archive.walkeep(&["prune", "--remove", &before, "--remove", &behind]).ok();
    assert_eq!(listed(&live.archive, 0)["wal"]["gaps"], serde_json::json!([]));
    assert_eq!(finding(&live.archive, 0, "gaps").0, "green");
}

#[test]
fn a_damaged_backup_behind_a_hole_does_not_pass_it() {
    let live = Live::new();
    live.backup();
    lose_segment(&live);
    live.server.psql("create table t as select generate_series(1, 20000) i");
    let behind = live.backup_id();
    live.flush_wal();
    listed(&live.archive, 0);
    let pack = live::parts_of(live.archive.root(), &behind, "pack").remove(0);
    repo::damage(&pack, repo::Damage::Truncate(-10));
    live.archive.walkeep(&["verify"]).is(3);
    assert_eq!(listed(&live.archive, 3)["wal"]["holes"][0]["state"], "open");
    assert_eq!(finding(&live.archive, 3, "gaps").0, "red");
}

/// A promotion by mistake archived some WAL, with a hole in it, and is gone; the server lives on.
#[test]
fn a_hole_on_a_branch_that_no_server_continues_is_a_note() {
    let live = Live::new();
    live.backup();
    live.flush_wal();
    let zombie = live.restore(&["--as-primary"]).recovered();
    let names: Vec<String> = (0..3)
        .map(|_| {
            zombie.psql("select pg_create_restore_point('more')");
            let name = zombie.switch_wal();
            zombie.await_archived(&name);
            name
        })
        .collect();
    zombie.stop(Stop::Immediate);
    live.flush_wal();
    live.backup();
    let lost = live.archive.object(&names[1]);
    std::fs::remove_file(lost).expect("lose a segment");
    let list = listed(&live.archive, 0);
    assert_eq!(list["wal"]["holes"][0]["state"], "dead", "{list:#}");
    let (light, detail, _) = finding(&live.archive, 0, "gaps");
    assert!(light == "green" && detail.contains("which no server continues"), "{light}: {detail}");
    let verify = json(&live.archive.walkeep(&["verify", "--json"]).ok());
    assert!(verify["notes"].to_string().contains(&names[1]), "{verify:#}");
}

#[test]
fn an_optional_repository_that_is_away_is_a_warning_of_every_verb_that_reads() {
    let (mut live, roots) = Live::with_two(|_| {});
    live.backup();
    live.flush_wal();
    live.archive.set_retention(0, &["keep_last = 1"]);
    live.archive.set_retention(1, &["keep_last = 1"]);
    let away = roots[1].with_extension("away");
    std::fs::rename(&roots[1], &away).expect("take it away");
    for arguments in [&["list"][..], &["show", "latest"], &["prune"], &["verify"], &["verify", "--quick"]] {
        let outcome = live.archive.walkeep(arguments).ok();
        if arguments[0] != "show" {
            assert!(outcome.stderr.contains("optional repository second"), "{arguments:?}\n{outcome}");
        }
        assert!(!outcome.stdout.is_empty(), "{outcome}");
        let named = [arguments, &["--repository", "second"]].concat();
        assert_ne!(live.archive.walkeep(&named).code(), Some(0), "{named:?}");
    }
    let list = json(&live.archive.walkeep(&["list", "--json"]).ok());
    assert_eq!(list["repositories"][1]["backups"], serde_json::json!([]));
    assert!(list["repositories"][1]["error"].is_string(), "{list:#}");
    // One that is required is a failure, and the other one is shown all the same.
    std::fs::rename(&away, &roots[1]).expect("bring it back");
    std::fs::rename(&roots[0], &away).expect("take the other away");
    let outcome = live.archive.walkeep(&["list"]).is(1).told();
    assert!(outcome.stdout.contains("repository second"), "{outcome}");
    std::fs::rename(&away, &roots[0]).expect("bring it back");
}

#[test]
fn a_backup_that_a_verification_found_damaged_is_shown_so_and_passed_over() {
    let live = Live::new();
    let good = live.backup_id();
    live.server.psql("create table t as select generate_series(1, 20000) i");
    let bad = live.backup_id();
    live.flush_wal();
    let pack = live::parts_of(live.archive.root(), &bad, "pack").remove(0);
    repo::damage(&pack, repo::Damage::Truncate(-10));
    let dry = |more: &[&str]| {
        let to = live.archive.scratch().join("new");
        live::restoring(&live.archive, &to, &[&["--dry-run", "--json"], more].concat()).go()
    };
    live.archive.walkeep(&["verify"]).is(3);
    let list = listed(&live.archive, 0);
    let states: Vec<&str> = list["backups"]
        .as_array()
        .expect("backups")
        .iter()
        .filter_map(|backup| backup["state"].as_str())
        .collect();
    assert_eq!(states, ["complete", "damaged"], "{list:#}");
    let shown = live.archive.walkeep(&["show", &bad]).ok().stdout;
    assert!(shown.contains("state                damaged"), "{shown}");
    assert_eq!(json(&dry(&[]).ok())["backup"], *good);
    assert!(dry(&[&bad]).stderr.contains("a verification found damage"));
}
