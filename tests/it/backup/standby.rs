//! Backups of a standby: read there, begun and ended there, with the WAL that its primary archives.

use super::shared::{sum, with_table};
use super::*;
use crate::support::live::{Pair, backing_up};

fn pair() -> Pair {
    let live = Live::new();
    with_table(&live);
    Pair::of(live)
}

/// A backup of the standby that takes seconds.
fn slow(archive: &Archive) -> Option<Slow> {
    Slow::of(backing_up(archive).args(["--archive-timeout", "20s"]))
}

#[test]
fn a_standby_of_an_idle_primary_is_backed_up_and_restores_as_a_primary() {
    let pair = pair();
    let archive = pair.archive(true);
    let backup = live::json(&backing_up(&archive).go().ok());
    assert_eq!(backup["state"], "complete");
    let id = live::text(&backup, "id");
    let shown = live::json(&archive.walkeep(&["show", "latest", "--json"]).ok());
    assert_eq!(shown["settings"]["from_standby"], true, "{shown}");
    // Nothing of the standby is left in what is restored: it leaves recovery, and streams from
    // nobody.
    let restored = live::restore(&archive, &[&id]).verified();
    assert!(!restored.data.join("standby.signal").exists());
    let copy = restored.recovered();
    assert_eq!(sum(&copy), sum(&pair.live.server));
    assert_eq!(copy.psql("show primary_conninfo"), "");
    assert_sound(&copy);
    // Backups of both share what they have in common.
    pair.live.server.psql("update t set filler = reverse(filler) where i < 100");
    let of_primary = pair.live.backup();
    assert_eq!(of_primary["parent"], backup["id"]);
    pair.catch_up();
    backing_up(&archive).go().ok();
    let copy = live::restore(&archive, &[]).verified().recovered();
    assert_eq!(sum(&copy), sum(&pair.live.server));
}

#[test]
fn without_the_primary_the_last_segment_is_waited_for_with_a_word_about_it() {
    let pair = pair();
    let archive = pair.archive(false);
    // What the standby has on disk comes from a segment that is not finished.
    pair.live.server.psql("update t set filler = reverse(filler) where i < 100");
    pair.live.server.psql("checkpoint");
    pair.catch_up();
    pair.standby.psql("checkpoint");
    let outcome = backing_up(&archive).args(["--archive-timeout", "2s"]).go().is(1).told();
    assert!(outcome.stderr.contains("primary = ") && outcome.stderr.contains("archive_timeout"), "{outcome}");
    assert_eq!(live::records(archive.root()), Vec::<String>::new());
    let waiting = backing_up(&archive);
    let child = waiting.spawn();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (live, over) = (&pair.live, &over);
        scope.spawn(move || {
            // Each round waits until the archive has the segment.
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                live.flush_wal();
            }
        });
        let outcome = waiting.finish(child);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome.ok();
    });
    live::restore(&archive, &["--immediate"]).verified().recovered();
}

#[test]
fn a_promotion_or_a_restart_of_the_standby_ends_its_backup() {
    for promote in [true, false] {
        let pair = pair();
        let archive = pair.archive(true);
        let Some(slow) = slow(&archive) else {
            return;
        };
        match promote {
            true => pair.standby.promote(),
            false => {
                pair.standby.stop(Stop::Fast);
                pair.standby.start();
            }
        }
        let outcome = slow.finish().is(1).told();
        if promote {
            assert!(outcome.stderr.contains("promoted"), "{outcome}");
        }
        assert_eq!(live::records(archive.root()), Vec::<String>::new());
    }
}

#[test]
fn wal_without_full_pages_is_no_base_for_a_backup_of_the_standby() {
    let pair = pair();
    let archive = pair.archive(true);
    pair.live.server.psql("alter system set full_page_writes = off");
    pair.live.server.psql("select pg_reload_conf()");
    pair.live.server.await_sql("show full_page_writes", "off");
    pair.live.server.psql("checkpoint");
    pair.live.server.psql("update t set filler = reverse(filler) where i < 100");
    pair.catch_up();
    let outcome = backing_up(&archive).go().is(1).told();
    assert!(outcome.stderr.contains("full_page_writes"), "{outcome}");
    assert_eq!(live::records(archive.root()), Vec::<String>::new());
}

