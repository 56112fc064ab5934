//! What is in a backup: exactly what PostgreSQL's own tool copies, and where it is stricter, more.

use super::*;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Files and directories below a directory, relative to it; links followed.
fn tree(root: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut files, mut directories) = (BTreeSet::new(), BTreeSet::new());
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("list") {
            let path = entry.expect("list").path();
            let name = path.strip_prefix(root).expect("below").display().to_string();
            if path.is_dir() {
                directories.insert(name);
                open.push(path);
            } else {
                files.insert(name);
            }
        }
    }
    (files, directories)
}

#[test]
fn a_backup_has_exactly_the_files_that_pg_basebackup_copies() {
    let live = Live::new();
    let server = &live.server;
    let data = server.data();
    server.psql("create unlogged table u (i int primary key, t text)");
    server
        .psql("create sequence s; create table t (i int primary key, t text); insert into t values (1, 'a')");
    server.psql("insert into u select i, repeat('x', 3000) from generate_series(1, 1000) i");
    server.psql("create database d");
    // A session with a temporary table stays open.
    let psql = pg::tool("psql").args(["-X", "-U", "postgres", "-d", "postgres", "-h"]).arg(server.socket());
    let psql = psql.args([
        "-c",
        "create temp table tt as select generate_series(1, 1000) as i",
        "-c",
        "select pg_sleep(600)",
    ]);
    let mut session = psql.spawn();
    server.await_sql("select count(*) from pg_class where relname = 'tt'", "1");
    // What people and crashed programs leave lying about.
    for directory in ["mine", "mine/pg_notify", "mine/empty", "base/pgsql_tmp", "pg_stat_tmp/sub", "log"] {
        std::fs::create_dir_all(data.join(directory)).expect("make a directory");
        std::fs::set_permissions(data.join(directory), std::fs::Permissions::from_mode(0o700)).expect("mode");
        account::give(&data.join(directory));
    }
    let database = server.psql("select oid from pg_database where datname = 'postgres'");
    for file in [
        "mine/file".to_owned(),
        "log/server.log".into(),
        "backup_label.old".into(),
        "postgresql.auto.conf.tmp".into(),
        "current_logfiles.tmp".into(),
        "base/pgsql_tmp/pgsql_tmp123.0".into(),
        format!("base/{database}/t9_99999"),
        format!("base/{database}/pg_internal.init.123"),
        "pg_stat_tmp/global.stat".into(),
        "pg_replslot/stray".into(),
        "pg_notify/0000x".into(),
        "pg_subtrans/stray".into(),
        "pg_serial/stray".into(),
        "pg_snapshots/stray".into(),
        "pg_dynshmem/stray".into(),
        "postmaster.opts.mine".into(),
    ] {
        scratch::write(&data.join(file), "x");
    }
    // Ours counts only at the top, by PostgreSQL's documentation; the tool goes by the name
    // anywhere.
    scratch::write(&data.join("mine/pg_notify/kept"), "x");
    scratch::write(&data.join("mine/backup_label"), "x");
    server.psql("checkpoint");
    let id = live.backup_id();
    let theirs = live.server.scratch().join("theirs");
    server.base_backup(&theirs);
    let (mut files, mut directories) = tree(&theirs);
    files.retain(|file| file != "backup_manifest");
    files.insert("mine/pg_notify/kept".into());
    files.insert("mine/backup_label".into());
    directories.insert(String::new());
    let manifest = live::manifest(live.archive.root(), &id);
    let ours: BTreeSet<String> = live::paths(&manifest, "file").into_iter().collect();
    assert_eq!(ours.difference(&files).collect::<Vec<_>>(), Vec::<&String>::new(), "only in ours");
    assert_eq!(files.difference(&ours).collect::<Vec<_>>(), Vec::<&String>::new(), "missing in ours");
    let ours: BTreeSet<String> = live::paths(&manifest, "dir").into_iter().collect();
    assert_eq!(ours, directories);
    // Unlogged: only what recovery makes it from.
    let unlogged = server.psql("select pg_relation_filepath('u')");
    assert!(files.contains(&format!("{unlogged}_init")) && !files.contains(&unlogged));
    run::signal(session.id(), "KILL");
    let _ = session.wait();
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(copy.psql("select count(*) from u"), "0");
    copy.psql("insert into u values (1, 'again')");
    assert_eq!(copy.psql("select count(*) from t"), "1");
    for directory in [
        "pg_notify",
        "pg_twophase",
        "pg_commit_ts",
        "pg_tblspc",
        "pg_replslot",
        "pg_logical/snapshots",
        "pg_logical/mappings",
        "mine/empty",
    ] {
        assert!(copy.data().join(directory).is_dir(), "{directory}");
    }
}

