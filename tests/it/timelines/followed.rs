//! A server that goes on after another one was promoted by mistake.

use super::*;

#[test]
fn restore_and_drill_bring_back_the_server_that_goes_on_and_not_a_dead_branch() {
    let accident = Accident::happens();
    let newest = accident.goes_on();
    accident.ends();
    let Accident { live, before, .. } = &accident;
    let archive = &live.archive;
    let expected = rows(&live.server);

    let chosen = plan(archive, &[]);
    assert_eq!((&chosen["timeline"], &chosen["backup"]), (&Value::from(1), &Value::from(newest.as_str())));
    let copy = live.restore(&[]).recovered();
    assert_eq!(rows(&copy), expected);
    assert_eq!(own_timeline(copy.data()), 3, "its own timeline has a number that is free");
    // A backup before the fork leads to the same end.
    assert_eq!(plan(archive, &[before])["timeline"], 1);
    // A moment of the server after the fork; the branch is followed where it is named, with a word.
    let list = json(&archive.walkeep(&["list", "--json"]).ok());
    let window = &list["repositories"][0]["window"];
    let moment = text(window, "to");
    assert_eq!(plan(archive, &["--time", &moment])["timeline"], 1);
    assert_eq!(list["repositories"][0]["timeline"], 1);
    assert!(text(&list["repositories"][0]["wal"], "last").starts_with("00000001"), "{list:#}");
    let to = archive.scratch().join("dead");
    let dead = restoring(archive, &to, &["--timeline", "2", "--dry-run", "--json"]).go().ok();
    assert_eq!(json(&dead)["timeline"], 2);
    dead.says("timeline 1 is alive: the server is on it");

    // Without the server the archive says the same.
    let drilled = |arguments: &[&str]| {
        let outcome = archive.run("walkeep").args(["drill", "--json", "--directory"]);
        let outcome = outcome.arg(archive.scratch().mkdir("drills")).args(arguments).go();
        json(&outcome.ok())
    };
    assert_eq!(drilled(&[])["backup"], newest.as_str());
    let rotated = drilled(&["--rotate"]);
    assert!(text(&rotated, "reached_lsn") >= text(&chosen["reaches"], "lsn"), "{rotated:#}");
    live.server.stop(Stop::Immediate);
    assert_eq!(plan(archive, &[])["timeline"], 1);
    assert_eq!(shown(archive, 1)["state"], "alive: the newest backup is on it");
    assert_eq!(shown(archive, 2)["state"], "nothing continues it");
}

#[test]
fn status_names_a_dead_branch_and_still_sees_what_the_server_lacks_in_the_archive() {
    let accident = Accident::happens();
    accident.ends();
    let Accident { live, .. } = &accident;
    let archive = &live.archive;
    add(&live.server, 10);
    flush(&live.server);
    let kept = archive.stored();
    let notes = checks(archive, 0, "timelines");
    let note = text(&notes[0], "detail");
    assert!(note.contains("timeline 2 left timeline 1") && note.contains("--retire 2"), "{note}");
    assert_eq!(notes[0]["light"], "green");
    // The repository loses what came since, as an older copy of it would.
    for _ in 0..8 {
        add(&live.server, 10);
        flush(&live.server);
    }
    for (name, path) in archive.stored() {
        if !kept.iter().any(|(known, _)| *known == name) {
            std::fs::remove_file(path).expect("remove a segment");
        }
    }
    let wal = checks(archive, 3, "wal");
    assert!(text(&wal[0], "detail").contains("which the server counts as archived, is missing"), "{wal:?}");
    let metrics = archive.walkeep(&["metrics"]).ok().stdout;
    let behind = metrics.lines().find(|line| line.starts_with("walkeep_wal_behind_segments{"));
    let behind: f64 = behind.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a sample");
    assert!(behind >= 8.0, "{metrics}");
}

#[test]
fn prune_keeps_the_backups_of_the_server_that_goes_on() {
    let accident = Accident::happens();
    for _ in 0..8 {
        add(&accident.dead, 1);
        flush(&accident.dead);
    }
    let dead = text(&json(&live::backing_up(&accident.archive).go().ok()), "id");
    accident.ends();
    let newest = accident.goes_on();
    let mut accident = accident;
    accident.live.archive.set_retention(0, &["keep_last = 1"]);
    let archive = &accident.live.archive;
    // What a name for the newest backup means does not depend on the branch either.
    let latest = json(&archive.walkeep(&["show", "latest", "--json"]).ok());
    assert_eq!(latest["id"], newest.as_str());
    archive.walkeep(&["pin", &dead]).ok();
    let pruned = json(&archive.walkeep(&["prune", "--json"]).ok());
    let kept: Vec<(&str, &Value)> = pruned["kept"]
        .as_array()
        .expect("kept")
        .iter()
        .map(|kept| (kept["id"].as_str().expect("an id"), &kept["dead_timeline"]))
        .collect();
    assert!(kept.contains(&(newest.as_str(), &Value::Null)), "{pruned:#}");
    assert!(kept.contains(&(dead.as_str(), &Value::from(2))), "{pruned:#}");
    let to = archive.scratch().join("named");
    restoring(archive, &to, &[&dead, "--dry-run"]).go().is(1).told().says("--timeline 2");
    assert_eq!(plan(archive, &[&dead, "--timeline", "2"])["timeline"], 2);
    archive.walkeep(&["unpin", &dead]).ok();
    // Right behind a backup, as in the crontab.
    let taken = json(&archive.run("walkeep").args(["backup", "--prune", "--json"]).go().ok());
    assert_eq!(accident.live.records(), [text(&taken, "id")]);
}

