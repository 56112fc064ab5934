//! A spool in which another user has put something, and calls by root.

use super::*;
use crate::support::account::account;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn site() -> Site {
    Site::build(|build| build.wal("fetch_ahead = 2").wal("push_ahead = 2"))
}

/// Whether the tests run as root, which alone can act for several users.
fn is_root(test: &str) -> bool {
    if !account().root {
        skipped("root", test);
    }
    account().root
}

/// Writes segments that the server has declared ready.
fn ready(site: &Site, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    let mut paths = Vec::new();
    for number in numbers {
        let path = site.data.write(&site.segment(number));
        let status = path.replace("pg_wal/", "pg_wal/archive_status/") + ".ready";
        scratch::write(&site.data.path.join(status), "");
        paths.push(path);
    }
    settle(site, &paths);
    paths
}

fn every_path(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in std::fs::read_dir(directory).expect("list").flatten() {
        match entry.file_type().expect("its type").is_dir() {
            true => found.extend(every_path(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// The calls of this server do their work, and put nothing into the spool.
#[track_caller]
fn works_without(site: &Site, first: u64, what: &str) {
    let files = ready(site, first..first + 3);
    let pushed = site.archive.push(&files[0]).ok().says("go on without the spool").says(what);
    assert!(pushed.stderr.contains("hint: "), "{pushed}");
    assert!(site.archive.find(&site.segment(first + 1).name()).is_none(), "a segment was pushed ahead");
    for file in &files[1..] {
        site.archive.push(file).ok();
    }
    let segment = site.segment(first);
    let fetched = site.archive.fetch(&segment.name()).ok().says("go on without the spool").says(what);
    assert!(read(site.archive.destination()) == segment.bytes(), "{fetched}");
    assert_eq!(workers(&site.archive), Vec::<u32>::new());
    let names: Vec<String> = spooled_names(&site.archive);
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn folders_of_another_user_in_the_spool_are_not_used() {
    if !is_root("only root can give files to another user") {
        return;
    }
    let site = site();
    // The names of the folders can be found out.
    site.pushed(&[1]);
    site.archive.push(&ready(&site, 2..=4)[0]).ok();
    site.archive.fetch(&site.segment(1).name()).ok();
    until("the worker keeps a segment", || !spooled_names(&site.archive).is_empty());
    end_workers(&site.archive);
    let spool = spool(&site.archive);
    let folders: Vec<PathBuf> = every_path(&spool).into_iter().filter(|path| path.is_dir()).collect();
    for depth in 0..3 {
        std::fs::remove_dir_all(&spool).expect("remove the spool");
        for folder in &folders {
            std::fs::create_dir(folder).expect("create a folder");
            let is_foreign = folder.strip_prefix(&spool).expect("below").components().count() == depth;
            let owner = if is_foreign { 65534 } else { account().uid };
            let mode = if is_foreign { 0o777 } else { 0o700 };
            std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).expect("chmod");
            std::os::unix::fs::chown(folder, Some(owner), None).expect("chown");
        }
        works_without(&site, 10 * (depth as u64 + 1), "belongs to user 65534 and has mode 0777");
    }
}

#[test]
fn a_spool_that_others_may_write_to_is_not_used() {
    let site = site();
    let spool = scratch_dir(&site, 0o777);
    works_without(&site, 1, "has mode 0777");
    // In a sticky directory, such as /tmp, nobody else can remove or replace the folders.
    std::fs::set_permissions(&spool, PermissionsExt::from_mode(0o1777)).expect("chmod");
    let files = ready(&site, 11..=13);
    let pushed = site.archive.push(&files[0]).ok();
    assert!(pushed.stderr.is_empty(), "{pushed}");
    assert!(site.archive.find(&site.segment(12).name()).is_some(), "nothing was pushed ahead");
}

/// Creates the spool with a mode.
fn scratch_dir(site: &Site, mode: u32) -> PathBuf {
    let spool = site.archive.scratch().mkdir("spool");
    std::fs::set_permissions(&spool, PermissionsExt::from_mode(mode)).expect("chmod");
    spool
}

#[test]
fn links_in_the_place_of_folders_of_the_spool_are_not_followed() {
    let site = site();
    site.archive.push(&ready(&site, 1..=3)[0]).ok();
    let spool = spool(&site.archive);
    let folder = every_path(&spool).into_iter().find(|path| path.ends_with("push")).expect("the folder");
    let elsewhere = site.scratch.mkdir("elsewhere");
    scratch::write(&elsewhere.join("kept"), "content");
    std::fs::remove_dir_all(&folder).expect("remove the folder");
    std::os::unix::fs::symlink(&elsewhere, &folder).expect("plant a link");
    let files = ready(&site, 4..=6);
    site.archive.push(&files[0]).ok().says("is a symbolic link");
    assert_eq!(repo::files(&elsewhere), [elsewhere.join("kept")]);
}

#[test]
fn what_stands_in_the_place_of_spool_files_holds_no_call_up() {
    for what in ["fifo", "link", "directory", "device"] {
        if what == "device" && !account().root {
            continue;
        }
        let site = site();
        site.pushed(&[1, 2, 3]);
        site.archive.fetch(&site.segment(1).name()).ok();
        until("a segment is kept", || spooled_names(&site.archive).len() == 4);
        end_workers(&site.archive);
        site.archive.push(&ready(&site, 11..=13)[0]).ok();
        for file in repo::files(&spool(&site.archive)) {
            std::fs::remove_file(&file).expect("remove a file");
            match what {
                "fifo" => drop(Run::new("mkfifo").arg(&file).go().ok()),
                "link" => std::os::unix::fs::symlink("/dev/zero", &file).expect("plant a link"),
                "directory" => std::fs::create_dir(&file).expect("plant a directory"),
                _ => drop(Run::new("mknod").arg(&file).args(["c", "1", "5"]).by_root().go().ok()),
            }
        }
        for number in 11..=13 {
            site.archive.push(format!("pg_wal/{}", site.segment(number).name())).ok();
        }
        for number in 1..=3 {
            site.holds(&site.segment(number).name(), &site.segment(number).bytes());
        }
        end_workers(&site.archive);
    }
}

#[test]
fn what_root_pushes_and_fetches_belongs_to_the_server() {
    if !is_root("only root can push as root") {
        return;
    }
    let site = site();
    let files = ready(&site, 1..=4);
    site.archive.pushing(&files[0]).by_root().go().ok();
    let name = site.segment(1).name();
    site.archive.fetching(&name, "pg_wal/RECOVERYXLOG").by_root().go().ok();
    until("the worker keeps segments", || spooled_names(&site.archive).len() >= 4);
    for path in every_path(&spool(&site.archive)).into_iter().chain([site.archive.destination()]) {
        let meta = std::fs::symlink_metadata(&path).expect("look at it");
        assert_eq!((meta.uid(), meta.gid()), (account().uid, account().gid), "{}", path.display());
        assert_eq!(meta.mode() & 0o077, 0, "{}", path.display());
    }
    end_workers(&site.archive);
    for (file, number) in files.iter().zip(1..) {
        site.archive.push(file).ok();
        site.holds(&site.segment(number).name(), &site.segment(number).bytes());
    }
    end_workers(&site.archive);
    // Root takes what the server's worker has kept, which then still belongs to the server.
    site.archive.fetch(&name).ok();
    until("the worker keeps segments", || spooled_names(&site.archive).len() >= 4);
    let next = site.segment(2);
    let elsewhere = site.scratch.mkdir("of-root");
    std::os::unix::fs::chown(&elsewhere, Some(0), Some(0)).expect("chown");
    for (destination, owner) in
        [(elsewhere.join("segment"), 0), (site.data.path.join("pg_wal/RECOVERYXLOG"), account().uid)]
    {
        site.archive.fetching(&next.name(), &destination).by_root().go().ok();
        assert!(read(&destination) == next.bytes());
        assert_eq!(std::fs::metadata(&destination).expect("look at it").uid(), owner);
    }
    end_workers(&site.archive);
}

#[test]
fn root_fetches_over_no_file_that_another_user_planted() {
    if !is_root("only root can fetch as root") {
        return;
    }
    let site = site();
    let name = site.pushed(&[1]).remove(0);
    let secret = site.scratch.write("secret", "content of root");
    std::os::unix::fs::chown(&secret, Some(0), Some(0)).expect("chown");
    let part = site.data.path.join("pg_wal/RECOVERYXLOG.walfetch");
    for what in ["link", "hard link"] {
        let _ = std::fs::remove_file(&part);
        match what {
            "link" => std::os::unix::fs::symlink(&secret, &part).expect("plant a link"),
            _ => std::fs::hard_link(&secret, &part).expect("plant a hard link"),
        }
        let outcome = site.archive.fetching(&name, "pg_wal/RECOVERYXLOG").by_root().go();
        // Root fetches as the server, which may not open the file of root.
        assert!(matches!(outcome.code(), Some(0 | 200)), "{outcome}");
        assert_eq!(read(&secret), b"content of root", "{what}");
        assert_eq!(std::fs::metadata(&secret).expect("look at it").uid(), 0, "{what}");
    }
}
