//! A restore by root for another user: it changes nothing outside of its directories, whatever that
//! user or the repository put in the way, and what it writes has owners and modes of PostgreSQL.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether the tests run as root; otherwise the output says that this one was skipped.
fn is_root() -> bool {
    let is_root = account::account().root;
    if !is_root {
        skipped("root", "only root restores for another user");
    }
    is_root
}

/// A restore by root, as root's shell starts it.
fn as_root(archive: &Archive, to: &Path, arguments: &[&str]) -> Run {
    restoring(archive, to, arguments).by_root()
}

/// A directory of root with files of root.
fn of_root(scratch: &Scratch) -> PathBuf {
    let place = scratch.join("of root");
    std::fs::create_dir_all(place.join("1")).expect("make a directory");
    for name in ["PG_VERSION", "1259", "pg_control", "1/1259", "secret"] {
        std::fs::write(place.join(name), "of root").expect("write");
        std::fs::set_permissions(place.join(name), PermissionsExt::from_mode(0o600)).expect("a mode");
    }
    place
}

/// Everything below a directory that a restore could change.
fn state(directory: &Path) -> Vec<(PathBuf, u32, u32, u32, u64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("look");
        let content = if meta.is_file() { read(&path) } else { Vec::new() };
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("list").map(|entry| entry.expect("list").path()));
        }
        found.push((path, meta.mode(), meta.uid(), meta.gid(), meta.nlink(), content));
    }
    found.sort();
    found
}

#[test]
fn links_that_take_the_place_of_directories_meanwhile_lead_root_nowhere() {
    if !is_root() {
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let data = scratch.join("data");
    restoring(&archive, &data, &[]).go().ok();
    let victim = of_root(&scratch);
    let links = scratch.mkdir("links");
    let before = state(&victim);
    let names = ["global", "base/1", "base", "pg_wal"];
    for name in names {
        let link = links.join(name.replace('/', "-"));
        symlink(&victim, &link).expect("make a link");
        account::give(&link);
    }
    let (ended, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut codes = Vec::new();
    std::thread::scope(|scope| {
        // The names and their links change places all the time.
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !ended.load(Ordering::Relaxed) {
                for name in names {
                    let (place, link) = (data.join(name), links.join(name.replace('/', "-")));
                    for _ in 0..2 {
                        let swapped = renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE);
                        swaps.fetch_add(usize::from(swapped.is_ok()), Ordering::Relaxed);
                    }
                }
            }
        });
        for _ in 0..12 {
            let outcome = as_root(&archive, &data, &["--delta", "--quick"]).go();
            codes.push(outcome.code());
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert!(swaps.load(Ordering::Relaxed) > 1000, "{swaps:?} swaps");
    assert_eq!(state(&victim), before, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 1))), "{codes:?}");
    // Nothing is left that keeps the next restore from its work.
    for name in names {
        let (place, link) = (data.join(name), links.join(name.replace('/', "-")));
        if place.is_symlink() {
            std::fs::remove_file(&place).expect("remove the link");
            std::fs::rename(&link, &place).ok();
        }
    }
    let last = as_root(&archive, &data, &["--delta"]).go().ok();
    assert_eq!(state(&victim), before, "{last}");
    pg::tool("pg_verifybackup").arg(&data).go().ok();
}

