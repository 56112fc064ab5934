//! The dry run refuses what the real run refuses, in the same words, and neither writes anything.

use super::*;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

/// What a restore into `to` is asked for, and which status it ends with.
struct Situation {
    name: &'static str,
    to: PathBuf,
    arguments: Vec<String>,
    status: i32,
    says: &'static str,
}

/// Lines of standard error from the error on.
fn error_of(outcome: &Outcome) -> String {
    let lines = outcome.stderr.lines().skip_while(|line| !line.contains("error:"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What is there, and when the directory changed last.
fn seen(directory: &Path) -> (Snapshot, i64, i64) {
    let meta = directory.metadata().expect("look");
    (Snapshot::of(directory), meta.mtime(), meta.mtime_nsec())
}

#[test]
fn the_dry_run_refuses_what_the_real_run_refuses_in_the_same_words() {
    let live = Live::new();
    let space = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace space location '{}'", space.display()));
    live.server.psql("create table t tablespace space as select 1 i");
    let id = live.backup_id();
    live.flush_wal();
    let other = Cluster::build().wal_segsize(1).create();

    let scratch = Scratch::new();
    let full = scratch.mkdir("full");
    scratch::write(&full.join("mine"), "mine");
    let file = scratch.write("file", "mine");
    let unwritable = scratch.mkdir("unwritable");
    std::fs::set_permissions(&unwritable, std::fs::Permissions::from_mode(0o500)).expect("a mode");
    symlink(scratch.join("loop"), scratch.join("loop")).expect("make a link");
    symlink(scratch.join("nothing"), scratch.join("dangling")).expect("make a link");
    let held = scratch.mkdir("held");
    scratch::write(&held.join("walkeep.restoring"), format!("{id}\n\n"));
    let lock = File::open(held.join("walkeep.restoring")).expect("open");
    lock.try_lock().expect("hold the lock");
    let unfinished = scratch.mkdir("unfinished");
    scratch::write(&unfinished.join("walkeep.restoring"), format!("{id}\nover what was there\n"));
    let drill = scratch.mkdir("drill");
    scratch::write(&drill.join("walkeep.drill"), "");

    let map = |to: &Path| vec!["--tablespace".to_owned(), format!("{}={}", space.display(), to.display())];
    let mapped = || map(&scratch.join("new"));
    let with = |option: &str| [mapped(), vec![option.to_owned()]].concat();
    let new = || scratch.join("data");
    let situation = |name, to: PathBuf, arguments, says| Situation { name, to, arguments, status: 1, says };
    let mut situations = vec![
        situation("another cluster", other.data().to_owned(), with("--delta"), "belongs to the cluster"),
        situation("not empty", full.clone(), mapped(), "is not empty"),
        situation("not a data directory", full.clone(), with("--delta"), "is not a data directory"),
        situation("a running server", live.server.data().to_owned(), vec!["--delta".into()], "running"),
        situation("a tablespace of the original", new(), vec![], "is a tablespace of the cluster"),
        situation("the same over", new(), vec!["--delta".into()], "is a tablespace of the cluster"),
        situation("a tablespace that is not empty", new(), map(&full), "is not empty"),
        situation("a tablespace that is a file", new(), map(&file), "is not a directory"),
        situation("an unwritable tablespace", new(), map(&unwritable.join("x")), "unwritable"),
        situation("an unwritable parent", unwritable.join("a/b"), mapped(), "unwritable"),
        situation("an unwritable directory", unwritable.clone(), mapped(), "unwritable"),
        situation("a file", file.clone(), mapped(), "is not a directory"),
        situation("below a file", file.join("x"), mapped(), "is not a directory"),
        situation("a loop of links", scratch.join("loop/x"), mapped(), "symbolic links"),
        situation("a dangling link", scratch.join("dangling"), mapped(), "leads nowhere"),
        situation("too long a name", scratch.join("x".repeat(300)), mapped(), "file name too long"),
        situation("in the repository", live.archive.root().join("x"), mapped(), "is a repository"),
        situation("in the cluster", live.server.data().join("x"), mapped(), "data directory of the cluster"),
        situation("in another cluster", other.data().join("x"), mapped(), "the data directory of a cluster"),
        situation("in a drill", drill.join("data"), mapped(), "scratch directory of a drill"),
        situation("an unfinished restore", unfinished.clone(), mapped(), "did not finish"),
    ];
    situations.push(Situation { status: 4, ..situation("a lock", held.clone(), mapped(), "holds the lock") });
    let tmpfs = Tmpfs::mount("8m");
    if let Some(tmpfs) = &tmpfs {
        let to = tmpfs.path().join("data");
        situations.push(situation("no room", to, mapped(), "bytes free"));
    }
    let few = Tmpfs::mount("200m,nr_inodes=20");
    if let Some(few) = &few {
        situations.push(situation("no inodes", few.path().join("data"), mapped(), "has room for"));
    }
    let read_only = Tmpfs::mount("200m");
    if let Some(read_only) = &read_only {
        read_only.remount("ro");
        situations.push(situation("read-only", read_only.path().join("data"), mapped(), "read-only"));
    }
    let wrong = |situation: &Situation| agree(&live.archive, &scratch, situation).err();
    let mut failed: Vec<String> = situations.iter().filter_map(wrong).collect();

    // A server whose lock file is gone.
    let (pid, away) = (live.server.data().join("postmaster.pid"), scratch.join("postmaster.pid"));
    std::fs::rename(&pid, &away).expect("move it away");
    let to = live.server.data().to_owned();
    failed.extend(wrong(&situation("no lock file", to, vec!["--delta".into()], "processes work there")));
    std::fs::rename(&away, &pid).expect("move it back");

    // Another restore of this cluster.
    let folder = File::open(live.archive.root().join("main")).expect("open");
    folder.try_lock().expect("hold the lock");
    let situation =
        Situation { status: 4, ..situation("another restore", new(), mapped(), "holds the lock") };
    failed.extend(wrong(&situation));
    drop(folder);

    // A pack that is gone.
    let pack = live::parts_of(live.archive.root(), &id, "pack").remove(0);
    repo::damage(&pack, repo::Damage::Remove);
    let situation = Situation { status: 1, name: "no pack", to: new(), arguments: mapped(), says: "pack" };
    failed.extend(wrong(&situation));
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(live.server.psql("select count(*) from t"), "1");
}

/// Both runs end with the status and the words, and change nothing; else what is different.
fn agree(archive: &Archive, scratch: &Scratch, situation: &Situation) -> Result<(), String> {
    let Situation { name, to, arguments, status, says } = situation;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let before = (seen(scratch.path()), archive.snapshot());
    let run = restoring(archive, to, &arguments);
    let dry = run.clone().arg("--dry-run").go();
    let after_dry = (seen(scratch.path()), archive.snapshot());
    let real = run.go();
    let wrong = if after_dry != before {
        "the dry run changed something"
    } else if seen(scratch.path()) != before.0 {
        "the real run changed something"
    } else if (dry.code(), real.code()) != (Some(*status), Some(*status)) {
        "not the status"
    } else if error_of(&dry) != error_of(&real) {
        "not the same words"
    } else if !real.stderr.contains(says) {
        "not the expected words"
    } else {
        return Ok(());
    };
    Err(format!("{name}: {wrong}: {status}, {says:?}\n{dry}\n{real}"))
}

#[test]
fn a_dry_run_changes_nothing_at_all() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let empty = scratch.mkdir("empty");
    for to in [empty.clone(), scratch.join("new/below")] {
        let before = (seen(scratch.path()), seen(&empty), archive.snapshot());
        restoring(&archive, &to, &["--dry-run"]).go().ok();
        assert!((seen(scratch.path()), seen(&empty), archive.snapshot()) == before, "{}", to.display());
    }
}

#[test]
fn a_dry_run_is_not_in_the_way_of_a_real_run() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let folder = File::open(archive.root().join("main")).expect("open");
    let Some(strace) = Strace::new() else {
        return;
    };
    // The dry run is held up where it looks at the space.
    let strace = strace.trace("statfs").inject("statfs:delay_enter=300000");
    let to = scratch.mkdir("data");
    let run = restoring(&archive, &to, &["--dry-run"]);
    let child = strace.spawn(&run);
    strace.await_call();
    folder.try_lock().expect("the folder of the cluster is not locked");
    run.finish(child).ok();
}

#[test]
fn root_is_refused_when_the_server_could_not_read_the_archive() {
    if !account::account().root {
        skipped("root", "only root restores for another user");
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let to = scratch.join("data");
    let run = |dry_run: bool| {
        let mut command = std::process::Command::new(run::program("walkeep"));
        command.arg("--config").arg(archive.config()).arg("restore").arg("--to").arg(&to);
        command.args(dry_run.then_some("--dry-run"));
        let output = command.output().expect("start walkeep");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(true).0, Some(0));
    std::os::unix::fs::chown(archive.config(), Some(0), Some(0)).expect("give it to root");
    std::fs::set_permissions(archive.config(), std::fs::Permissions::from_mode(0o600)).expect("a mode");
    for dry_run in [true, false] {
        let (status, text) = run(dry_run);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains("could not read the archive"), "{text}");
        assert!(!to.exists());
    }
}
