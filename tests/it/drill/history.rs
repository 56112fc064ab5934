//! What the repository remembers of drills.

use super::*;

#[test]
fn the_last_drill_of_a_backup_is_listed_and_the_history_can_be_read_with_public_tools() {
    let story = Story::get();
    let mut archive = story.archive();
    drill(&archive, &[], 0);
    archive.set_tail(&rows_are("17"));
    drill(&archive, &[&story.a], 3);
    let list = json(&archive.walkeep(&["list", "--json"]).ok());
    let backups = list["repositories"][0]["backups"].as_array().expect("backups").clone();
    let of = |id: &str| backups.iter().find(|backup| backup["id"] == id).expect("a backup")["drill"].clone();
    assert_eq!(of(&story.b)["outcome"], "proved");
    assert_eq!(of(&story.a)["outcome"], "refuted");
    assert_eq!(of(&story.a)["proved"], false);
    let text = archive.walkeep(&["list"]).ok().stdout;
    assert!(text.contains(": proved)") && text.contains(": refuted)"), "{text}");
    let shown = archive.walkeep(&["show", &story.b]).ok().stdout;
    assert!(shown.contains("last drill"), "{shown}");

    let mut objects = repo::files(archive.root());
    objects.retain(|path| path.ends_with("drill/history"));
    assert_eq!(objects.len(), 1, "{objects:?}");
    let history: Value = serde_json::from_str(&live::content(&objects[0])).expect("JSON");
    let drills = history["drills"].as_array().expect("drills");
    assert_eq!(drills.len(), 2);
    assert_eq!(drills[0]["backup"], story.b.as_str());
    // One that is damaged takes nothing away but the past.
    damage(&objects[0], Damage::Flip(-9));
    archive.walkeep(&["list"]).ok();
    archive.set_tail("");
    drill(&archive, &[], 0);
    let history: Value = serde_json::from_str(&live::content(&objects[0])).expect("JSON");
    assert_eq!(history["drills"].as_array().expect("drills").len(), 1);
}

#[test]
fn a_repository_that_cannot_be_written_is_drilled_all_the_same() {
    let story = Story::get();
    let archive = story.archive();
    let run = |mode: &str| Run::new("chmod").args(["-R", mode]).arg(archive.root()).go().ok();
    run("a-w");
    let scratch = Scratch::new();
    let outcome = drilling(&archive, scratch.path(), &[]).go().ok();
    run("u+w");
    assert!(outcome.stderr.contains("remember the drill"), "{outcome}");
}

#[test]
fn the_estimate_of_a_restore_comes_from_the_last_drill() {
    let story = Story::get();
    let archive = story.archive();
    let to = Scratch::new();
    let dry = || json(&live::restoring(&archive, &to.join("data"), &["--dry-run", "--json"]).go().ok());
    assert_eq!(dry()["estimate"], Value::Null);
    drill(&archive, &[], 0);
    let report = dry();
    assert!(report["estimate"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report:#}");
}