#[test]
fn what_the_owner_of_the_directory_has_planted_leads_root_nowhere() {
    if !is_root() {
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let victim = of_root(&scratch);
    let before = state(&victim);
    let secret = victim.join("secret");
    let planted: [(&str, &Path); 8] = [
        ("walkeep.restoring", &secret),
        ("backup_manifest", &secret),
        ("recovery.signal", &secret),
        ("postgresql.auto.conf", &secret),
        ("global/pg_control", &secret),
        ("base/1/1259", &secret),
        ("base/1", &victim),
        ("pg_tblspc", &victim),
    ];
    for (name, target) in planted {
        let data = scratch.join("data");
        restoring(&archive, &data, &[]).go().ok();
        let place = data.join(name);
        if place.is_dir() {
            std::fs::rename(&place, scratch.join("away")).expect("move it away");
        } else {
            std::fs::remove_file(&place).ok();
        }
        symlink(target, &place).expect("make a link");
        account::give(&place);
        let outcome = as_root(&archive, &data, &["--delta", "--quick"]).go();
        assert!(matches!(outcome.code(), Some(0 | 1)), "{name}: {outcome}");
        assert_eq!(state(&victim), before, "{name}: {outcome}");
        std::fs::remove_dir_all(&data).expect("remove it");
        std::fs::remove_dir_all(scratch.join("away")).ok();
    }
}

#[test]
fn a_link_of_another_user_does_not_choose_the_directory_of_root() {
    if !is_root() {
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let empty = scratch.join("empty");
    std::fs::create_dir(&empty).expect("make a directory of root");
    let link = scratch.join("data");
    symlink(&empty, &link).expect("make a link");
    account::give(&link);
    for to in [link.clone(), link.join("below")] {
        let outcome = as_root(&archive, &to, &["--quick"]).go().is(1).told();
        assert!(outcome.stderr.contains("leads through a link"), "{outcome}");
        assert_eq!(std::fs::read_dir(&empty).expect("list").count(), 0, "{outcome}");
    }
    assert_eq!(empty.metadata().expect("look").uid(), 0);
    // Root's own link, and one to a directory of the same user.
    std::os::unix::fs::lchown(&link, Some(0), Some(0)).expect("give it to root");
    as_root(&archive, &link, &["--quick"]).go().ok();
}

#[test]
fn restored_files_have_the_owner_and_the_modes_of_a_data_directory() {
    let live = Live::new();
    let data = live.server.data().to_owned();
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(data.join(name), PermissionsExt::from_mode(mode)).expect("set a mode");
    };
    for (name, bits) in [("program", 0o6755), ("open", 0o666), ("closed", 0o400)] {
        scratch::write(&data.join(name), name);
        mode(name, bits);
    }
    std::fs::create_dir(data.join("shared")).expect("make a directory");
    account::give(&data.join("shared"));
    mode("shared", 0o3777);
    scratch::write(&data.join("server.key"), "a key");
    if account::account().root {
        std::os::unix::fs::chown(data.join("server.key"), Some(0), Some(account::account().gid))
            .expect("give it to root");
        mode("server.key", 0o640);
    }
    live.backup();
    let mut ways = vec![false];
    ways.extend(account::account().root.then_some(true));
    for is_root in ways {
        let scratch = Scratch::new();
        let to = scratch.join("data");
        let run = restoring(&live.archive, &to, &["--quick"]);
        let run = if is_root { run.by_root() } else { run };
        run.go().ok();
        for (name, expected) in [
            ("", 0o700),
            ("shared", 0o700),
            ("program", 0o700),
            ("open", 0o600),
            ("closed", 0o600),
            ("server.key", 0o600),
            ("postgresql.auto.conf", 0o600),
            ("backup_manifest", 0o600),
            ("recovery.signal", 0o600),
        ] {
            let meta = std::fs::metadata(to.join(name)).expect("look");
            let account = account::account();
            let found = (meta.mode() & 0o7777, meta.uid(), meta.gid());
            assert_eq!(found, (expected, account.uid, account.gid), "{name}, root: {is_root}");
        }
        pg::tool("pg_verifybackup").arg(&to).go().ok();
    }
}

#[test]
fn root_creates_a_tablespace_only_where_its_owner_could_or_an_option_names_it() {
    if !is_root() {
        return;
    }
    let live = Live::new();
    let home = live.server.scratch().mkdir("home");
    let location = home.join("space");
    scratch_directory(&location);
    live.server.psql(&format!("create tablespace space location '{}'", location.display()));
    live.server.psql("create table t tablespace space as select 1 i");
    let oid = live.server.psql("select oid from pg_tablespace where spcname = 'space'");
    live.backup();
    live.server.stop(Stop::Fast);
    std::fs::remove_dir_all(&location).expect("lose the tablespace");
    std::fs::remove_dir_all(live.server.data()).expect("lose the data directory");
    let scratch = Scratch::new();
    let hint = format!("--tablespace {oid}={}", location.display());
    let account = account::account();
    let chown = |path: &Path, uid: u32| std::os::unix::fs::chown(path, Some(uid), None).expect("chown");
    let open = |mode: u32| {
        std::fs::set_permissions(&home, PermissionsExt::from_mode(mode)).expect("set a mode");
    };
    let refused = |what: &str| {
        let to = scratch.join("data");
        for dry_run in [true, false] {
            let arguments: &[&str] = if dry_run { &["--dry-run"] } else { &[] };
            let outcome = as_root(&live.archive, &to, arguments).go().is(1).told();
            assert!(outcome.stderr.contains(&hint), "{what}: {outcome}");
            assert!(!to.exists(), "{what}");
        }
    };
    chown(&home, 0);
    refused("in a directory of root");
    chown(&home, account.uid);
    open(0o777);
    refused("in a directory that every user can write");
    assert!(!location.exists());
    std::fs::create_dir(&location).expect("make a directory of root");
    refused("a directory of root");
    assert_eq!(location.metadata().expect("look").uid(), 0);
    // A restore that was killed may have left it like this.
    open(0o755);
    as_root(&live.archive, &scratch.join("one"), &[]).go().ok();
    assert_eq!(location.metadata().expect("look").uid(), account.uid);
    std::fs::remove_dir_all(&location).expect("remove it");
    as_root(&live.archive, &scratch.join("two"), &[]).go().ok();
    std::fs::remove_dir_all(&location).expect("remove it");
    chown(&home, 0);
    let named = format!("{oid}={}", location.display());
    as_root(&live.archive, &scratch.join("three"), &["--tablespace", &named]).go().ok();
    assert_eq!(location.metadata().expect("look").uid(), account.uid);
}

fn scratch_directory(path: &Path) {
    std::fs::create_dir(path).expect("make a directory");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).expect("set its mode");
    account::give(path);
}

