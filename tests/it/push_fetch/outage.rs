//! What happens while the archive cannot answer: never "the end", and more than one repository.

use super::*;
use std::path::Path;

const READS: &str = "openat,openat2,open,read,pread64,readv,mmap,stat,newfstatat,statx,getdents64";

/// A fetch while calls on one path fail. Below a repository files are opened by their path from
/// its root.
#[track_caller]
fn fetch_with(site: &Site, name: &str, path: &Path, fault: &str) -> Option<strace::Traced> {
    let below = path.strip_prefix(site.archive.root()).unwrap_or(path);
    let strace = Strace::new()?.only(path).only(below).inject(fault);
    let traced = strace.go(&site.archive.fetching(name, "pg_wal/RECOVERYXLOG"));
    assert!(traced.was_hit(), "{fault} hit nothing\n{}", traced.story());
    Some(traced)
}

#[test]
fn an_input_error_is_never_the_end_of_the_archive() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let object = site.archive.object(&names[0]);
    for error in ["EIO", "ESTALE", "ETIMEDOUT", "EACCES", "EMFILE"] {
        for calls in ["openat,openat2", "read,pread64,readv"] {
            let Some(traced) = fetch_with(&site, &names[0], &object, &format!("{calls}:error={error}"))
            else {
                return;
            };
            traced.outcome.fatal();
            assert!(!site.archive.destination().exists());
        }
    }
    site.holds(&names[0], &site.segment(2).bytes());
}

#[test]
fn an_input_error_while_looking_for_later_files_is_never_the_end_of_the_archive() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let directory = site.archive.object(&names[0]);
    for directory in directory.ancestors().skip(1).take_while(|place| *place != site.archive.root()) {
        for error in ["EIO", "ESTALE"] {
            let Some(strace) = Strace::new() else {
                return;
            };
            let strace = strace.only(directory).inject(&format!("{READS}:error={error}"));
            let missing = site.segment(3).name();
            let traced = strace.go(&site.archive.fetching(&missing, "pg_wal/RECOVERYXLOG"));
            if traced.was_hit() {
                traced.outcome.fatal();
            } else {
                traced.outcome.absent();
            }
        }
    }
}

#[test]
fn with_two_repositories_a_push_needs_both() {
    let place = Scratch::new();
    let (one, other) = (place.mkdir("one"), place.mkdir("other"));
    let site = Site::build(|build| build.root(&one).root(&other));
    let name = site.pushed(&[2]).remove(0);
    for root in site.archive.roots() {
        assert_eq!(repo::stored_in(root).len(), 1);
    }
    let away = other.with_extension("away");
    std::fs::rename(&other, &away).expect("move a repository away");
    site.push(&site.segment(3)).refused();
    assert_eq!(repo::stored_in(&one).len(), 2, "the good repository has it");
    site.holds(&name, &site.segment(2).bytes());
    site.holds(&site.segment(3).name(), &site.segment(3).bytes());
    std::fs::rename(&away, &other).expect("bring the repository back");
    site.push(&site.segment(3)).ok();
    assert_eq!(repo::stored_in(&other).len(), 2);
}

#[test]
fn an_optional_repository_that_is_away_stops_no_push() {
    let place = Scratch::new();
    let (one, other) = (place.mkdir("one"), place.mkdir("other"));
    let site = Site::build(|build| build.root(&one).root(&other).optional(1));
    std::fs::rename(&other, other.with_extension("away")).expect("move a repository away");
    let outcome = site.push(&site.segment(2)).ok();
    assert!(!outcome.stderr.is_empty(), "no warning");
    assert_eq!(repo::stored_in(&one).len(), 1);
    assert!(!other.exists());
}

#[test]
fn with_two_repositories_only_both_together_prove_an_end() {
    let place = Scratch::new();
    let (one, other) = (place.mkdir("one"), place.mkdir("other"));
    let site = Site::build(|build| build.root(&one).root(&other));
    let names = site.pushed(&[2]);
    let missing = site.segment(3).name();
    site.archive.fetch_ends(&missing);
    for gone in [&one, &other] {
        let away = gone.with_extension("away");
        std::fs::rename(gone, &away).expect("move a repository away");
        site.archive.fetch_fails(&missing);
        site.archive.fetch_fails("00000002.history");
        site.holds(&names[0], &site.segment(2).bytes());
        std::fs::rename(&away, gone).expect("bring the repository back");
    }
    // Damage in one of them: the other helps out, and somebody is told.
    for root in [&one, &other] {
        let object = repo::stored_in(root).remove(0).1;
        let intact = read(&object);
        repo::damage(&object, repo::Damage::Flip(-10));
        site.holds(&names[0], &site.segment(2).bytes());
        let _ = std::fs::remove_file(&object);
        site.holds(&names[0], &site.segment(2).bytes());
        scratch::write(&object, intact);
    }
    // A hole in one is filled from the other, and a hole in both is a hole.
    site.pushed(&[3, 4]);
    for root in [&one, &other] {
        let object = repo::stored_in(root).remove(1).1;
        std::fs::remove_file(object).expect("remove an object");
        if root == &one {
            site.holds(&missing, &site.segment(3).bytes());
        }
    }
    site.archive.fetch_fails(&missing);
}

#[test]
fn a_data_directory_that_cannot_be_looked_at_is_not_taken_for_another_place() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let file = site.data.write(&site.segment(3));
    for name in ["PG_VERSION", "global/pg_control"] {
        let path = site.data.path.join(name);
        for run in [site.archive.fetching(&names[0], "pg_wal/RECOVERYXLOG"), site.archive.pushing(&file)] {
            let Some(strace) = Strace::new() else {
                return;
            };
            let strace = strace.only(&path).inject("statx,stat,newfstatat:error=EIO:when=1");
            let traced = strace.go(&run);
            assert!(traced.was_hit(), "{}", traced.story());
            assert_ne!(traced.outcome.code(), Some(0), "{}", traced.story());
            traced.outcome.told();
        }
    }
    site.push(&site.segment(3)).ok();
}

#[test]
fn a_repository_that_is_unmounted_in_the_middle_is_never_the_end_of_the_archive() {
    let Some(tmpfs) = Tmpfs::mount("20m") else {
        return;
    };
    let site = Site::build(|build| build.root(tmpfs.path()));
    let names = site.pushed(&[2, 3]);
    let missing = site.archive.object(&names[0]);
    std::fs::remove_file(&missing).expect("make a hole");
    let Some(strace) = Strace::new() else {
        return;
    };
    // It has shown its identity, and does not have the segment; what comes next is whether it has
    // later ones.
    let missing = missing.strip_prefix(site.archive.root()).expect("below the root");
    let strace = strace.trace("openat2").only(missing).inject("openat2:signal=STOP:when=1");
    let run = site.archive.fetching(&names[0], "pg_wal/RECOVERYXLOG");
    let child = strace.spawn(&run);
    until("it has looked for the segment", || strace.text().contains("stopped by SIGSTOP"));
    tmpfs.unmount();
    run::signal(strace.await_call(), "CONT");
    run.finish(child).fatal();
}

#[test]
fn a_file_system_without_locks_is_not_taken_for_another_call() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let Some(strace) = Strace::new() else {
        return;
    };
    let strace = strace.trace("flock").inject("flock:error=ENOLCK");
    let traced = strace.go(&site.archive.fetching(&names[0], "pg_wal/RECOVERYXLOG"));
    assert!(traced.was_hit(), "{}", traced.story());
    let outcome = traced.outcome.fatal();
    assert!(!outcome.stderr.contains("another walfetch"), "{outcome}");
}