#[test]
fn a_label_left_in_the_data_directory_is_not_the_one_of_the_backup() {
    let live = Live::new();
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    for name in ["backup_label", "tablespace_map", "backup_manifest"] {
        scratch::write(&live.server.data().join(name), "bogus");
    }
    slow.finish().ok();
    for name in ["backup_label", "tablespace_map", "backup_manifest"] {
        std::fs::remove_file(live.server.data().join(name)).expect("remove it");
    }
    let restored = live.restore(&[]).verified();
    let label = String::from_utf8(read(restored.data.join("backup_label"))).expect("text");
    assert!(label.starts_with("START WAL LOCATION: ") && label.ends_with('\n'), "{label:?}");
    assert!(!restored.data.join("tablespace_map").exists());
}

#[test]
fn tablespaces_of_every_kind_come_back() {
    let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
        server.set("allow_in_place_tablespaces", "on");
    });
    let server = &live.server;
    let outside = live.server.scratch();
    let inner = server.data().join("inner");
    std::fs::create_dir(&inner).expect("make a directory");
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o700)).expect("mode");
    account::give(&inner);
    let mut places = vec![
        ("plain", outside.mkdir("ts").display().to_string()),
        ("prefix", outside.mkdir("ts1").display().to_string()),
        ("blanks", outside.mkdir(" two  blanks ").display().to_string()),
        ("backslash", outside.mkdir("back\\slash\\n").display().to_string()),
        ("newline", outside.mkdir("new\nline").display().to_string()),
        ("percent", outside.mkdir("100% \"sure\"").display().to_string()),
        ("inside", inner.display().to_string()),
        ("in_place", String::new()),
    ];
    for (name, place) in &places {
        server.psql(&format!("create tablespace {name} location '{place}'"));
        server.psql(&format!(
            "create table t_{name} (i int primary key using index tablespace {name}) tablespace {name}"
        ));
        server.psql(&format!("insert into t_{name} select generate_series(1, 1000)"));
    }
    places.push(("nothing", outside.mkdir("empty").display().to_string()));
    server.psql(&format!("create tablespace nothing location '{}'", places[8].1));
    // Two versions may share a location.
    scratch::write(&outside.join("ts/PG_14_202107181"), "of another server");
    server.psql("create database d tablespace plain");
    let id = live.backup_id();
    let manifest = live::manifest(live.archive.root(), &id);
    let files = live::paths(&manifest, "file");
    assert!(!files.iter().any(|file| file.starts_with("inner/")), "stored twice: {files:?}");
    assert!(!files.iter().any(|file| file.contains("PG_14")), "{files:?}");
    let mut once = files.clone();
    once.dedup();
    assert_eq!(once, files);
    server.psql("insert into t_backslash select generate_series(1001, 2000)");
    live.flush_wal();
    server.stop(Stop::Fast);

    let scratch = Scratch::new();
    let mut arguments = Vec::new();
    for (name, place) in &places {
        if !place.is_empty() {
            // The new places are as strange as the old ones.
            let oid = oid_of(&manifest, place);
            arguments.push("--tablespace".to_owned());
            let new = if *name == "newline" { "new\nline" } else { &format!("{name} \\ new") };
            arguments.push(format!("{oid}={}", scratch.join(new).display()));
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let production = Snapshot::of(outside.path());
    let copy = live.restore(&arguments).verified().recovered();
    for (name, _) in &places[..8] {
        let expected = if *name == "backslash" { "2000" } else { "1000" };
        assert_eq!(copy.psql(&format!("select count(*) from t_{name}")), expected, "{name}");
    }
    copy.psql("create table t_new (i int) tablespace nothing");
    copy.psql("checkpoint");
    assert!(Snapshot::of(outside.path()) == production, "production was written to");
}

fn oid_of(manifest: &[serde_json::Value], place: &str) -> u64 {
    let mut tablespaces = manifest.iter().filter_map(|line| line.get("tablespace"));
    let found =
        tablespaces.find(|tablespace| tablespace["location"].to_string().contains(&format!("{place:?}")));
    found
        .and_then(|tablespace| tablespace["oid"].as_u64())
        .unwrap_or_else(|| panic!("no tablespace at {place:?}: {manifest:?}"))
}

#[test]
fn what_links_lead_to_is_in_the_backup() {
    let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
        for name in ["pg_wal", "base/1"] {
            let away = server.scratch().join(format!("away {}", name.replace('/', " ")));
            std::fs::rename(server.data().join(name), &away).expect("move a directory");
            std::os::unix::fs::symlink(&away, server.data().join(name)).expect("make a link");
        }
    });
    live.server.psql("create table t as select generate_series(1, 1000) as i");
    let id = live.backup_id();
    let files = live::paths(&live::manifest(live.archive.root(), &id), "file");
    assert!(files.iter().any(|file| file == "base/1/PG_VERSION"));
    assert!(!files.iter().any(|file| file.starts_with("pg_wal/")), "{files:?}");
    let restored = live.restore(&[]).verified();
    assert!(!restored.data.join("base/1").is_symlink());
    let copy = restored.recovered();
    assert_eq!(copy.psql("select count(*) from t"), "1000");
    let psql = pg::tool("psql").args(["-X", "-U", "postgres", "-d", "template1", "-h"]).arg(copy.socket());
    psql.args(["-c", "select count(*) from pg_class"]).go().ok();
}

