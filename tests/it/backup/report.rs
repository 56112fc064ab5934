//! What a backup says of itself.

use super::*;

#[test]
fn the_json_of_a_backup_has_the_fields_of_the_contract() {
    let live = Live::new();
    let outcome =
        live.backing_up().args(["--label", "reason=before upgrade", "--label", "ticket=a=b"]).go().ok();
    let backup = live::json(&outcome);
    for name in
        ["id", "state", "start_time", "stop_time", "start_lsn", "stop_lsn", "system_identifier", "pg_version"]
    {
        live::text(&backup, name);
    }
    for name in ["size", "stored", "new_bytes", "files", "timeline"] {
        assert!(backup[name].as_u64().is_some_and(|n| n > 0), "{name} in {backup}");
    }
    assert_eq!(live::text(&backup, "state"), "complete");
    assert_eq!(live::text(&backup, "system_identifier"), live.server.system_identifier().to_string());
    assert_eq!(live::text(&backup, "pg_version"), live.server.psql("show server_version"));
    assert_eq!(backup["labels"], serde_json::json!({"reason": "before upgrade", "ticket": "a=b"}));
    assert_eq!(backup["pinned"], false);
    assert_eq!(backup.get("parent"), Some(&serde_json::Value::Null));
    assert!(backup["duration"].as_f64().is_some_and(|seconds| seconds > 0.0), "{backup}");
    let time = live::text(&backup, "start_time");
    assert!(time.len() == 27 && time.ends_with('Z') && &time[10..11] == "T", "{time}");
    let number =
        |name: &str| live.server.psql(&format!("select '{}'::pg_lsn - '0/0'", live::text(&backup, name)));
    assert!(
        number("start_lsn").parse::<u64>().expect("a number") < number("stop_lsn").parse().expect("a number")
    );
    // And the same is stored.
    let id = live::text(&backup, "id");
    assert_eq!(live.records(), std::slice::from_ref(&id));
    let record: serde_json::Value =
        serde_json::from_str(&live::content(&live::record_of(live.archive.root(), &id))).expect("JSON");
    assert_eq!(record["labels"], backup["labels"]);
    // The sizes are those of what is restored and of what is stored.
    let manifest = live::manifest(live.archive.root(), &id);
    let end = manifest.last().and_then(|line| line.get("end")).expect("an end");
    assert_eq!(end["bytes"], backup["size"]);
    assert_eq!(end["files"], backup["files"]);
    let stored: u64 = repo::files(live.archive.root())
        .iter()
        .filter(|path| path.to_string_lossy().contains(&format!("data/{id}/pack")))
        .map(|path| path.metadata().expect("look at a pack").len())
        .sum();
    let said = backup["stored"].as_u64().expect("a number");
    assert!(said <= stored + 1_000_000 && stored <= said + 1_000_000, "{said} and {stored}");
}

#[test]
fn a_label_that_cannot_be_kept_is_wrong_usage() {
    let live = Live::new();
    let before = live.archive.snapshot();
    for label in ["nothing", "=value", "a b=c", ""] {
        live.backing_up().args(["--label", label]).go().is(2);
    }
    assert!(live.archive.snapshot() == before);
}

#[test]
fn list_and_show_agree_with_what_was_made() {
    let live = Live::new();
    let made = live.backup();
    let id = live::text(&made, "id");
    let list = live::json(&live.archive.walkeep(&["list", "--json"]).ok());
    let repository = &list["repositories"][0];
    assert_eq!(list["cluster"], "main");
    assert_eq!(repository["backups"][0]["id"], made["id"], "{list}");
    assert_eq!(repository["wal"]["gaps"], serde_json::json!([]), "{list}");
    assert!(repository["window"]["from"].is_string(), "{list}");
    for (name, value) in repository["backups"][0].as_object().expect("an object") {
        if let Some(made) = made.get(name) {
            assert_eq!(made, value, "{name}");
        }
    }
    for name in [id.as_str(), "latest"] {
        let shown = live::json(&live.archive.walkeep(&["show", name, "--json"]).ok());
        assert_eq!(shown["id"], made["id"], "{shown}");
    }
    let before = live.archive.snapshot();
    live.archive.walkeep(&["show", "20200101T000000Z-000000"]).is(1).told().says("hint:");
    let outcome = live.archive.walkeep(&["list"]).ok();
    assert!(outcome.stdout.contains(&id), "{outcome}");
    assert!(live.archive.snapshot() == before);
}

#[test]
fn check_passes_where_backups_work_and_fails_where_they_would_not() {
    let live = Live::new();
    let good = live::json(&live.archive.walkeep(&["check", "--json"]).ok());
    assert_eq!(good["ok"], true, "{good}");
    live.server.psql("alter system set archive_command = 'true'");
    live.server.psql("select pg_reload_conf()");
    live.server.await_sql("show archive_command", "true");
    let outcome = live.archive.walkeep(&["check", "--json", "--timeout", "5s"]);
    assert!(matches!(outcome.code(), Some(1 | 3)), "{outcome}");
    let bad = live::json(&outcome);
    assert_eq!(bad["ok"], false, "{bad}");
    let checks = bad["checks"].as_array().expect("checks");
    assert!(checks.iter().any(|check| check["ok"] == false && check["hint"].is_string()), "{bad}");
}

#[test]
fn a_rate_slows_the_backup_down_and_niceness_lets_others_go_first() {
    let live = Live::new();
    let Some(strace) = Strace::new() else {
        return;
    };
    let begun = std::time::Instant::now();
    // Raised from the niceness of the suite itself, which an unprivileged process cannot lower.
    let nice = (rustix::process::getpriority_process(None).expect("the niceness") + 7).min(19).to_string();
    let run = live.backing_up().args(["--rate", "10MB", "--nice", "7"]);
    let traced = strace.trace("setpriority").go(&run);
    let backup = live::json(&traced.outcome.clone().ok());
    let least = backup["size"].as_f64().expect("a size") / 10e6 * 0.8;
    assert!(begun.elapsed().as_secs_f64() > least, "{backup}");
    assert!(
        traced.calls.iter().any(|call| call.arguments.ends_with(&format!(" {nice}"))),
        "{}",
        traced.story()
    );
    for wrong in [["--rate", "0B"], ["--rate", "fast"], ["--nice", "20"]] {
        live.backing_up().args(wrong).go().is(2);
    }
    live.restore(&[]).verified();
}