#[test]
fn a_rollback_in_place_is_alive_from_its_promotion_on() {
    let live = Live::with(Cluster::build().wal_segsize(1), |_| {});
    let server = &live.server;
    server.psql("create table t (i serial primary key)");
    add(server, 10);
    let first = live.backup_id();
    let then = server.psql("select pg_current_wal_insert_lsn()");
    add(server, 100);
    flush(server);
    let abandoned = live.backup_id();
    let between = server
        .psql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'");
    add(server, 100);
    flush(server);
    server.stop(Stop::Fast);
    let run = restoring(&live.archive, server.data(), &[&first, "--lsn", &then, "--as-primary", "--delta"]);
    run.go().ok();
    assert!(live::recovers(server), "{}", server.log_text());
    assert_eq!(rows(server), 10);
    add(server, 5);
    flush(server);
    let archive = &live.archive;
    // The newest backup is on the branch that was left; the server is not.
    assert_eq!(plan(archive, &[])["backup"], first.as_str());
    assert_eq!(plan(archive, &[])["timeline"], 2);
    let to = archive.scratch().join("named");
    restoring(archive, &to, &["--dry-run"]).go().ok().says(&abandoned);
    // At this moment the server was on what was taken back later.
    let refused = restoring(archive, &to, &["--time", &between, "--dry-run"]).go().is(1).told();
    let refused = refused.says("timeline 1 holds it").says("--timeline 1");
    drop(refused);
    assert_eq!(plan(archive, &["--time", &between, "--timeline", "1"])["timeline"], 1);
    assert_eq!(shown(archive, 2)["state"], "alive: the server is on it");
    // The backup whose age counts is the one that leads to the server.
    let report = json(&archive.walkeep(&["status", "--json"]).ok());
    let last = &report["clusters"][0]["repositories"][0]["last_backup"]["id"];
    assert_eq!(*last, first.as_str(), "{report:#}");
    let second = live.backup_id();
    let mut live = live;
    live.archive.set_retention(0, &["keep_last = 1"]);
    live.archive.walkeep(&["prune"]).ok();
    assert_eq!(live.records(), [second]);
}

#[test]
fn a_backup_of_the_future_is_named_and_does_not_keep_status_green() {
    let live = Live::with(Cluster::build().wal_segsize(1), |_| {});
    let id = live.backup_id();
    live.flush_wal();
    let mut record = repo::files(&live.archive.root().join("main")).into_iter();
    let record = record.find(|path| path.ends_with(format!("backup/{id}"))).expect("a record");
    let mut fields: Value = serde_json::from_slice(&unpacked(&record)).expect("JSON");
    let ahead: jiff::Timestamp = text(&fields, "stop_time").parse().expect("a time");
    let ahead = ahead + jiff::SignedDuration::from_hours(365 * 24);
    fields["stop_time"] = ahead.to_string().into();
    repo::reseal(&record, fields.to_string().as_bytes());
    let archive = &live.archive;
    let named = checks(archive, 0, "clock");
    assert_eq!(named[0]["light"], "yellow", "{named:?}");
    assert!(text(&named[0], "detail").contains(&id), "{named:?}");
    // Its age counts from when it was stored.
    let month = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 86_400);
    let times = std::fs::FileTimes::new().set_modified(month);
    let file = std::fs::File::options().write(true).open(&record);
    let file = file.unwrap_or_else(|_| std::fs::File::open(&record).expect("open the record"));
    file.set_times(times).expect("set its time");
    let backup = checks(archive, 3, "backup");
    assert_eq!(backup[0]["light"], "red", "{backup:?}");
    let metrics = archive.walkeep(&["metrics"]).ok().stdout;
    let line =
        metrics.lines().find(|line| line.starts_with("walkeep_backup_last_success_timestamp_seconds{"));
    let value: f64 = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a sample");
    assert!(value < jiff::Timestamp::now().as_second() as f64, "{metrics}");
    // The way out that the hint shows.
    live.backup();
    assert_eq!(checks(archive, 0, "clock")[0]["light"], "green");
}

/// The content of an object.
fn unpacked(object: &Path) -> Vec<u8> {
    zstd::stream::decode_all(&read(object)[..]).expect("an object")
}