/// Writes into a page of a table while the server is down.
fn spoil(live: &Live, table: &str, block: u64, at: u64, bytes: &[u8]) -> String {
    use std::os::unix::fs::FileExt;
    let path = live.server.psql(&format!("select pg_relation_filepath('{table}')"));
    live.server.psql("checkpoint");
    live.server.stop(Stop::Fast);
    let file =
        std::fs::OpenOptions::new().write(true).open(live.server.data().join(&path)).expect("open the table");
    file.write_all_at(bytes, block * 8192 + at).expect("spoil a page");
    live.server.start();
    path
}

#[test]
fn a_damaged_page_is_reported_with_file_and_block() {
    let live = Live::new();
    live.server.psql("create table t (i int, filler text)");
    live.server.psql("insert into t select i, repeat('x', 500) from generate_series(1, 1000) i");
    live.server.psql("create table u as select * from t");
    let zeroed = spoil(&live, "u", 3, 0, &[0; 24]);
    let flipped = spoil(&live, "t", 7, 5000, b"\x01");
    let outcome = live.backing_up().go().is(3);
    for (path, block) in [(&zeroed, "3"), (&flipped, "7")] {
        let line = outcome.stderr.lines().find(|line| line.contains(path.as_str()));
        assert!(line.is_some_and(|line| line.contains(block)), "no word of {path}\n{outcome}");
    }
    let backup = live::json(&outcome);
    assert_eq!(live::text(&backup, "state"), "damaged");
    let id = live::text(&backup, "id");
    assert_eq!(live.records(), std::slice::from_ref(&id));
    let record: serde_json::Value =
        serde_json::from_str(&live::content(&live::record_of(live.archive.root(), &id))).expect("JSON");
    let mut damaged: Vec<String> =
        record["damaged"].as_array().expect("a list").iter().map(|file| file["path"].to_string()).collect();
    damaged.sort();
    assert_eq!(damaged.len(), 2, "{record}");
    // It is not restored by accident.
    let to = Scratch::new();
    live::restoring(&live.archive, &to.join("x"), &[]).go().failed().says("--allow-damaged");
    assert!(!to.join("x").exists());
    live.restore(&["--allow-damaged"]).verified();
    // Repaired, the next one is complete.
    live.server.psql("drop table t, u");
    assert_eq!(live::text(&live.backup(), "state"), "complete");
}

#[test]
fn a_cluster_without_page_checksums_is_backed_up_without_claiming_to_have_looked() {
    let live = Live::with(Cluster::build().wal_segsize(1), |_| {});
    live.server.psql("create table t as select i, repeat('x', 500) from generate_series(1, 1000) i");
    spoil(&live, "t", 3, 5000, b"\x01");
    let backup = live.backup();
    let id = live::text(&backup, "id");
    let record: serde_json::Value =
        serde_json::from_str(&live::content(&live::record_of(live.archive.root(), &id))).expect("JSON");
    assert_eq!(record["settings"]["data_checksums"], false);
}

#[test]
fn a_large_file_of_zeros_keeps_its_size_and_raises_no_alarm() {
    let live = Live::new();
    let data = live.server.data();
    let database = live.server.psql("select oid from pg_database where datname = 'postgres'");
    // Two segments of a relation: the second begins with page 131072.
    let relation = data.join(format!("base/{database}/77777"));
    for (path, size) in [(relation.clone(), 1 << 30), (relation.with_extension("1"), 81_920)] {
        scratch::write(&path, "");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(size))
            .expect("grow");
    }
    let backup = live.backup();
    assert!(backup["stored"].as_u64().is_some_and(|bytes| bytes < 50_000_000), "{backup}");
    let restored = live.restore(&[]).verified();
    let file = restored.data.join(format!("base/{database}/77777"));
    assert_eq!(file.metadata().expect("look at the file").len(), 1 << 30);
}
