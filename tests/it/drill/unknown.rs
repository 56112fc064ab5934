//! What says nothing about the backup: status 1, and never green.

use super::*;

#[test]
fn no_server_programs() {
    let story = Story::get();
    let mut archive = story.archive();
    archive.set_tail("[drill]\nbin = \"/nonexistent\"\n");
    let report = drill(&archive, &[], 1);
    assert_eq!(report["outcome"], "unknown");
    assert!(
        text(&report, "error").contains("no server of PostgreSQL 15 found in /nonexistent"),
        "{report:#}"
    );
}

#[test]
fn no_backup() {
    let live = Live::new();
    let report = drill(&live.archive, &[], 1);
    assert_eq!(report["outcome"], "unknown");
}

#[test]
fn no_space() {
    let Some(tmpfs) = Tmpfs::mount("20m") else {
        return;
    };
    let story = Story::get();
    let archive = story.archive();
    let outcome = drilling(&archive, tmpfs.path(), &[]).go().is(1).told();
    assert!(outcome.stderr.contains("bytes free"), "{outcome}");
    assert_empty(tmpfs.path());
}

#[test]
fn no_time() {
    let story = Story::get();
    let report = drill(&story.archive(), &["--timeout", "1ms"], 1);
    assert_eq!(report["outcome"], "unknown");
    assert!(text(&report, "error").contains("the drill timed out"), "{report:#}");
}

#[test]
fn a_repository_that_is_out_of_reach() {
    let story = Story::get();
    let archive = story.archive();
    std::fs::rename(archive.root(), archive.root().with_extension("away")).expect("move it away");
    let scratch = Scratch::new();
    let outcome = drilling(&archive, scratch.path(), &[]).go().is(1).told();
    assert!(outcome.stderr.contains("hint:"), "{outcome}");
}

#[test]
fn a_scratch_directory_in_the_data_directory_or_the_repository_is_refused() {
    let story = Story::get();
    let archive = story.archive();
    for place in [story.server.data(), archive.root()] {
        drilling(&archive, &place.join("drills"), &[]).go().is(2).told().says("lies in");
    }
}

#[test]
fn a_log_of_the_server_that_cannot_be_read() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let run = drilling(&archive, &directory, &[]);
    let child = run.spawn();
    let log = || repo::files(&directory).into_iter().find(|path| path.ends_with("server.log"));
    until("the server has a log", || log().is_some());
    // It can still be written to.
    Run::new("chmod").arg("200").arg(log().expect("the log")).go().ok();
    let outcome = run.finish(child).is(1).told();
    assert_eq!(json(&outcome)["outcome"], "unknown", "{outcome}");
    assert!(outcome.stderr.contains("server.log"), "{outcome}");
    assert_empty(&directory);
}

#[test]
fn a_locale_that_the_host_lacks_leaves_only_its_database_unread() {
    let live = Live::new();
    live.server.psql("create table t as select generate_series(1, 1000) i");
    live.server.psql("create database away");
    live.backup();
    live.server.psql("update pg_database set datcollate = 'de_DE.missing' where datname = 'away'");
    live.flush_wal();
    let report = drill(&live.archive, &[], 1);
    assert_eq!(report["outcome"], "unknown");
    let (ok, detail) = check(&report, "read");
    assert!(ok.is_none() && detail.contains("database away"), "{report:#}");
    assert_eq!(check(&report, "amcheck").0, Some(true), "{report:#}");
    assert!(text(&report, "error").contains("locale"), "{report:#}");
}

#[test]
fn an_assertion_that_is_no_sql() {
    let story = Story::get();
    let mut archive = story.archive();
    archive.set_tail(&rows_are("17").replace("select count(*)", "selekt count(*)"));
    let report = drill(&archive, &[], 1);
    assert_eq!(check(&report, "assert rows").0, None, "{report:#}");
    assert_eq!(check(&report, "log").0, Some(true), "{report:#}");
}

#[test]
fn a_library_for_the_wal_that_the_host_lacks() {
    let story = Story::get();
    let mut archive = story.archive();
    archive.set_tail("[drill]\npreload = \"missing_library\"\n");
    let report = drill(&archive, &[], 1);
    assert_eq!(report["outcome"], "unknown");
    assert!(text(&report, "error").contains("missing_library"), "{report:#}");
}

/// A directory of PostgreSQL's programs, one of which meets these faults of strace.
fn faulty(scratch: &Scratch, name: &str, program: &str, fault: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let bin = scratch.mkdir(name);
    for entry in std::fs::read_dir(pg::bin()).expect("list").flatten() {
        if entry.file_name() != program {
            std::os::unix::fs::symlink(entry.path(), bin.join(entry.file_name())).expect("link");
        }
    }
    let script = scratch.write(
        format!("{name}/{program}"),
        format!(
            "#!/bin/sh\ncase $1 in --version) exec {p} $1;; esac\n\
             exec strace -D -f -qq -o {log} -e trace=fault -e signal=none -e inject={fault} {p} \"$@\"\n",
            p = pg::bin().join(program).display(),
            log = scratch.join(format!("{name}.log")).display(),
        )
        .replace("trace=fault", &format!("trace={}", fault.split(':').next().expect("calls"))),
    );
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("make it a program");
    bin
}

#[test]
fn a_disk_error_below_postgresql_refutes_nothing() {
    if Strace::new().is_none() {
        return;
    }
    let story = Story::get();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let mut hit = 0;
    for (number, (program, fault)) in [
        ("postgres", "pread64:error=EIO:when=2"),
        ("postgres", "pread64:error=EIO:when=40+"),
        ("postgres", "pwrite64:error=ENOSPC:when=3+"),
        ("postgres", "openat:error=EMFILE:when=60+"),
        ("postgres", "openat:error=EIO:when=150"),
        ("postgres", "read:error=EIO:when=12"),
        ("postgres", "fsync,fdatasync,sync_file_range:error=EIO"),
        ("postgres", "clone,clone3,fork,vfork:error=EAGAIN:when=2"),
        ("postgres", "mmap:error=ENOMEM:when=40"),
        ("pg_verifybackup", "read:error=EIO:when=30"),
        ("pg_verifybackup", "openat:error=EMFILE:when=40"),
        ("pg_verifybackup", "getdents64:error=EIO:when=5"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bin{number}");
        let mut archive = story.archive();
        let bin = faulty(&scratch, &name, program, fault);
        archive.set_tail(&format!("\n[drill]\nbin = {bin:?}\n"));
        let outcome = drilling(&archive, &directory, &[]).go();
        assert!(matches!(outcome.code(), Some(0 | 1)), "{program} {fault}\n{outcome}");
        let log = std::fs::read_to_string(scratch.join(format!("{name}.log"))).unwrap_or_default();
        hit += u32::from(log.contains("(INJECTED)"));
        assert_empty(&directory);
    }
    assert!(hit >= 8, "{hit} faults met their calls");
}
