//! A clock that is set back between two backups: what was there first stays first.

use super::*;

/// A start on a machine whose clock is set back by an hour; waiting goes by the clock that only
/// counts on.
fn an_hour_ago(library: &str, run: Run) -> Run {
    run.env("LD_PRELOAD", library).env("FAKETIME", "-1h").env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

/// What `faketime` puts into a program. None where it is not installed; then the test's output says
/// so.
fn library() -> Option<String> {
    let places = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    let found = found.find(|path| path.exists());
    if found.is_none() {
        skipped("faketime", "faketime is not installed");
    }
    found.map(|path| path.display().to_string())
}

#[test]
fn backups_are_in_the_order_of_their_wal_when_the_clock_was_set_back() {
    let Some(library) = library() else {
        return;
    };
    let mut live = Live::new();
    let add = "insert into t select from generate_series(1, 1000)";
    live.server.psql("create table t (i serial primary key)");
    live.server.psql(add);
    let first = live.backup();
    live.server.stop(Stop::Fast);
    let log = live.server.scratch().join("an hour ago.log");
    let start = pg::tool("pg_ctl").arg("-D").arg(live.server.data()).arg("-l").arg(log).args(["-w", "start"]);
    an_hour_ago(&library, start).go().ok();
    live.server.psql(add);
    let back_up = || live::json(&an_hour_ago(&library, live.backing_up()).go().ok());
    let second = back_up();
    live.server.psql(add);
    let third = back_up();
    let ids = [&first, &second, &third].map(|backup| live::text(backup, "id"));
    assert!(ids[1] < ids[0] && ids[2] < ids[0] && ids[1] != ids[2], "the clock was not set back: {ids:?}");
    assert!(live::text(&second, "start_time") < live::text(&first, "start_time"));
    assert_eq!(second["parent"], first["id"]);
    assert_eq!(third["parent"], second["id"]);

    let list = live::json(&live.archive.walkeep(&["list", "--json"]).ok());
    let backups = list["repositories"][0]["backups"].as_array().expect("backups");
    let listed: Vec<String> = backups.iter().map(|backup| live::text(backup, "id")).collect();
    assert_eq!(listed, ids, "{list}");
    let latest = live::json(&live.archive.walkeep(&["show", "latest", "--json"]).ok());
    assert_eq!(latest["id"], third["id"]);
    let rows = |arguments: &[&str]| {
        let copy = live.restore(arguments).verified().recovered();
        copy.psql("select count(*) from t")
    };
    assert_eq!(rows(&[&ids[0], "--immediate"]), "1000");
    assert_eq!(rows(&["--immediate"]), "3000");

    // What is kept is the last one that was taken, by whichever clock.
    live.archive.set_retention(0, &["keep_last = 1"]);
    let pruning = live.archive.run("walkeep").args(["prune", "--dry-run", "--json"]);
    for run in [pruning.clone(), an_hour_ago(&library, pruning)] {
        let plan = live::json(&run.go().ok());
        assert_eq!(plan["remove"]["backups"], serde_json::json!([ids[0], ids[1]]), "{plan}");
    }
    live.archive.walkeep(&["prune"]).ok();
    assert_eq!(live.records(), [ids[2].clone()]);
    live.flush_wal();
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(copy.psql("select count(*) from t"), "3000");
}
