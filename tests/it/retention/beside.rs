//! A prune beside backups, restores, verifications and other prunes, of this host and of others.

use super::*;
use crate::support::repo::Snapshot;
use crate::support::run::signal;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use walkeep::repo::active::{Announcement, Heartbeat, Operation, Staleness};
use walkeep::repo::branches::ServerTimeline;
use walkeep::repo::{Archive as Opened, Lineage, ObjectName, Repository};
use walkeep::retention::{Options, Policy, Pruned};

/// A backup or restore that takes seconds: every file is opened late.
fn slow(run: &Run, sign: &str) -> Option<(Strace, std::process::Child)> {
    let strace = Strace::new()?.detached().trace("openat,openat2").inject("openat,openat2:delay_enter=9000");
    let child = strace.spawn(run);
    until("it is under way", || strace.text().contains(sign));
    Some((strace, child))
}

/// The names of the announcements in the repository.
fn announced(archive: &Archive) -> Vec<String> {
    let names = files(&lineage(archive).join("active"));
    names.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}

#[test]
fn a_running_backup_is_respected_and_a_killed_one_is_garbage_at_once() {
    let (mut live, ids) = with_backups(2);
    live.archive.set_retention(0, &["keep_last = 1"]);
    let run = live.backing_up();
    let Some((_strace, child)) = slow(&run, "base/1/1") else {
        return;
    };
    assert_eq!(announced(&live.archive).len(), 1);
    prune(&live.archive, &[]);
    assert_eq!(listed(&live.archive), ids[1..]);
    let made = live::text(&live::json(&run.finish(child).ok()), "id");
    assert_eq!(announced(&live.archive), Vec::<String>::new());
    assert_restores(&live.archive, &made, "2000");

    let Some((_strace, child)) = slow(&run, "base/5/") else {
        return;
    };
    signal(child.id(), "KILL");
    run.finish(child);
    prune(&live.archive, &[]);
    assert_eq!(listed(&live.archive), std::slice::from_ref(&made));
    let data = lineage(&live.archive).join("data");
    let left: BTreeSet<_> =
        std::fs::read_dir(data).expect("list").map(|entry| entry.expect("list").file_name()).collect();
    // What the one that stays shares with the one before it stays too.
    assert_eq!(left, [&ids[1], &made].map(Into::into).into());
    assert_restores(&live.archive, &made, "2000");
    assert!(announced(&live.archive).iter().all(|name| name.starts_with("restore")));
}

#[test]
fn the_first_backup_of_all_is_respected_too() {
    let mut live = Live::new();
    live.archive.set_retention(0, &["keep_last = 1"]);
    let run = live.backing_up();
    let Some((_strace, child)) = slow(&run, "base/1/1") else {
        return;
    };
    let wal = live.archive.stored();
    prune(&live.archive, &[]);
    assert_eq!(live.archive.stored(), wal, "without a backup all WAL stays");
    let id = live::text(&live::json(&run.finish(child).ok()), "id");
    live.restore(&[&id, "--immediate"]).verified();
}

#[test]
fn what_is_being_restored_stays_until_recovery_had_a_day() {
    let (mut live, ids) = with_backups(3);
    live.archive.set_retention(0, &["keep_last = 1"]);
    let scratch = Scratch::new();
    let run = restoring(&live.archive, &scratch.join("data"), &[&ids[1]]);
    let Some((_strace, child)) = slow(&run, "base/1/1") else {
        return;
    };
    let report = prune(&live.archive, &[]);
    assert_eq!(report["remove"]["backups"], serde_json::json!([ids[0]]));
    run.finish(child).ok();
    // What was restored is read; its WAL is still to be.
    let report = prune(&live.archive, &[]);
    assert_eq!(report["remove"]["backups"], serde_json::json!([ids[1]]));
    assert_eq!(report["remove"]["segments"], 0, "{report}");
    let data = scratch.join("data");
    let server = Cluster::over(scratch, data);
    assert!(live::recovers(&server), "{}", server.log_text());
    assert_eq!(server.psql("select count(*) from t"), "3000");
    assert_eq!(prune(&live.archive, &[])["remove"]["segments"], 0);
    // The day is over.
    for path in files(&lineage(&live.archive).join("active")) {
        age(&path, Duration::from_secs(25 * 3600));
    }
    assert_ne!(prune(&live.archive, &[])["remove"]["segments"], 0);
    assert_eq!(listed(&live.archive), ids[2..]);
}

