//! What a drill finds: status 3.

use super::*;

#[test]
fn a_missing_segment_in_the_middle() {
    let story = Story::get();
    let archive = story.archive();
    let record: Value =
        serde_json::from_str(&live::content(&live::record_of(archive.root(), &story.b))).expect("a record");
    let last = text(&record["wal"], "last");
    let behind = archive.stored().into_iter().find(|(name, _)| name.len() == 24 && *name > last);
    damage(&behind.expect("WAL behind the backup").1, Damage::Remove);
    let report = drill(&archive, &[], 3);
    assert_eq!(report["outcome"], "refuted");
    assert!(text(&report, "error").contains("missing"), "{report:#}");
}

#[test]
fn a_damaged_pack_or_segment() {
    let story = Story::get();
    for kind in ["pack", "wal"] {
        let archive = story.archive();
        let object = match kind {
            "pack" => live::parts_of(archive.root(), &story.b, "pack").remove(0),
            _ => archive.stored().pop().expect("WAL").1,
        };
        damage(&object, Damage::Flip(-9));
        let report = drill(&archive, &[], 3);
        assert_eq!(report["outcome"], "refuted", "{report:#}");
    }
}

/// T227: recovery takes it for the end of the WAL, and the server starts with a part of the rows.
#[test]
fn wal_that_was_damaged_before_it_was_hashed_ends_recovery_early() {
    let story = Story::get();
    let archive = story.archive();
    let record: Value =
        serde_json::from_str(&live::content(&live::record_of(archive.root(), &story.a))).expect("a record");
    let last = text(&record["wal"], "last");
    let (_, object) = archive
        .stored()
        .into_iter()
        .find(|(name, _)| name.len() == 24 && *name > last)
        .expect("WAL behind the backup");
    let output = std::process::Command::new("zstd").arg("-dc").arg(&object).output().expect("start zstd");
    let mut segment = output.stdout;
    assert_eq!(segment.len(), 1 << 20);
    // In the first record of its second page or so.
    segment[8192 + 60..8192 + 160].fill(0x5a);
    repo::reseal(&object, &segment);
    let report = drill(&archive, &[&story.a], 3);
    let (ok, detail) = check(&report, "recovery");
    assert_eq!(ok, Some(false), "{report:#}");
    assert!(detail.contains("lost"), "{detail}");
    assert_ne!(report["reached_lsn"], report["expected_lsn"]);
}

#[test]
fn an_assertion_that_does_not_hold_or_cannot_be_asked() {
    let story = Story::get();
    let mut archive = story.archive();
    archive.set_tail(&rows_are("17"));
    let report = drill(&archive, &[], 3);
    let (ok, detail) = check(&report, "assert rows");
    assert!(ok == Some(false) && detail.contains("17") && detail.contains("6000"), "{detail}");
    archive.set_tail(&rows_are("17").replace("from t", "from missing"));
    let report = drill(&archive, &[], 3);
    assert!(check(&report, "assert rows").1.contains("does not exist"), "{report:#}");
}

#[test]
fn an_index_that_lacks_rows_of_its_table() {
    let live = Live::new();
    live.server.psql("create function f(i int) returns int language sql immutable as 'select i'");
    live.server.psql("create table t as select generate_series(1, 1000) i");
    live.server.psql("create index on t (f(i))");
    live.server.psql("create or replace function f(i int) returns int language sql immutable as 'select -i'");
    live.backup();
    live.flush_wal();
    let mut archive = live.archive;
    let report = drill(&archive, &[], 3);
    let (ok, detail) = check(&report, "amcheck");
    assert!(ok == Some(false) && detail.contains("t_f_idx"), "{detail}");
    assert_eq!(check(&report, "read").0, Some(true));
    archive.set_tail("[drill]\namcheck = false\n");
    let report = drill(&archive, &[], 0);
    assert_eq!(check(&report, "amcheck").0, None);
}

#[test]
fn a_page_that_cannot_be_read() {
    // Without checksums: neither the backup nor the restore can know.
    let live = Live::with(Cluster::build().wal_segsize(1), |_| {});
    live.server.psql("create table t as select generate_series(1, 10000) i");
    let file = live.server.psql("select pg_relation_filepath('t')");
    live.server.psql("checkpoint");
    live.server.stop(Stop::Fast);
    let path = live.server.data().join(file);
    let mut bytes = read(&path);
    bytes[3 * 8192..3 * 8192 + 24].fill(0xff);
    std::fs::write(&path, bytes).expect("damage a page");
    live.server.start();
    live.backup();
    live.flush_wal();
    let report = drill(&live.archive, &[], 3);
    let (ok, detail) = check(&report, "read");
    assert!(ok == Some(false) && detail.contains("public.t of database postgres"), "{detail}");
}