#[test]
fn an_old_restartpoint_needs_wal_from_there_on() {
    let pair = pair();
    let archive = pair.archive(true);
    let load = Pgbench::on(&pair.live.server);
    backing_up(&archive).go().ok();
    drop(load);
    // The start lies back, and the WAL from there is gone.
    pair.standby.psql("checkpoint");
    let redo = pair.standby.psql("select redo_wal_file from pg_control_checkpoint()");
    for _ in 0..3 {
        pair.live.server.psql("update t set filler = reverse(filler) where i < 1000");
        pair.live.flush_wal();
    }
    pair.catch_up();
    let away = pair.live.archive.object(&redo);
    std::fs::remove_file(&away).expect("lose a segment");
    let before = live::records(archive.root());
    let outcome = backing_up(&archive).args(["--archive-timeout", "3s"]).go();
    // Only a restartpoint of that moment may help it.
    match outcome.code() {
        Some(0) => {
            let backup = live::json(&outcome);
            let id = live::text(&backup, "id");
            live::restore(&archive, &[&id, "--immediate"]).verified().recovered();
        }
        _ => {
            assert!(outcome.stderr.contains(&redo), "{outcome}");
            assert_eq!(live::records(archive.root()), before);
        }
    }
}

#[test]
fn a_primary_that_is_none_of_this_cluster_is_refused() {
    let pair = pair();
    let other = Live::new();
    for (primary, word) in
        [(other.server.connection(), "another cluster"), (pair.standby.connection(), "a standby itself")]
    {
        let archive = Archive::build(pair.standby.data()).connection(pair.standby.connection());
        let archive = archive.primary(primary).root(pair.live.archive.root()).unregistered();
        let outcome = backing_up(&archive).go().is(1).told();
        assert!(outcome.stderr.contains(word) && outcome.stderr.contains("hint:"), "{outcome}");
    }
}

/// Promotes the standby of the pair, which archives by its own configuration from then on.
fn promote(pair: &Pair, archive: &Archive) {
    pair.standby.set("archive_command", &archive.archive_command());
    pair.standby.psql("select pg_reload_conf()");
    pair.standby.await_sql("show archive_command", &archive.archive_command());
    pair.standby.promote();
    until("the history of the new timeline is archived", || archive.find("00000002.history").is_some());
}

/// Takes a backup on the second timeline, and proves that it restores.
#[track_caller]
fn on_the_second_timeline(archive: &Archive, primary: &Cluster, from_standby: bool) {
    let backup = live::json(&backing_up(archive).go().ok());
    assert_eq!((&backup["timeline"], &backup["state"]), (&2.into(), &"complete".into()), "{backup}");
    let shown = live::json(&archive.walkeep(&["show", "latest", "--json"]).ok());
    assert_eq!(shown["settings"]["from_standby"], from_standby, "{shown}");
    let last = primary.switch_wal();
    primary.await_archived(&last);
    let copy = live::restore(archive, &[&live::text(&backup, "id")]).verified().recovered();
    assert_eq!(sum(&copy), sum(primary));
    assert_sound(&copy);
}

#[test]
fn a_standby_that_was_promoted_is_backed_up_as_the_primary_that_it_is_now() {
    let pair = pair();
    let archive = pair.archive(true);
    backing_up(&archive).go().ok();
    pair.live.server.stop(Stop::Fast);
    promote(&pair, &archive);
    pair.standby.psql("update t set filler = reverse(filler) where i < 100");
    on_the_second_timeline(&archive, &pair.standby, false);
}

#[test]
fn a_promotion_fails_the_backup_under_way_and_the_next_one_is_of_the_new_timeline() {
    let pair = pair();
    let archive = pair.archive(false);
    let Some(slow) = slow(&archive) else {
        return;
    };
    run::signal(slow.child.id(), "STOP");
    pair.live.server.stop(Stop::Fast);
    promote(&pair, &archive);
    run::signal(slow.child.id(), "CONT");
    let outcome = slow.finish().is(1).told();
    assert!(outcome.stderr.contains("promoted"), "{outcome}");
    assert_eq!(live::records(archive.root()), Vec::<String>::new());
    pair.standby.psql("update t set filler = reverse(filler) where i < 100");
    on_the_second_timeline(&archive, &pair.standby, false);
}

