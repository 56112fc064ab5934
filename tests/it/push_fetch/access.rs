//! Repositories that are full, read-only, forbidden or not mounted, and who may read what is
//! stored.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("change a mode");
}

#[test]
fn a_full_repository_keeps_what_it_has_and_works_again_when_there_is_space() {
    let Some(disk) = Tmpfs::mount("20m") else {
        return;
    };
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 16);
    let archive = Archive::build(&data.path).root(disk.path()).create();
    let (first, second) = (data.segment(2).noise(), data.segment(3).noise());
    archive.push(data.write(&first)).ok();
    let before = archive.snapshot();
    for _ in 0..2 {
        archive.push(data.write(&second)).refused();
        assert_no_trace(&archive, &second.name());
    }
    // Directories may have been made for the second; its bytes may not have stayed.
    let files = |snapshot: &repo::Snapshot| snapshot.paths().into_iter().filter(|p| p.is_file()).count();
    assert_eq!(files(&archive.snapshot()), files(&before));
    assert!(archive.fetched(&first.name()) == first.bytes());
    disk.remount("size=64m");
    archive.push(data.write(&second)).ok();
    assert!(archive.fetched(&second.name()) == second.bytes());
}

#[test]
fn a_full_destination_is_no_end_of_the_archive() {
    let Some(disk) = Tmpfs::mount("8m") else {
        return;
    };
    let site = Site::with(15, SYSTEM, 16);
    let segment = site.segment(2).noise();
    site.push(&segment).ok();
    let destination = disk.path().join("RECOVERYXLOG");
    site.archive.fetching(&segment.name(), &destination).go().fatal();
    assert_eq!(repo::files(disk.path()), Vec::<PathBuf>::new());
    disk.remount("ro");
    site.archive.fetching(&segment.name(), &destination).go().fatal();
    disk.remount("rw,size=64m");
    site.archive.fetching(&segment.name(), &destination).go().ok();
    assert!(read(destination) == segment.bytes());
}

#[test]
fn a_read_only_repository_is_read_and_not_written() {
    let Some(disk) = Tmpfs::mount("64m") else {
        return;
    };
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
    let archive = Archive::build(&data.path).root(disk.path()).create();
    let (first, second) = (data.segment(2), data.segment(3));
    archive.push(data.write(&first)).ok();
    disk.remount("ro");
    let before = archive.snapshot();
    archive.push(data.write(&second)).refused().says(disk.path().to_str().expect("a path"));
    assert!(archive.fetched(&first.name()) == first.bytes());
    archive.fetch_ends(&second.name());
    archive.fetch_ends("00000002.history");
    assert_eq!(archive.snapshot(), before);
    disk.remount("rw");
    archive.push(data.write(&second)).ok();
}

#[test]
fn a_forbidden_directory_is_an_error_and_not_an_empty_archive() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let object = site.archive.object(&names[0]);
    let root = site.archive.root().to_owned();
    let new = site.data.write(&site.segment(3));
    let mut forbidden = Vec::new();
    for place in object.ancestors().take_while(|place| place.starts_with(&root)) {
        forbidden.push((place.to_owned(), 0o000));
        if place.is_dir() {
            forbidden.push((place.to_owned(), 0o500));
        }
    }
    for (place, mode) in forbidden {
        let usual = std::fs::metadata(&place).expect("look at it").permissions().mode();
        chmod(&place, mode);
        if mode == 0 {
            site.archive.fetch_fails(&names[0]);
        } else {
            site.archive.fetch(&names[0]).ok();
        }
        if mode == 0 && place.is_dir() {
            site.archive.fetch_fails(&site.segment(3).name());
            let refused = site.archive.push(&new).refused();
            assert!(refused.stderr.contains(root.to_str().expect("a path")), "{refused}");
        }
        chmod(&place, usual);
    }
    site.archive.push(&new).ok();
    site.holds(&names[0], &site.segment(2).bytes());
}

#[test]
fn an_object_that_may_not_be_written_is_a_refusal() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let directory = site.archive.object(&names[0]).parent().expect("a directory").to_owned();
    chmod(&directory, 0o500);
    site.push(&site.segment(3)).refused();
    chmod(&directory, 0o700);
    assert_no_trace(&site.archive, &site.segment(3).name());
    site.push(&site.segment(3)).ok();
}

