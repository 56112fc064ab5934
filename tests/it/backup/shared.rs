//! Backups that share blocks with earlier ones: only what differs is stored, decided by content,
//! and each restores without any other.

use super::repo::{Damage, damage};
use super::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A number of a backup's JSON.
#[track_caller]
pub fn number(backup: &Value, name: &str) -> u64 {
    backup[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {backup}"))
}

/// The packs that a backup names, relative to the archive.
fn packs(live: &Live, id: &str) -> BTreeSet<String> {
    let manifest = live::manifest(live.archive.root(), id);
    manifest.iter().filter_map(|line| Some(line.get("pack")?["key"].as_str()?.to_owned())).collect()
}

/// The runs of a file, each with the backup that stored it: its id and the number of blocks.
fn runs(live: &Live, id: &str, path: &str) -> Vec<(String, u64)> {
    let manifest = live::manifest(live.archive.root(), id);
    let key = |number: &Value| {
        let pack = manifest.iter().filter_map(|line| line.get("pack")).find(|pack| pack["number"] == *number);
        pack.and_then(|pack| pack["key"].as_str()).expect("a pack").to_owned()
    };
    let file = manifest.iter().filter_map(|line| line.get("file")).find(|file| file["path"] == path);
    let at = file.expect("the file")["at"].as_array().expect("runs").clone();
    let storer = |key: String| key.split('/').nth(1).expect("a backup").to_owned();
    at.iter().map(|run| (storer(key(&run[0])), run[4].as_u64().expect("blocks"))).collect()
}

/// The parts of earlier manifests by which that of a backup is told, relative to the archive.
fn bases(live: &Live, id: &str) -> BTreeSet<String> {
    let parts = live::parts_of(live.archive.root(), id, "manifest");
    parts.iter().filter_map(|part| Some(live::header(part)["base"].as_str()?.to_owned())).collect()
}

/// Removes a backup as a prune does: its record, and of its manifest and packs what no other backup
/// names.
fn remove(live: &Live, id: &str) {
    let root = live.archive.root();
    std::fs::remove_file(live::record_of(root, id)).expect("remove the record");
    let named = |id: &String| packs(live, id).into_iter().chain(bases(live, id)).collect::<Vec<_>>();
    let named: BTreeSet<String> = live.records().iter().flat_map(named).collect();
    for object in ["manifest", "pack"].map(|kind| live::parts_of(root, id, kind)).concat() {
        if !named.iter().any(|key| object.ends_with(key)) {
            std::fs::remove_file(object).expect("remove an object");
        }
    }
}

/// A server with a table `t` of about 9 MB, 60000 rows in pages that compress badly.
pub fn with_table(live: &Live) -> String {
    let server = &live.server;
    server.psql("create table t (i int primary key, filler text) with (fillfactor = 90)");
    server.psql("insert into t select i, md5(i::text) || md5((-i)::text) from generate_series(1, 60000) i");
    server.psql("vacuum (freeze, analyze) t");
    server.psql("checkpoint");
    server.psql("select pg_relation_filepath('t')")
}

/// What is in the table.
pub fn sum(server: &Cluster) -> String {
    server.psql("select count(*), md5(string_agg(filler, ',' order by i)) from t")
}

#[test]
fn a_backup_of_an_unchanged_cluster_stores_nearly_nothing() {
    let live = Live::new();
    with_table(&live);
    let first = live.backup();
    let second = live.backup();
    assert_eq!(second["parent"], first["id"]);
    assert!(first["parent"].is_null());
    assert!(number(&second, "new_bytes") * 20 < number(&first, "new_bytes"), "{second}");
    assert!(number(&second, "stored") * 10 > number(&first, "stored") * 9, "{second}");
    let size = |id: &Value| {
        let id = id.as_str().expect("an id");
        let parts = ["pack", "manifest"].map(|kind| live::parts_of(live.archive.root(), id, kind)).concat();
        parts.iter().map(|path| path.metadata().expect("look").len()).sum::<u64>()
    };
    assert_eq!(number(&second, "new_bytes"), size(&second["id"]), "new_bytes is what this run wrote");
    assert_eq!(number(&first, "new_bytes"), size(&first["id"]));
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
    assert_sound(&copy);
}

#[test]
fn only_changed_blocks_are_stored() {
    let live = Live::new();
    let path = with_table(&live);
    let first = live.backup_id();
    live.server.psql("update t set filler = 'changed' where i in (10000, 30000, 50000)");
    live.server.psql("checkpoint");
    let second = live.backup_id();
    let runs = runs(&live, &second, &path);
    let blocks = |id: &str| runs.iter().filter(|(storer, _)| storer == id).map(|(_, n)| n).sum::<u64>();
    assert_eq!(blocks(&first) + blocks(&second), runs.iter().map(|(_, n)| n).sum::<u64>());
    assert!((1..=6).contains(&blocks(&second)), "three rows were changed: {runs:?}");
    let copy = live.restore(&[&second]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
    let copy = live.restore(&[&first]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
    assert_sound(&copy);
}

#[test]
fn a_change_under_the_same_time_and_size_is_found() {
    let live = Live::with(Cluster::build().wal_segsize(1), |_| {});
    let path = with_table(&live);
    live.backup();
    live.server.stop(Stop::Fast);
    let path = live.server.data().join(path);
    let before = path.metadata().expect("look at the table");
    let text = read(&path);
    let wanted = b"cfcd208495d565ef66e7dff9f98764da"; // not in it
    let row = sha_of_row(&live, &text);
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open the table");
    file.write_all_at(wanted, row).expect("change a row");
    file.set_modified(before.modified().expect("its time")).expect("set its time back");
    drop(file);
    let after = path.metadata().expect("look at the table");
    assert_eq!((after.len(), after.modified().ok()), (before.len(), before.modified().ok()));
    live.server.start();
    live.backup();
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(
        copy.psql("select count(*) from t where filler like 'cfcd208495d565ef66e7dff9f98764da%'"),
        "1"
    );
}

/// Where in the table's file the text of row 40000 is.
fn sha_of_row(live: &Live, bytes: &[u8]) -> u64 {
    live.server.start();
    let text = live.server.psql("select filler from t where i = 40000");
    live.server.stop(Stop::Fast);
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    at.expect("the row in the file") as u64
}

#[test]
fn any_backup_may_go_and_the_others_restore() {
    let live = Live::new();
    with_table(&live);
    let mut ids = Vec::new();
    for round in 0..4 {
        live.server.psql(&format!("update t set filler = filler || '{round}' where i % 997 = {round}"));
        live.server.psql("checkpoint");
        ids.push(live.backup_id());
    }
    for gone in [0, 2, 1] {
        remove(&live, &ids[gone]);
        for id in live.records() {
            live.restore(&[&id, "--immediate"]).verified();
        }
    }
    assert_eq!(live.records(), ids[3..]);
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
    assert_sound(&copy);
    // Names of removed backups are no parents.
    let next = live.backup();
    assert_eq!(next["parent"], ids[3]);
}

#[test]
fn a_manifest_is_stored_as_what_changed_since_an_earlier_one_and_outlives_that() {
    let live = Live::new();
    live.server.psql("do $$ begin for i in 1..300 loop execute format('create table many_%s (i int)', i); end loop; end $$");
    let first = live.backup_id();
    let own = |id: &str| {
        let parts = live::parts_of(live.archive.root(), id, "manifest");
        parts.iter().map(|part| part.metadata().expect("look").len()).sum::<u64>()
    };
    let mut ids = Vec::new();
    for round in 0..3 {
        live.server.psql(&format!("insert into many_7 values ({round})"));
        ids.push(live.backup_id());
    }
    for id in &ids {
        // All are told by the first one, so none needs another between.
        assert_eq!(bases(&live, id), [format!("data/{first}/manifest/000001")].into());
        assert!(own(id) * 5 < own(&first), "{} beside {} bytes", own(id), own(&first));
    }
    let removed = live.archive.walkeep(&["prune", "--remove", &first]).ok();
    assert!(removed.stdout.contains(&first), "{removed}");
    assert!(!live.records().contains(&first));
    assert_eq!(live::parts_of(live.archive.root(), &first, "manifest").len(), 1, "the base stays");
    live.archive.walkeep(&["verify"]).ok();
    for id in &ids {
        live.restore(&[id, "--immediate"]).verified();
    }
    // A backup that stores everything anew relies on nothing, its manifest neither.
    let full = live::text(&live::json(&live.backing_up().arg("--full").go().ok()), "id");
    assert_eq!(bases(&live, &full), BTreeSet::new());
    for id in &ids {
        live.archive.walkeep(&["prune", "--remove", id]).ok();
    }
    assert_eq!(live::parts_of(live.archive.root(), &first, "manifest").len(), 0, "nobody needs the base");
    live.restore(&[]).verified();
}

#[test]
fn a_damaged_base_of_manifests_is_found_and_hurts_those_that_need_it() {
    let live = Live::new();
    let ids = [live.backup_id(), live.backup_id(), live.backup_id()];
    let base = live::parts_of(live.archive.root(), &ids[0], "manifest").remove(0);
    let original = read(&base);
    for kind in [Damage::Flip(-9), Damage::Remove, Damage::Truncate(-1)] {
        damage(&base, kind);
        let report = live::json(&live.archive.run("walkeep").args(["verify", "--json"]).go().is(3));
        let problems = report["problems"].as_array().expect("a list");
        let problem = problems.iter().find(|problem| base.ends_with(live::text(problem, "object")));
        let problem = problem.unwrap_or_else(|| panic!("{kind:?}: no word of the base in {report}"));
        let hurt: BTreeSet<&str> =
            problem["backups"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!(hurt, ids.iter().map(String::as_str).collect(), "{kind:?}");
        let _ = std::fs::remove_file(&base);
        scratch::write(&base, &original);
        live.archive.walkeep(&["verify"]).ok();
    }
    // What is damaged is not relied upon.
    damage(&base, Damage::Flip(-9));
    let next = live.backup_id();
    assert_eq!(bases(&live, &next), BTreeSet::new());
    live.restore(&[&next, "--immediate"]).verified();
}

#[test]
fn full_stores_every_block_anew() {
    let live = Live::new();
    with_table(&live);
    let first = live.backup();
    let full = live::json(&live.backing_up().arg("--full").go().ok());
    let id = live::text(&full, "id");
    assert!(full["parent"].is_null());
    assert!(number(&full, "new_bytes") * 10 > number(&first, "new_bytes") * 9, "{full}");
    assert!(packs(&live, &id).iter().all(|pack| pack.contains(&id)));
    let copy = live.restore(&[&id]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
}

#[test]
fn a_pack_that_is_missing_or_cut_off_is_not_named_again() {
    for kind in [Damage::Remove, Damage::Truncate(-100)] {
        let live = Live::new();
        with_table(&live);
        let first = live.backup_id();
        damage(&live::parts_of(live.archive.root(), &first, "pack")[0], kind);
        let outcome = live.backing_up().go().ok();
        assert!(outcome.stderr.contains("walkeep verify"), "no word of the damage\n{outcome}");
        let copy = live.restore(&[]).verified().recovered();
        assert_eq!(sum(&copy), sum(&live.server));
    }
}

#[test]
fn a_damaged_manifest_is_passed_over_for_the_backup_before_it() {
    let live = Live::new();
    with_table(&live);
    let first = live.backup_id();
    let second = live.backup_id();
    damage(&live::parts_of(live.archive.root(), &second, "manifest")[0], Damage::Flip(-9));
    let outcome = live.backing_up().go().ok();
    assert!(outcome.stderr.contains(&second), "no word of the damage\n{outcome}");
    assert_eq!(live::json(&outcome)["parent"], first);
    let copy = live.restore(&[]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
}

#[test]
fn scattered_files_and_packs_that_are_mostly_dead_are_stored_anew() {
    let live = Live::new();
    let path = with_table(&live);
    let first = live.backup_id();
    // Every round changes other pages, so that what is alive of the first backup gets less and
    // less.
    let mut ids = Vec::new();
    for round in 0..6 {
        let change = format!("update t set filler = reverse(filler) where i / 600 % 6 = {round}");
        live.server.psql(&change);
        live.server.psql("vacuum t");
        live.server.psql("checkpoint");
        ids.push(live.backup_id());
        let runs = runs(&live, &ids[round], &path);
        let blocks: u64 = runs.iter().map(|(_, blocks)| blocks).sum();
        let pieces = blocks.div_ceil(32);
        assert!(runs.len() as u64 <= pieces * 17, "{} runs in {pieces} MiB", runs.len());
    }
    let last = ids.pop().expect("a backup");
    let named = packs(&live, &last);
    // Every named pack is at least half alive in the parent, so what is kept stays in proportion.
    let root = live.archive.root();
    let all = repo::files(root);
    let size = |key: &String| {
        let pack = all.iter().find(|path| path.ends_with(key)).expect("the pack");
        pack.metadata().expect("look").len()
    };
    let kept: u64 = named.iter().map(size).sum();
    let full = live::json(&live.backing_up().arg("--full").go().ok());
    assert!(kept < number(&full, "stored") * 5 / 2, "{kept} bytes of packs are kept for {full}");
    let _ = first;
    let copy = live.restore(&[&last]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
    assert_sound(&copy);
}

#[test]
fn a_backup_under_load_shares_blocks_and_restores() {
    let live = Live::new();
    with_table(&live);
    let load = Pgbench::on(&live.server);
    live.backup();
    live.server.psql("create table s as select * from t");
    live.server.psql("delete from t where i > 30000");
    live.server.psql("vacuum t"); // truncates it
    let second = live.backup();
    live.server.psql("insert into t select * from s where i > 30000");
    let third = live.backup();
    drop(load);
    assert!(second["parent"].is_string() && third["parent"] == second["id"]);
    live.flush_wal();
    for id in live.records() {
        let copy = live.restore(&[&id]).verified().recovered();
        assert_eq!(sum(&copy), sum(&live.server));
        assert_eq!(
            copy.psql("select sum(abalance) from pgbench_accounts"),
            live.server.psql("select sum(abalance) from pgbench_accounts")
        );
        assert_sound(&copy);
    }
}

/// Where the packs of a repository are.
fn data_of(live: &Live, id: &str) -> PathBuf {
    let record = live::record_of(live.archive.root(), id);
    record.ancestors().nth(2).expect("the lineage").join("data").join(id)
}

#[test]
fn a_killed_backup_leaves_nothing_that_the_next_one_names() {
    let live = Live::new();
    with_table(&live);
    let first = live.backup_id();
    live.server.psql("update t set filler = reverse(filler) where i < 20000");
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    run::signal(slow.child.id(), "KILL");
    assert_ne!(slow.finish().code(), Some(0));
    assert_eq!(live.records(), std::slice::from_ref(&first));
    let next = live.backup();
    assert_eq!(next["parent"], first);
    let id = live::text(&next, "id");
    let known = [data_of(&live, &first), data_of(&live, &id)];
    for pack in packs(&live, &id) {
        assert!(
            known.iter().any(|data| pack.contains(&*data.file_name().expect("a name").to_string_lossy()))
        );
    }
    let copy = live.restore(&[&id]).verified().recovered();
    assert_eq!(sum(&copy), sum(&live.server));
}
