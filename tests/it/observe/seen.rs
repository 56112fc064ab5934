//! What a real server and its repositories show.

use super::*;
use crate::support::saga::Saga;

#[test]
fn a_cluster_that_is_well_is_green_and_looking_changes_nothing() {
    let live = healthy();
    let before = live.archive.snapshot();
    let report = status_is(&live.archive, 0, &[]);
    assert_eq!((&report["ok"], &report["light"]), (&Value::Bool(true), &Value::from("green")), "{report:#}");
    let cluster = &report["clusters"][0];
    assert_eq!(cluster["ready"]["files"], 0, "{report:#}");
    assert_eq!(cluster["server"]["pg_version"], live.server.psql("show server_version"));
    let repository = &cluster["repositories"][0];
    assert_eq!(repository["last_backup"]["id"], live.records()[0], "{report:#}");
    assert_eq!(repository["behind"], 0, "{report:#}");
    assert_eq!(repository["gaps"], serde_json::json!([]));
    let windows = repository["windows"].as_array().expect("windows");
    assert!(windows.len() == 1 && windows[0]["from"].as_str() <= windows[0]["to"].as_str(), "{report:#}");
    // Everything but small objects: identity, notes.
    let stored: u64 =
        repo::files(live.archive.root()).iter().map(|path| path.metadata().expect("a file").len()).sum();
    let said = repository["stored"]["backups"].as_u64().expect("bytes")
        + repository["stored"]["wal"].as_u64().expect("bytes");
    assert!(said <= stored && stored < said + 10_000, "{said} and {stored}");
    assert_eq!(repository["stored"]["unfinished"], 0, "{report:#}");

    let screen = live.archive.walkeep(&["status"]).ok();
    assert!(screen.stdout.starts_with("cluster main: green\n"), "{screen}");
    assert_eq!(live.archive.walkeep(&["status", "--quiet"]).ok().stdout, "");
    assert!(live.archive.snapshot() == before, "looking changed the repository");
}

#[test]
fn a_failing_archive_command_is_red_with_its_reason_and_its_backlog_is_counted() {
    let live = healthy();
    live.server.psql("alter system set archive_command = 'false'");
    live.server.psql("select pg_reload_conf()");
    live.server.await_sql("show archive_command", "false");
    let mut names = Vec::new();
    for _ in 0..3 {
        live.server.psql("select pg_create_restore_point('more')");
        names.push(live.server.switch_wal());
    }
    live.server.await_sql("select failed_count > 0 from pg_stat_archiver", "t");
    let report = status_is(&live.archive, 3, &[]);
    assert_eq!(report["ok"], false);
    assert!(shows(&report, "archiving", "red").contains(&names[0]), "{report:#}");
    let waiting = &report["clusters"][0]["ready"];
    assert_eq!(waiting["files"], 3, "{report:#}");
    assert_eq!(waiting["bytes"], 3 << 20, "{report:#}");
    assert_eq!(waiting["oldest"].as_str(), Some(names[0].as_str()), "{report:#}");
    assert_eq!(report["clusters"][0]["repositories"][0]["behind"], 3, "{report:#}");
    assert!(report["clusters"][0]["server"]["failed_count"].as_u64() > Some(0), "{report:#}");

    let screen = live.archive.walkeep(&["status"]).is(3);
    assert!(screen.stdout.starts_with("cluster main: red\n"), "{screen}");
    assert!(screen.stdout.contains("hint: ") && screen.stdout.contains("walkeep check"), "{screen}");
    let plugin = live.archive.walkeep(&["status", "--nagios"]).is(2);
    assert!(plugin.stdout.starts_with("WALKEEP CRITICAL - main archiving: "), "{plugin}");
    assert!(plugin.stdout.contains("'main_ready'=3 "), "{plugin}");

    // And it is over when it works again.
    live.server.psql("alter system reset archive_command");
    live.server.psql("select pg_reload_conf()");
    live.server.await_archived(&names[2]);
    settled(&live);
    let report = status_is(&live.archive, 0, &[]);
    shows(&report, "archiving", "green");
}

#[test]
fn an_archive_command_that_archives_nowhere_is_red_although_the_server_is_content() {
    let live = healthy();
    live.server.psql("alter system set archive_command = 'true'");
    live.server.psql("select pg_reload_conf()");
    live.server.await_sql("show archive_command", "true");
    let name = live.flush_wal();
    let report = status_is(&live.archive, 3, &[]);
    assert!(shows(&report, "wal", "red").contains(&name), "{report:#}");
    assert_eq!(shows(&report, "backlog", "green"), "nothing waits to be archived");
}

