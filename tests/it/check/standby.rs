//! A standby: what it can tell by itself, and with its primary.

use super::*;
use crate::support::live::Pair;

fn pair() -> Pair {
    let pair = Pair::of(healthy());
    pair.live.flush_wal();
    pair.catch_up();
    pair
}

#[test]
fn the_primary_ends_a_segment_where_it_can_be_asked_and_else_the_last_one_is_tried() {
    let pair = pair();
    let report = check(&pair.archive(true), 0);
    shows(&report, "archiving into first", "ok", "has the right hash");
    let report = check(&pair.archive(false), 0);
    let found = shows(&report, "archiving into first", "warning", "no fresh segment was tested");
    assert!(live::text(found, "hint").contains("primary = "), "{found:#}");
    // What it has replayed is not in the archive.
    let stored = pair.live.archive.stored();
    stored.iter().for_each(|(_, object)| std::fs::remove_file(object).expect("remove"));
    let report = check(&pair.archive(false), 0);
    shows(&report, "archiving into first", "warning", "is missing in the archive");
}

#[test]
fn each_wrong_setting_of_a_standby_is_named_with_the_line_to_type() {
    let pair = pair();
    let archive = pair.archive(true);
    let good = archive.restore_command();
    let cases = [
        ("archive_cleanup_command", "pg_archivecleanup /archive %r".to_owned(), "warning", "walkeep prune"),
        ("restore_command", String::new(), "warning", "restore_command = 'walfetch %f %p'"),
        ("restore_command", "cp /archive/%f %p".to_owned(), "warning", "restore_command = 'walfetch %f %p'"),
        ("restore_command", format!("{good} || true"), "failed", "walfetch alone"),
        ("restore_command", good.replace(" %p", ""), "failed", "restore_command = 'walfetch %f %p'"),
    ];
    for (name, value, result, line) in cases {
        alter(&pair.standby, name, &value);
        let report = check(&archive, if result == "failed" { 3 } else { 0 });
        let found = shows(&report, "settings", result, name);
        assert!(live::text(found, "hint").contains(line), "{found:#}");
    }
    pair.standby.psql("alter system reset archive_cleanup_command");
    alter(&pair.standby, "restore_command", &good);
    all_is_ok(&check(&archive, 0));
}