/// Makes a file older.
fn age(path: &Path, by: Duration) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("open");
    file.set_modified(std::time::SystemTime::now() - by).expect("set its time");
}

#[test]
fn a_restore_from_a_repository_that_cannot_be_written_works() {
    let (live, ids) = with_backups(1);
    Run::new("chmod").args(["-R", "a-w"]).arg(live.archive.root()).go().ok();
    let restored = live.restore(&[&ids[0], "--immediate"]);
    Run::new("chmod").args(["-R", "u+w"]).arg(live.archive.root()).go().ok();
    restored.outcome.clone().says("cannot be written");
    restored.verified();
}

#[test]
fn of_many_prunes_at_once_one_works_and_the_others_say_so() {
    let (mut live, ids) = with_backups(3);
    live.archive.set_retention(0, &["keep_last = 1"]);
    let run = live.archive.run("walkeep").args(["prune", "--json"]);
    let children: Vec<_> = (0..6).map(|_| run.spawn()).collect();
    let outcomes: Vec<_> = children.into_iter().map(|child| run.finish(child)).collect();
    assert!(outcomes.iter().all(|outcome| matches!(outcome.code(), Some(0 | 4))), "{outcomes:?}");
    assert!(outcomes.iter().any(|outcome| outcome.code() == Some(0)), "{outcomes:?}");
    assert_eq!(listed(&live.archive), ids[2..]);
    assert_eq!(announced(&live.archive), Vec::<String>::new());
    let waiting = live.archive.run("walkeep").args(["prune", "--wait"]);
    let children: Vec<_> = (0..3).map(|_| waiting.spawn()).collect();
    children.into_iter().for_each(|child| drop(waiting.finish(child).ok()));
    assert_restores(&live.archive, &ids[2], "3000");
}

#[test]
fn prunes_backups_and_pushes_in_parallel_leave_every_listed_backup_whole() {
    let (mut live, _) = with_backups(1);
    live.archive.set_retention(0, &["keep_last = 1"]);
    let pruning = live.archive.run("walkeep").args(["prune", "--json"]);
    let backing_up = live.backing_up();
    for _ in 0..3 {
        let backup = backing_up.spawn();
        let mut prunes = 0;
        let mut child = backup;
        while child.try_wait().expect("look at the backup").is_none() {
            let outcome = pruning.go();
            assert!(matches!(outcome.code(), Some(0 | 4)), "{outcome}");
            prunes += 1;
        }
        assert!(prunes > 0);
        backing_up.finish(child).ok();
        live.archive.walkeep(&["verify"]).ok();
    }
    let id = listed(&live.archive).pop().expect("a backup");
    assert_restores(&live.archive, &id, "1000");
}

/// Gives everything in the repository to the account: what the library writes here belongs to who
/// runs the tests.
fn give(live: &Live) {
    for path in Snapshot::of(live.archive.root()).paths() {
        account::give(path);
    }
}

/// The repository as the library sees it, and a prune of it with little patience.
struct Elsewhere {
    archive: Opened,
}

impl Elsewhere {
    fn of(live: &Live) -> Elsewhere {
        let store = walkeep::storage::Directory::new(live.archive.root());
        let repository = Repository::new("first", "main", true, Arc::new(store));
        let lineage = Lineage { system_identifier: live.server.system_identifier(), major: 15 };
        Elsewhere { archive: repository.open(lineage).expect("open") }
    }