#[test]
fn a_link_in_the_data_directory_does_not_choose_the_directory_of_the_wal_for_root() {
    if !is_root() {
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let data = scratch.join("data");
    restoring(&archive, &data, &[]).go().ok();
    let empty = scratch.join("rooted/empty");
    std::fs::create_dir_all(&empty).expect("make a directory of root");
    let wal = data.join("pg_wal");
    for target in [empty.clone(), scratch.join("missing/wal")] {
        if wal.is_symlink() {
            std::fs::remove_file(&wal).expect("remove the link");
        } else {
            std::fs::remove_dir_all(&wal).expect("remove it");
        }
        symlink(&target, &wal).expect("make a link");
        account::give(&wal);
        let outcome = as_root(&archive, &data, &["--delta", "--quick"]).go().is(1).told();
        assert!(outcome.stderr.contains(&format!("--waldir {}", target.display())), "{outcome}");
        assert!(!scratch.join("missing").exists(), "{outcome}");
        assert_eq!(std::fs::read_dir(&empty).expect("list").count(), 0, "{outcome}");
        assert_eq!(empty.metadata().expect("look").uid(), 0);
    }
    let waldir = empty.to_str().expect("a path");
    as_root(&archive, &data, &["--delta", "--quick", "--waldir", waldir]).go().ok();
}

#[test]
fn a_user_who_may_list_the_directory_does_not_keep_a_restore_out() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let to = scratch.mkdir("data");
    let held = std::fs::File::open(&to).expect("open");
    held.try_lock().expect("hold the lock of the directory");
    restoring(&archive, &to, &["--quick"]).go().ok();
    pg::tool("pg_verifybackup").arg(&to).go().ok();
}
