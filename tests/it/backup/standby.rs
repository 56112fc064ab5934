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
    // Nothing of the standby is left in what is restored: it leaves recovery, and streams from nobody.
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
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                live.flush_wal();
                std::thread::sleep(Duration::from_millis(300));
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
