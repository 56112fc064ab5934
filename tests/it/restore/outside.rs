//! What lies outside of the data directory, or inside where it should not be.

use super::*;
use std::os::unix::fs::{FileExt, MetadataExt};

#[test]
fn files_that_the_configuration_names_and_the_backup_lacks_are_named() {
    let etc = Scratch::new();
    let keys = etc.write("server.keytab", "secret");
    let live = Live::with(Cluster::build().wal_segsize(1), |server| {
        server.set("krb_server_keyfile", &format!("FILE:{}", keys.display()));
        // It does not exist, and nothing needs it.
        server.set("ssl_crl_file", "/nowhere/crl");
    });
    let first = live.backing_up().go().ok();
    assert!(first.stderr.contains("server.keytab"), "{first}");
    assert!(!first.stderr.contains("/nowhere"), "{first}");
    // Nothing new, so nothing is repeated.
    let second = live.backing_up().go().ok();
    assert!(!second.stderr.contains("server.keytab"), "{second}");
    let scratch = Scratch::new();
    let run = restoring(&live.archive, &scratch.join("x"), &["--dry-run", "--json"]);
    let outcome = run.clone().go().ok();
    assert!(!outcome.stderr.contains("server.keytab"), "{outcome}");
    std::fs::remove_file(&keys).expect("remove it");
    let outcome = run.go().ok();
    assert!(outcome.stderr.contains("krb_server_keyfile"), "{outcome}");
    assert_eq!(live::json(&outcome)["missing_files"][0]["path"], keys.display().to_string());
}

#[test]
fn a_tablespace_inside_of_the_data_directory_is_warned_of_and_has_to_be_mapped() {
    let live = Live::new();
    let inside = live.server.scratch().mkdir("data/space");
    assert!(inside.starts_with(live.server.data()));
    live.server.psql(&format!("create tablespace space location '{}'", inside.display()));
    live.server.psql("create table t tablespace space as select 1 i");
    let backup = live.backing_up().go().ok();
    assert!(backup.stderr.contains("is inside of the data directory"), "{backup}");
    let check = live.archive.walkeep(&["check"]).ok();
    let said = format!("{}{}", check.stdout, check.stderr);
    assert!(said.contains("is inside of the data directory"), "{check}");
    let oid = live.server.psql("select oid from pg_tablespace where spcname = 'space'");
    live.server.stop(Stop::Fast);
    let scratch = Scratch::new();
    let to = scratch.join("data");
    let outcome = restoring(&live.archive, &to, &[]).go().is(1).told();
    assert!(outcome.stderr.contains("was inside of the data directory"), "{outcome}");
    assert!(outcome.stderr.contains(&format!("--tablespace {oid}=DIR")), "{outcome}");
    let mapping = format!("{oid}={}", scratch.join("space").display());
    let copy = live.restore(&["--tablespace", &mapping]).recovered();
    assert_eq!(rows(&copy), "1");
}

#[test]
fn holes_of_sparse_files_stay_holes() {
    let live = Live::new();
    live.server.psql("create table t as select 1 i");
    let sparse = live.server.data().join("sparse");
    scratch::write(&sparse, "begin");
    let file = std::fs::OpenOptions::new().write(true).open(&sparse).expect("open");
    file.set_len((300 << 20) + 777).expect("grow");
    file.write_all_at(&[7; 3 << 20], (100 << 20) + 4096).expect("write");
    file.write_all_at(b"end", (300 << 20) + 770).expect("write");
    live.backup();
    let before = sha256_file(&sparse);
    let blocks = |path: &Path| path.metadata().expect("look").blocks() * 512;
    let restored = live.restore(&[]).verified();
    let copy = restored.data.join("sparse");
    assert_eq!(sha256_file(&copy), before);
    assert!(blocks(&copy) < 8 << 20, "{} bytes on disk", blocks(&copy));
    // Over a file in which the holes have content, and one that is too short.
    let to = restored.data.clone();
    let file = std::fs::OpenOptions::new().write(true).open(&copy).expect("open");
    file.write_all_at(&[1; 5 << 20], 50 << 20).expect("write");
    file.set_len(200 << 20).expect("cut");
    restoring(&live.archive, &to, &["--delta"]).go().ok();
    assert_eq!(sha256_file(&copy), before);
    assert!(blocks(&copy) < 8 << 20, "{} bytes on disk", blocks(&copy));
    pg::tool("pg_verifybackup").arg(&to).go().ok();
}

#[test]
fn a_time_before_an_upgrade_is_refused_with_the_lineage_that_leads_there() {
    let live = Live::new();
    live.server.psql("create table t as select 1 i");
    live.backup();
    live.server.psql("insert into t values (2)");
    let time = live
        .server
        .psql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'");
    live.server.psql("insert into t values (3)");
    live.flush_wal();
    let old = format!("{}-15", live.server.system_identifier());
    // Another system identifier is what an upgrade leaves.
    live.server.stop(Stop::Fast);
    let new = Cluster::build().wal_segsize(1).checksums().create();
    let data = live.server.data();
    std::fs::remove_dir_all(data).expect("remove the old cluster");
    scratch::copy_tree(new.data(), data);
    live.archive.walkeep(&["init", "--upgrade"]).ok();
    live.server.set("archive_mode", "on");
    live.server.set("archive_command", &live.archive.archive_command());
    live.server.set("unix_socket_directories", &live.server.socket().display().to_string());
    live.server.start();
    live.backup();
    let scratch = Scratch::new();
    let to = scratch.join("x");
    let outcome = restoring(&live.archive, &to, &["--time", &time]).go().is(1).told();
    assert!(outcome.stderr.contains(&format!("--lineage {old}")), "{outcome}");
    restoring(&live.archive, &to, &["--time", &time, "--lineage", &old]).go().ok();
}

#[test]
fn a_configuration_that_names_the_old_data_directory_does_not_start_the_original() {
    let live = Live::with(Cluster::build().wal_segsize(1), |server| {
        server.set("data_directory", &server.data().display().to_string());
        server.set("external_pid_file", &server.data().join("pid").display().to_string());
    });
    live.server.psql("create table t as select 1 i");
    live.backup();
    let scratch = Scratch::new();
    let to = scratch.join("data");
    let plan = restoring(&live.archive, &to, &["--dry-run", "--json"]).go().ok();
    assert!(plan.stderr.contains("external_pid_file"), "{plan}");
    let outcome = restoring(&live.archive, &to, &["--follow", "--port", "5497"]).go().ok();
    assert!(to.join("postmaster.pid").exists(), "{outcome}");
    let pid = String::from_utf8(read(to.join("postmaster.pid"))).expect("text");
    assert_eq!(pid.lines().nth(1).map(Path::new), Some(to.as_path()), "{outcome}");
    let pid: u32 = pid.lines().next().and_then(|pid| pid.parse().ok()).expect("a process id");
    run::signal(pid, "QUIT");
    until("the copy ends", || !to.join("postmaster.pid").exists());
    assert_eq!(live.server.psql("select count(*) from t"), "1");
}