#[test]
fn a_repository_that_is_not_mounted_is_neither_filled_nor_empty() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let file = site.data.write(&site.segment(3));
    let root = site.archive.root().to_owned();
    let away = root.with_extension("away");
    std::fs::rename(&root, &away).expect("move the repository away");
    let check = |what: &str| {
        let before = repo::Snapshot::of(&root);
        site.archive.push(&file).refused().says(root.to_str().expect("a path"));
        for name in [&names[0], &site.segment(3).name(), "00000002.history"] {
            site.archive.fetch_fails(name);
        }
        assert_eq!(repo::Snapshot::of(&root), before, "{what}");
    };
    check("no directory");
    std::fs::create_dir(&root).expect("make a mount point");
    account::give(&root);
    check("an empty directory");
    std::fs::create_dir(root.join("lost+found")).expect("make a directory");
    check("another file system");
    std::fs::remove_dir(root.join("lost+found")).expect("remove a directory");
    std::fs::remove_dir(&root).expect("remove the mount point");
    std::fs::rename(&away, &root).expect("bring the repository back");
    site.archive.push(&file).ok();
    site.holds(&names[0], &site.segment(2).bytes());
}

#[test]
fn a_repository_without_its_identity_is_an_outage() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let file = site.data.write(&site.segment(3));
    let identity = site.archive.identity();
    let bytes = read(&identity);
    let wrongs: [Option<Vec<u8>>; 4] =
        [None, Some(Vec::new()), Some(bytes[..bytes.len() / 2].to_vec()), Some(b"{}".to_vec())];
    for wrong in wrongs {
        std::fs::remove_file(&identity).expect("remove the identity");
        if let Some(wrong) = &wrong {
            scratch::write(&identity, wrong);
        }
        let before = site.archive.snapshot();
        site.archive.push(&file).refused();
        for name in [&names[0], &site.segment(3).name(), "00000002.history"] {
            site.archive.fetch_fails(name);
        }
        assert_eq!(site.archive.snapshot(), before);
        scratch::write(&identity, &bytes);
    }
    site.archive.push(&file).ok();
}

#[test]
fn without_registration_nothing_is_stored_and_nothing_is_absent() {
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
    let archive = Archive::build(&data.path).unregistered();
    let before = archive.snapshot();
    archive.push(data.write(&data.segment(2))).refused().says("walkeep init");
    archive.fetch_fails("000000010000000000000002");
    archive.fetch_fails("00000002.history");
    assert_eq!(archive.snapshot(), before);
}

#[test]
fn too_few_descriptors_or_too_small_files_are_failures_that_the_server_counts() {
    let site = Site::new();
    let segment = site.segment(2).noise();
    let file = site.data.write(&segment);
    // As in a server, which ignores the signal that a file beyond the limit sends, and hands on no
    // descriptors.
    let limited = |run: Run, limit: &str| {
        run.under([
            "sh",
            "-c",
            r#"trap "" XFSZ; exec 3>&- 4>&- 5>&- 6>&-; exec "$@""#,
            "sh",
            "prlimit",
            limit,
        ])
    };
    for limit in ["--nofile=4", "--fsize=65536"] {
        let outcome = limited(site.archive.pushing(&file), limit).go();
        assert!(matches!(outcome.code(), Some(1..=125)), "{limit}\n{outcome}");
        assert_no_trace(&site.archive, &segment.name());
    }
    site.archive.push(&file).ok();
    for limit in ["--nofile=4", "--fsize=65536"] {
        let fetch = site.archive.fetching(&segment.name(), "pg_wal/RECOVERYXLOG");
        limited(fetch, limit).go().is(200);
        assert!(!site.archive.destination().exists());
    }
    site.holds(&segment.name(), &segment.bytes());
}

#[test]
fn nothing_is_readable_by_everybody_whatever_the_umask() {
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
    let archive = Archive::build(&data.path).unregistered();
    let open = |run: Run| run.under(["sh", "-c", r#"umask 0; exec "$@""#, "sh"]);
    open(archive.run("walkeep").arg("init")).go().ok();
    for file in [data.write(&data.segment(2)), data.write_other("00000002.history", "1\t0/3000000\tx\n")] {
        open(archive.pushing(file)).go().ok();
    }
    open(archive.fetching(&data.segment(2).name(), "pg_wal/RECOVERYXLOG")).go().ok();
    for place in [archive.scratch().path(), &data.path] {
        let find = Run::new("find").arg(place).args(["-mindepth", "1", "-perm", "/007"]).go().ok();
        assert_eq!(find.stdout, "");
    }
}