#[test]
fn a_backup_that_is_too_old_or_was_never_taken_is_red() {
    let mut live = Live::new();
    settled(&live);
    assert_eq!(shows(&status_is(&live.archive, 3, &[]), "backup", "red"), "there is no good backup");
    live.backup();
    settled(&live);
    shows(&status_is(&live.archive, 0, &[]), "backup", "green");
    live.archive.set_status("max_backup_age = \"1ms\"");
    shows(&status_is(&live.archive, 3, &[]), "backup", "red");
}

#[test]
fn a_gap_is_red_and_in_an_optional_repository_yellow() {
    let (live, roots) = Live::with_two(|_| {});
    live.backup();
    let lost = live.flush_wal();
    settled(&live);
    shows(&status_is(&live.archive, 0, &[]), "gaps", "green");

    let object = |root: &std::path::Path| {
        let mut found = repo::stored_in(root);
        found.retain(|(name, _)| *name == lost);
        found.remove(0).1
    };
    std::fs::remove_file(object(&roots[1])).expect("remove a segment");
    let report = status_is(&live.archive, 0, &[]);
    assert_eq!(report["light"], "yellow", "{report:#}");
    let plugin = live.archive.walkeep(&["status", "--nagios"]).is(1);
    assert!(plugin.stdout.starts_with("WALKEEP WARNING - main/second gaps: "), "{plugin}");

    std::fs::remove_file(object(&roots[0])).expect("remove a segment");
    let report = status_is(&live.archive, 3, &[]);
    assert!(shows(&report, "gaps", "red").contains(&lost), "{report:#}");
}

#[test]
fn what_a_verification_found_is_red_and_such_a_backup_does_not_count() {
    let live = healthy();
    let id = live.records().remove(0);
    let pack = live::parts_of(live.archive.root(), &id, "pack").remove(0);
    let bytes = read(&pack);
    std::fs::write(&pack, &bytes[..bytes.len() / 2]).expect("damage a pack");
    live.archive.walkeep(&["verify"]).is(3);
    let report = status_is(&live.archive, 3, &[]);
    assert!(shows(&report, "damage", "red").contains(&id), "{report:#}");
    assert_eq!(shows(&report, "backup", "red"), "there is no good backup");
}

#[test]
fn a_history_that_is_damaged_is_red_and_named() {
    let saga = Saga::get();
    let archive = saga.archive();
    let history = archive.object("00000002.history");
    let windows = |status: i32| {
        let list = live::json(&archive.walkeep(&["list", "--json"]).is(status));
        list["repositories"][0]["windows"].as_array().expect("windows").len()
    };
    let before = windows(0);
    repo::damage(&history, repo::Damage::Flip(-3));
    let report = status_is(&archive, 3, &[]);
    assert!(shows(&report, "damage", "red").contains("00000002.history"), "{report:#}");
    assert!(windows(3) <= before);
    archive.walkeep(&["list"]).is(3).told().says("00000002.history");
}

#[test]
fn a_drill_that_is_asked_for_is_red_until_one_has_proved_a_backup() {
    let mut live = healthy();
    live.archive.set_status("max_drill_age = \"8d\"");
    shows(&status_is(&live.archive, 3, &[]), "drill", "red");
    let drill = ["drill", "--directory", live.archive.scratch().path().to_str().expect("a path")];
    live.archive.run("walkeep").args(drill).deadline(std::time::Duration::from_secs(120)).go().ok();
    let report = status_is(&live.archive, 0, &[]);
    shows(&report, "drill", "green");
    assert_eq!(report["clusters"][0]["repositories"][0]["last_drill"]["outcome"], "proved", "{report:#}");
    let metrics = live.archive.walkeep(&["metrics"]).ok();
    assert!(metrics.stdout.contains("\nwalkeep_drill_last_success_timestamp_seconds{"), "{metrics}");
}

#[test]
fn the_line_of_a_plugin_has_its_form() {
    let live = healthy();
    let outcome = live.archive.walkeep(&["status", "--nagios"]).ok();
    let line = outcome.stdout.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n'), "{outcome}");
    let (text, figures) = line.split_once(" | ").expect("a bar");
    assert!(text.starts_with("WALKEEP OK - "), "{outcome}");
    for figure in figures.split(' ') {
        let (label, value) = figure.split_once('=').expect("label=value");
        assert!(label.starts_with('\'') && label.ends_with('\'') && label.len() > 2, "{figure}");
        let number = value.trim_end_matches(['s', 'B', 'c']);
        assert!(number.parse::<u64>().is_ok(), "{figure}");
    }
    live.archive.walkeep(&["status", "--nagios", "--json"]).is(2);
    let unknown = Run::of("walkeep").args(["--config", "/nowhere", "status", "--nagios"]).go().is(3);
    assert!(unknown.stdout.starts_with("WALKEEP UNKNOWN - "), "{unknown}");
}
