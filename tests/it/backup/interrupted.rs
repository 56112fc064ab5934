//! Backups that are killed, and two at once.

use super::*;
use crate::support::run::signal;
use std::io::Read;
use std::path::{Path, PathBuf};

#[test]
fn a_killed_backup_is_never_listed_and_does_not_hinder_the_next() {
    let live = Live::new();
    let add = "insert into t select from generate_series(1, 1000)";
    live.server.psql("create table t (i serial primary key)");
    let calls =
        "write,pwrite64,writev,fsync,fdatasync,syncfs,renameat2,renameat,rename,link,linkat,mkdir,mkdirat";
    let mut listed = Vec::new();
    let mut killed = 0;
    for (fault, nth) in [
        (calls, 1),
        (calls, 9),
        (calls, 30),
        ("fsync,fdatasync,syncfs", 2),
        ("fsync,fdatasync,syncfs", 4),
        ("renameat2,renameat,rename,link,linkat", 1),
        ("renameat2,renameat,rename,link,linkat", 2),
    ] {
        let Some(strace) = Strace::new() else {
            return;
        };
        live.server.psql(add);
        let strace = strace.trace(fault).inject(&format!("{fault}:signal=KILL:when={nth}"));
        let traced = strace.go(&live.backing_up());
        if traced.outcome.code() == Some(0) {
            listed = live.records();
            continue;
        }
        killed += 1;
        // One that is killed behind its last step is complete, and restores.
        let now = live.records();
        if now.len() > listed.len() {
            live.restore(&[&now[now.len() - 1], "--immediate"]).verified();
        }
        assert!(now.starts_with(&listed), "{fault} {nth}");
        listed = now;
        live.server
            .await_sql("select count(*) from pg_stat_activity where backend_type = 'client backend'", "1");
    }
    assert!(killed >= 4, "only {killed} backups were killed");
    // What the killed ones copied is never used: the data changed since.
    live.server.psql("update t set i = i + 1000000");
    live.server.psql("checkpoint");
    let id = live.backup_id();
    let server = live.restore(&[&id]).verified().recovered();
    assert_eq!(
        server.psql("select count(*) from t where i > 1000000"),
        live.server.psql("select count(*) from t")
    );
    assert_sound(&server);
}

/// Bytes of packs in the repository.
fn stored_packs(live: &Live) -> u64 {
    let files = repo::files(live.archive.root()).into_iter();
    files
        .filter(|path| path.parent().is_some_and(|folder| folder.ends_with("pack")))
        .map(|path| size(&path))
        .sum()
}

fn size(path: &Path) -> u64 {
    path.metadata().map(|meta| meta.len()).unwrap_or_default()
}

#[test]
fn what_a_killed_backup_has_stored_is_not_stored_again() {
    let mut live = Live::new();
    // Enough for several packs and parts of the manifest, in many files.
    let folder = live.server.data().join("base/extra");
    std::fs::create_dir(&folder).expect("make a folder");
    let mut random = std::fs::File::open("/dev/urandom").expect("random bytes");
    let mut bytes = vec![0; 4000];
    for number in 0..24_000 {
        random.read_exact(&mut bytes).expect("random bytes");
        std::fs::write(folder.join(format!("{number:06}")), &bytes).expect("write a file");
    }
    account::give_all(&folder);
    let run = live.backing_up().arg("--rate=60MB");
    let child = run.spawn();
    let root = live.archive.root().to_owned();
    let parts = |kind: &str| {
        let is_part = |path: &PathBuf| path.parent().is_some_and(|folder| folder.ends_with(kind));
        repo::files(&root).into_iter().filter(is_part).count()
    };
    until("a pack and a part of the manifest are stored", || parts("manifest") > 0 && parts("pack") > 0);
    signal(child.id(), "KILL");
    assert_ne!(run.finish(child).code(), Some(0));
    assert_eq!(live.records(), Vec::<String>::new());
    let left = stored_packs(&live);

    // What changed since then is not taken from there, whatever the file system says of it.
    let changed = folder.join("000010");
    let before = changed.metadata().and_then(|meta| meta.modified()).expect("its time");
    random.read_exact(&mut bytes).expect("random bytes");
    std::fs::write(&changed, &bytes).expect("change a file");
    std::fs::File::open(&changed).and_then(|file| file.set_modified(before)).expect("set its time");
    let outcome = live.backing_up().go().ok();
    assert!(outcome.stderr.contains("which did not finish"), "{outcome}");
    let id = live::text(&live::json(&outcome), "id");
    let added = stored_packs(&live) - left;
    assert!(added < 24_000 * 4000 - left / 2, "{added} bytes were added to {left}");
    let restored = live.restore(&[&id, "--immediate"]).verified();
    for number in [0, 10, 11, 23_999] {
        let name = format!("base/extra/{number:06}");
        let [here, there] = [live.server.data(), &restored.data].map(|data| std::fs::read(data.join(&name)));
        assert_eq!(here.expect("the file"), there.expect("the restored file"), "{name}");
    }

    // What the next one needs of it stays, the rest goes.
    live.archive.set_retention(0, &["keep_last = 1"]);
    live.archive.run("walkeep").arg("prune").go().ok();
    live.archive.run("walkeep").arg("verify").go().ok();
    let leftover = |name: &str| live::parts_of(&root, name, "manifest").len();
    let folders = std::fs::read_dir(saga::lineage(&live.archive).join("data")).expect("list").flatten();
    let others: Vec<String> =
        folders.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| *name != id).collect();
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(leftover(&others[0]), 0, "the manifest of what never was is gone");
    live.restore(&[&id, "--immediate"]).verified();
}

#[test]
fn a_backup_stopped_by_hand_is_never_listed() {
    let live = Live::new();
    for name in ["TERM", "INT", "KILL"] {
        let Some(slow) = Slow::begin(&live, &[]) else {
            return;
        };
        signal(slow.child.id(), name);
        let outcome = slow.finish();
        assert_ne!(outcome.code(), Some(0), "{outcome}");
        assert_eq!(live.records(), Vec::<String>::new());
    }
    live.backup();
}

#[test]
fn a_second_backup_at_once_ends_with_status_4_or_waits() {
    let live = Live::new();
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    let second = live.backing_up().deadline(Duration::from_secs(20)).go().is(4).told();
    assert!(second.stderr.contains("--wait"), "{second}");
    live.backing_up().arg("--wait=100ms").go().is(4);
    let waiting = live.backing_up().arg("--wait");
    let child = waiting.spawn();
    slow.finish().ok();
    waiting.finish(child).ok();
    assert_eq!(live.records().len(), 2);
    // Two backups of one moment have names of their own.
    let ids = [live.backup_id(), live.backup_id()];
    assert_ne!(ids[0], ids[1]);
}
