//! The newest backup can be read.

use super::*;

#[test]
fn without_a_backup_the_wal_leads_nowhere_and_that_is_said() {
    let live = Live::new();
    let report = check(&live.archive, 0);
    let found = shows(&report, "backups in first", "warning", "there is no backup");
    assert!(live::text(found, "hint").contains("walkeep backup"), "{found:#}");
    // With --quiet too.
    let quiet = live.archive.walkeep(&["check", "--quiet"]).ok();
    assert!(quiet.stderr.contains("there is no backup") && !quiet.stderr.contains("ok "), "{quiet}");
    let id = live.backup_id();
    shows(&check(&live.archive, 0), "backups in first", "ok", &id);
}

#[test]
fn a_record_a_manifest_and_blocks_that_are_damaged_are_found() {
    let live = healthy();
    let root = live.archive.root();
    let id = live.records().remove(0);
    let objects = [
        live::record_of(root, &id),
        live::parts_of(root, &id, "manifest").remove(0),
        live::parts_of(root, &id, "pack").remove(0),
    ];
    for object in objects {
        let bytes = read(&object);
        scratch::write(&object, &bytes[..600]);
        let report = check(&live.archive, 3);
        let found = shows(&report, "backups in first", "failed", &id);
        assert!(live::text(found, "hint").contains("walkeep verify"), "{found:#}");
        scratch::write(&object, &bytes);
    }
    check(&live.archive, 0);
}