#[test]
fn a_standby_that_goes_over_to_another_primary_fails_its_backup_and_the_next_one_is_of_the_new_timeline() {
    let pair = pair();
    let first = pair.archive(true);
    // A second standby, that streams from the first.
    let scratch = Scratch::new();
    let data = scratch.join("data");
    pair.live.server.base_backup(&data);
    let second = Cluster::over(scratch, data);
    second.set("primary_conninfo", &pair.standby.connection().replace(" dbname=postgres", ""));
    second.set("wal_retrieve_retry_interval", "100ms");
    second.touch("standby.signal");
    second.start();
    let archive = Archive::build(second.data()).connection(second.connection());
    let archive = archive.root(pair.live.archive.root()).unregistered();
    let Some(slow) = slow(&archive) else {
        return;
    };
    run::signal(slow.child.id(), "STOP");
    pair.live.server.stop(Stop::Fast);
    promote(&pair, &first);
    pair.standby.psql("update t set filler = reverse(filler) where i < 100");
    pair.standby.psql("checkpoint");
    let lsn = pair.standby.psql("select pg_current_wal_flush_lsn()");
    second.await_sql(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
    second.psql("checkpoint");
    second.await_sql("select min_recovery_end_timeline from pg_control_recovery()", "2");
    run::signal(slow.child.id(), "CONT");
    let outcome = slow.finish().is(1).told();
    assert!(outcome.stderr.contains("changed from timeline 1 to 2"), "{outcome}");
    assert_eq!(live::records(archive.root()), Vec::<String>::new());
    let archive = Archive::build(second.data()).connection(second.connection());
    let archive = archive.primary(pair.standby.connection()).root(pair.live.archive.root()).unregistered();
    on_the_second_timeline(&archive, &pair.standby, true);
}

#[test]
fn a_segment_that_is_missing_fails_the_backup_of_a_standby_too() {
    let pair = pair();
    let archive = pair.archive(true);
    // It says that it archives, and does not: the server itself waits for nothing.
    assert_eq!(pair.standby.psql("show archive_mode"), "on");
    let Some(slow) = Slow::of(backing_up(&archive).args(["--archive-timeout", "3s"])) else {
        return;
    };
    run::signal(slow.child.id(), "STOP");
    let names = [0; 3].map(|_| {
        pair.live.server.psql("update t set filler = reverse(filler) where i < 100");
        pair.live.flush_wal()
    });
    pair.live.server.psql("checkpoint");
    pair.catch_up();
    pair.standby.psql("checkpoint");
    std::fs::remove_file(archive.object(&names[1])).expect("lose a segment");
    run::signal(slow.child.id(), "CONT");
    let outcome = slow.finish().is(1).told();
    assert!(outcome.stderr.contains(&names[1]), "{outcome}");
    assert_eq!(live::records(archive.root()), Vec::<String>::new());
}

#[test]
fn a_prune_leaves_the_wal_from_the_old_restartpoint_that_a_backup_under_way_began_with() {
    let mut pair = pair();
    let archive = pair.archive(true);
    pair.live.backup();
    pair.catch_up();
    // One that refers to nothing before it: else what its parent needs would be kept for that
    // alone.
    let Some(slow) = Slow::of(backing_up(&archive).args(["--full", "--archive-timeout", "20s"])) else {
        return;
    };
    run::signal(slow.child.id(), "STOP");
    let began = pair.standby.psql("select redo_wal_file from pg_control_checkpoint()");
    for _ in 0..3 {
        pair.live.server.psql("update t set filler = reverse(filler) where i < 1000");
        pair.live.flush_wal();
    }
    let kept = pair.live.backup_id();
    pair.live.archive.set_retention(0, &["keep_last = 1"]);
    pair.live.archive.walkeep(&["prune"]).ok();
    assert_eq!(pair.live.records(), std::slice::from_ref(&kept));
    assert!(archive.find(&began).is_some(), "{began} was pruned");
    run::signal(slow.child.id(), "CONT");
    let backup = live::json(&slow.finish().ok());
    let id = live::text(&backup, "id");
    live::restore(&archive, &[&id, "--immediate"]).verified().recovered();
    // Afterwards it goes: the prune would have taken it.
    for lease in repo::files(&saga::lineage(&archive).join("active")) {
        std::fs::remove_file(lease).expect("end the lease of the restore");
    }
    pair.live.archive.walkeep(&["prune"]).ok();
    assert_eq!((pair.live.records(), archive.find(&began)), (vec![kept], None));
}