    /// Announces an operation of a host that nothing is known of.
    fn announce(&self, change: impl FnOnce(&mut Heartbeat), operation: Operation) -> Announcement {
        let mut notice = Heartbeat { host: "elsewhere".into(), process: None, ..Heartbeat::new(operation) };
        change(&mut notice);
        Announcement::begin(&self.archive, notice, "0123456789ab").expect("announce")
    }

    fn prune(&self, watch: Duration) -> walkeep::error::Result<Pruned> {
        let options = Options {
            policy: Policy { keep_last: Some(1), ..Policy::default() },
            discard: Default::default(),
            dry_run: false,
            now: jiff::Timestamp::now(),
            server: ServerTimeline::Unknown,
            wait: Duration::ZERO,
            staleness: Staleness { watch, ..Staleness::default() },
            random: "fedcba987654".into(),
            garbage_before: jiff::Timestamp::UNIX_EPOCH,
        };
        walkeep::retention::prune(&self.archive, &options)
    }
}

const SHORT: Duration = Duration::from_millis(400);
const HOURS: Duration = Duration::from_secs(2 * 3600);

#[test]
fn an_operation_of_another_host_is_over_when_both_signs_say_so_and_a_backup_is_fenced() {
    let (live, ids) = with_backups(2);
    let elsewhere = Elsewhere::of(&live);
    let half = "20260101T000000Z-0abcde";
    let announcement = elsewhere.announce(
        |notice| {
            notice.backup = Some(half.into());
            notice.needs = vec![ids[0].clone()];
            notice.wal_from = Some(walkeep::pg::lsn::Lsn(0));
        },
        Operation::Backup,
    );
    elsewhere.archive.put_data(&format!("{half}/pack/000001"), &vec![0; 600]).expect("store a pack");
    let file = lineage(&live.archive).join("active").join(announcement.name());
    // It is young: alive.
    let pruned = elsewhere.prune(SHORT).expect("a prune");
    assert!(pruned.plan.remove.is_empty(), "{:?}", pruned.plan);
    // It is old, but moves: alive. So is one from the future.
    for by in [HOURS, Duration::ZERO] {
        let beats = std::thread::spawn({
            let archive = elsewhere.archive.clone();
            let name = announcement.name().to_owned();
            let file = file.clone();
            move || {
                for _ in 0..100 {
                    std::thread::sleep(Duration::from_millis(10));
                    let there = archive.stored_at(&ObjectName::Active(name.clone())).expect("look");
                    assert!(there.is_some());
                    match by {
                        Duration::ZERO => {
                            let file = std::fs::OpenOptions::new().write(true).open(&file).expect("open");
                            let soon = std::time::SystemTime::now() + 2 * HOURS;
                            file.set_modified(soon).expect("set its time");
                        }
                        _ => age(&file, by),
                    }
                }
            }
        });
        age(&file, HOURS);
        let pruned = elsewhere.prune(SHORT).expect("a prune");
        assert!(pruned.plan.remove.is_empty(), "{:?}", pruned.plan);
        beats.join().expect("the beats");
    }
    // It is old and does not move: over. Its record can never come.
    age(&file, HOURS);
    let pruned = elsewhere.prune(SHORT).expect("a prune");
    assert_eq!(pruned.plan.remove.backups, ids[..1]);
    assert!(live::parts_of(live.archive.root(), half, "pack").is_empty());
    let mut record = elsewhere.archive.record(&ids[1]).expect("read").expect("a record");
    record.id = half.into();
    let error = elsewhere.archive.put_record(&record).expect_err("the fence holds");
    assert!(error.to_string().contains("fenced by a prune"), "{error}");
    assert!(announcement.confirm().is_err());
    // What stands there is no backup, and hinders nobody.
    give(&live);
    live.archive.walkeep(&["list"]).ok();
    live.archive.walkeep(&["verify"]).ok();
    drop(announcement);
}

