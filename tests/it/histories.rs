//! History files that were never archived, or are lost: seen before they are needed, archived from
//! `pg_wal`, made again from a later one, and no alarm where nothing needs them.

use crate::support::live::{self, Live, json};
use crate::support::*;
use std::path::PathBuf;

/// A server whose promotion to timeline 2 was not archived and whose promotion to timeline 3 was.
/// There is a backup on timeline 1.
fn with_hole() -> Live {
    let live = Live::with(Cluster::build().wal_segsize(1), |server| server.set("archive_timeout", "1min"));
    live.server.psql("create table t as select 1 as i");
    live.backup();
    live.flush_wal();
    promote(&live.server, "off");
    live.server.psql("insert into t values (2)");
    promote(&live.server, "on");
    live.server.psql("insert into t values (3)");
    live.flush_wal();
    assert!(
        live.archive.find("00000003.history").is_some() && live.archive.find("00000002.history").is_none()
    );
    live
}

/// Begins the next timeline, with this setting of `archive_mode`.
fn promote(server: &Cluster, archive_mode: &str) {
    server.set("archive_mode", archive_mode);
    server.stop(Stop::Fast);
    server.touch("standby.signal");
    server.start();
    server.promote();
    server.await_sql("select pg_is_in_recovery()", "f");
}

fn of_server(server: &Cluster, name: &str) -> PathBuf {
    server.wal().join(name)
}

/// Everything that looks at the archive sees the hole and names the file, with this command.
#[track_caller]
fn is_seen(live: &Live, command: &str) {
    let archive = &live.archive;
    let list = archive.walkeep(&["list"]).is(3).stdout;
    assert!(list.contains("00000002.history: it is missing") && list.contains(command), "{list}");
    let status = archive.walkeep(&["status"]).is(3).stdout;
    assert!(status.contains("histories   00000002.history") && status.contains(command), "{status}");
    let verify = archive.walkeep(&["verify"]).is(3).stdout;
    assert!(verify.contains("00000002.history: it is missing") && verify.contains(command), "{verify}");
    for more in [&["--dry-run"][..], &["--timeline", "1"], &["--immediate"], &[]] {
        let to = archive.scratch().join("refused");
        let outcome = live::restoring(archive, &to, more).go().is(1).told();
        outcome.says("00000002.history").says(command);
        assert!(!to.exists(), "{more:?} wrote something");
    }
}

#[track_caller]
fn is_good(live: &Live) {
    for verb in ["list", "status", "verify", "check"] {
        live.archive.walkeep(&[verb]).ok();
    }
    let restored = live.restore(&[]).recovered();
    assert_eq!(restored.psql("select count(*) from t"), "3");
}

#[test]
fn a_hole_among_histories_is_seen_before_a_restore_and_rebuilt_from_a_later_one() {
    let live = with_hole();
    let own = of_server(&live.server, "00000002.history");
    let content = read(&own);
    std::fs::remove_file(&own).expect("lose the file");
    is_seen(&live, "walkeep timelines --rebuild 2");
    let check = live.archive.walkeep(&["check"]).is(3).to_string();
    assert!(check.contains("FAILED  histories in first") && check.contains("--rebuild 2"), "{check}");
    live.archive.walkeep(&["timelines", "--rebuild", "2"]).ok();
    assert_eq!(live.archive.fetched("00000002.history"), content);
    is_good(&live);
    let again = live.archive.walkeep(&["timelines", "--rebuild", "2", "--json"]).ok();
    assert_eq!(json(&again)["repositories"], serde_json::json!([]));
    live.archive.walkeep(&["timelines", "--rebuild", "7"]).is(1).told();
}

#[test]
fn check_archives_a_history_that_the_server_never_offered() {
    let live = with_hole();
    let outcome = live.archive.walkeep(&["check"]).ok();
    assert!(outcome.to_string().contains("00000002.history was missing, and was archived"), "{outcome}");
    assert_eq!(live.archive.fetched("00000002.history"), read(of_server(&live.server, "00000002.history")));
    is_good(&live);
}

#[test]
fn a_backup_archives_the_histories_of_a_server_that_archived_late() {
    let server = Cluster::build().wal_segsize(1).create();
    let archive = Archive::of_server(&server);
    server.set("archive_mode", "off");
    server.start();
    server.psql("create table t as select 1 as i");
    promote(&server, "off");
    promote(&server, "off");
    server.set("archive_mode", "on");
    server.stop(Stop::Fast);
    server.start();
    let live = Live { server, archive };
    let outcome = live.backing_up().go().ok();
    outcome.says("00000003.history was missing").says("00000002.history was missing");
    live.flush_wal();
    live.archive.walkeep(&["verify"]).ok();
    let restored = live.restore(&[]).recovered();
    assert_eq!(restored.psql("select count(*) from t"), "1");
}

/// Two servers reached the same timeline: the history that is archived is that of the other.
#[test]
fn a_history_of_another_server_under_the_same_number_is_refused_at_once() {
    let live = with_hole();
    let other = live.archive.scratch().write("00000002.history", "1\t0/3000000\tanother promotion\n");
    live.archive.push(&other).ok();
    let check = live.archive.walkeep(&["check"]).is(3).to_string();
    assert!(check.contains("00000002.history") && check.contains("another file is archived"), "{check}");
    live.backing_up().go().is(1).told().says("00000002.history");
}

#[test]
fn a_lost_history_that_no_backup_needs_is_a_note() {
    let live = with_hole();
    std::fs::remove_file(of_server(&live.server, "00000002.history")).expect("lose the file");
    let old = live.records();
    live.backup();
    live.archive.walkeep(&["prune", "--remove", &old[0]]).ok();
    live.flush_wal();
    let verify = json(&live.archive.walkeep(&["verify", "--json"]).ok());
    for verb in ["list", "status", "check"] {
        live.archive.walkeep(&[verb]).ok();
    }
    assert!(verify["problems"].as_array().expect("a list").is_empty(), "{verify:#}");
    let restored = live.restore(&[]).recovered();
    assert_eq!(restored.psql("select count(*) from t"), "3");
}

/// Of two promotions of the same timeline the first left nothing in the archive: no later history
/// has what its file said.
#[test]
fn a_lost_history_that_no_other_one_names_is_passed_over_when_it_is_retired() {
    let live = Live::new();
    live.server.psql("create table t as select 1 as i");
    live.backup();
    let lsn = live.server.psql("select pg_current_wal_lsn()");
    live.flush_wal();
    let later = format!("1\t{lsn}\tno recovery target specified\n");
    live.archive.push(live.archive.scratch().write("00000003.history", later)).ok();
    is_seen(&live, "walkeep timelines --retire 2");
    live.archive.walkeep(&["timelines", "--rebuild", "2"]).is(1).told().says("--retire 2");
    live.archive.walkeep(&["timelines", "--retire", "2"]).ok();
    for verb in ["list", "verify", "check"] {
        live.archive.walkeep(&[verb]).ok();
    }
    let restored = live.restore(&[]).recovered();
    assert_eq!(restored.psql("select count(*) from t"), "1");
    live.archive.walkeep(&["timelines", "--retire", "9"]).is(1).told();
}