#[test]
fn a_backup_that_was_recorded_before_it_was_taken_for_dead_stays() {
    let (live, ids) = with_backups(2);
    let elsewhere = Elsewhere::of(&live);
    let announcement = elsewhere.announce(|notice| notice.backup = Some(ids[1].clone()), Operation::Backup);
    age(&lineage(&live.archive).join("active").join(announcement.name()), HOURS);
    let pruned = elsewhere.prune(SHORT).expect("a prune");
    assert_eq!(pruned.plan.remove.backups, ids[..1]);
    assert_eq!(announced(&live.archive), Vec::<String>::new());
    assert_restores(&live.archive, &ids[1], "2000");
}

#[test]
fn a_prune_of_another_host_that_is_silent_is_finished_before_it_is_forgotten() {
    let (live, ids) = with_backups(3);
    let elsewhere = Elsewhere::of(&live);
    let announcement = elsewhere.announce(
        |notice| {
            notice.decided = true;
            notice.removing = vec![ids[1].clone()];
        },
        Operation::Prune,
    );
    let error = elsewhere.prune(SHORT).expect_err("another prune lives");
    assert_eq!(error.kind(), walkeep::error::Kind::Locked);
    give(&live);
    // Nobody may begin to need what it removes.
    let scratch = Scratch::new();
    restoring(&live.archive, &scratch.join("data"), &[&ids[1]]).go().is(1).says("prune");
    live.archive.walkeep(&["pin", &ids[1]]).is(1).says("prune");
    age(&lineage(&live.archive).join("active").join(announcement.name()), HOURS);
    let pruned = elsewhere.prune(SHORT).expect("a prune");
    assert_eq!(pruned.plan.remove.backups, ids[..2]);
    assert_eq!(announced(&live.archive), Vec::<String>::new());
    drop(announcement);
}

#[test]
fn a_pin_and_a_restore_that_come_in_between_are_seen() {
    let (live, ids) = with_backups(3);
    let archive = &live.archive;
    let Some(strace) = Strace::new() else {
        return;
    };
    // Each removal comes late, so there is time between what is announced and what is done.
    let mut archive_with_rule = Archive::build(live.server.data()).root(archive.root()).unregistered();
    archive_with_rule.set_retention(0, &["keep_last = 1"]);
    let strace = strace.detached().trace("openat2").inject("openat2:delay_enter=15000");
    let run = archive_with_rule.run("walkeep").args(["prune", "--json"]);
    let child = strace.spawn(&run);
    until("it has announced itself", || !announced(archive).is_empty());
    let pinned = archive.walkeep(&["pin", &ids[0]]);
    let outcome = run.finish(child).ok();
    let there = listed(&live.archive).contains(&ids[0]);
    assert_eq!(there, pinned.code() == Some(0), "{pinned}\n{outcome}");
    assert!(listed(&live.archive).contains(&ids[2]));
    if there {
        assert_restores(archive, &ids[0], "1000");
    }
}

#[test]
fn what_a_running_backup_goes_on_from_stays_and_what_a_prune_removes_is_not_gone_on_from() {
    let (live, ids) = with_backups(1);
    let elsewhere = Elsewhere::of(&live);
    // As if it had been killed before its last step.
    let left = ids[0].as_str();
    std::fs::remove_file(live::record_of(live.archive.root(), left)).expect("remove the record");
    let packs = || live::parts_of(live.archive.root(), left, "pack").len();
    let running = elsewhere.announce(|notice| notice.needs = vec![left.into()], Operation::Backup);
    elsewhere.prune(SHORT).expect("a prune");
    assert_ne!(packs(), 0, "a running backup needs it");

    drop(running);
    let removing = elsewhere.announce(|notice| notice.removing = vec![left.into()], Operation::Prune);
    account::give_all(&lineage(&live.archive));
    let outcome = live.backing_up().go().ok();
    assert!(!outcome.stderr.contains(left), "{outcome}");
    drop(removing);
    elsewhere.prune(SHORT).expect("a prune");
    assert_eq!(packs(), 0, "nobody needs it");
}
